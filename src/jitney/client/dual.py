"""Two colours from one implementation: write an async body once, get `.f()` for threads and `.f.aio()` for loops.

Every body runs on the portal. Four descriptors, by what crosses the thread border:

    dual            a body gives a value
    dual_iter       an async generator gives items
    dual_lazy       a body gives a function, which the *caller's* thread calls to get the value
    dual_iter_lazy  an async generator gives functions, each of which gives some items on the caller's thread

The lazy forms exist for values of users. Unpickling runs user code and may import modules: done on the portal it would
stall every other call, and deadlock when the caller holds the import lock of the same module. Likewise a body may be a
plain `def` that returns a coroutine: what stands before its `return` runs on the caller's thread, so arguments are
pickled there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from jitney.client.portal import PORTAL

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


class BoundDual(Generic[P, R]):
    """A method in two colours: call it, or await its `.aio`."""

    def __init__(self, call: Callable[P, Coroutine[Any, Any, R]], doc: str | None = None) -> None:
        self._call = call
        self.__doc__ = doc

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return PORTAL.call(self._call(*args, **kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for async code."""
        return await PORTAL.acall(self._call(*args, **kwargs))


class BoundDualIter(Generic[P, R]):
    """A method that gives items, in two colours: iterate over it, or `async for` over its `.aio`."""

    def __init__(self, call: Callable[P, AsyncGenerator[R, None]], doc: str | None = None) -> None:
        self._call = call
        self.__doc__ = doc

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        return PORTAL.iterate(self._call(*args, **kwargs))

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]:
        """The same for async code."""
        return PORTAL.aiterate(self._call(*args, **kwargs))


class BoundLazy(Generic[P, R]):
    """As `BoundDual`, with the last step on the caller's side."""

    def __init__(self, call: Callable[P, Coroutine[Any, Any, Callable[[], R]]], doc: str | None = None) -> None:
        self._call = call
        self.__doc__ = doc

    def body(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Callable[[], R]]:
        """Its first part alone, for other bodies."""
        return self._call(*args, **kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return PORTAL.call(self._call(*args, **kwargs))()

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for async code."""
        return (await PORTAL.acall(self._call(*args, **kwargs)))()


class BoundLazyIter(Generic[P, R]):
    """As `BoundDualIter`, with the last step of each batch on the caller's side."""

    def __init__(
        self, call: Callable[P, AsyncGenerator[Callable[[], Iterable[R]], None]], doc: str | None = None
    ) -> None:
        self._call = call
        self.__doc__ = doc

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        return _spread(PORTAL.iterate(self._call(*args, **kwargs)))

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]:
        """The same for async code."""
        return _aspread(PORTAL.aiterate(self._call(*args, **kwargs)))


def _spread(batches: Generator[Callable[[], Iterable[R]], None, None]) -> Generator[R, None, None]:
    try:
        for batch in batches:
            yield from batch()
    finally:
        batches.close()


async def _aspread(batches: AsyncGenerator[Callable[[], Iterable[R]], None]) -> AsyncGenerator[R, None]:
    try:
        async for batch in batches:
            for item in batch():
                yield item
    finally:
        await batches.aclose()


class dual(Generic[S, P, R]):  # noqa: N801 (a decorator)
    """Descriptor: an async method callable from both colours."""

    def __init__(self, func: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    @overload
    def __get__(self, obj: None, owner: type[S]) -> dual[S, P, R]: ...
    @overload
    def __get__(self, obj: S, owner: type[S]) -> BoundDual[P, R]: ...
    def __get__(self, obj: S | None, owner: type[S]) -> dual[S, P, R] | BoundDual[P, R]:
        if obj is None:
            return self
        return BoundDual(_bind(self._func, obj), self.__doc__)


class dual_iter(Generic[S, P, R]):  # noqa: N801 (a decorator)
    """Descriptor: an async generator method that both colours can iterate over."""

    def __init__(self, func: Callable[Concatenate[S, P], AsyncGenerator[R, None]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    @overload
    def __get__(self, obj: None, owner: type[S]) -> dual_iter[S, P, R]: ...
    @overload
    def __get__(self, obj: S, owner: type[S]) -> BoundDualIter[P, R]: ...
    def __get__(self, obj: S | None, owner: type[S]) -> dual_iter[S, P, R] | BoundDualIter[P, R]:
        if obj is None:
            return self
        return BoundDualIter(_bind(self._func, obj), self.__doc__)


class dual_lazy(Generic[S, P, R]):  # noqa: N801 (a decorator)
    """Descriptor: as `dual`, for a body that gives a function to be called by the caller's thread."""

    def __init__(self, func: Callable[Concatenate[S, P], Coroutine[Any, Any, Callable[[], R]]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    @overload
    def __get__(self, obj: None, owner: type[S]) -> dual_lazy[S, P, R]: ...
    @overload
    def __get__(self, obj: S, owner: type[S]) -> BoundLazy[P, R]: ...
    def __get__(self, obj: S | None, owner: type[S]) -> dual_lazy[S, P, R] | BoundLazy[P, R]:
        if obj is None:
            return self
        return BoundLazy(_bind(self._func, obj), self.__doc__)


class dual_iter_lazy(Generic[S, P, R]):  # noqa: N801 (a decorator)
    """Descriptor: as `dual_iter`, for a source of functions that each give items on the caller's thread."""

    def __init__(self, func: Callable[Concatenate[S, P], AsyncGenerator[Callable[[], Iterable[R]], None]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    @overload
    def __get__(self, obj: None, owner: type[S]) -> dual_iter_lazy[S, P, R]: ...
    @overload
    def __get__(self, obj: S, owner: type[S]) -> BoundLazyIter[P, R]: ...
    def __get__(self, obj: S | None, owner: type[S]) -> dual_iter_lazy[S, P, R] | BoundLazyIter[P, R]:
        if obj is None:
            return self
        return BoundLazyIter(_bind(self._func, obj), self.__doc__)


def _bind(func: Callable[Concatenate[S, P], R], obj: S) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return func(obj, *args, **kwargs)

    return call
