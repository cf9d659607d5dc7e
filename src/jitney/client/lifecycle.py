"""Marks on functions and methods: `@method`, `@enter`, `@exit`, `@concurrent`, `@batched`, and `parameter`.

A mark is an attribute on the user's function or class, which stays what it is: the container finds hooks and methods
by these attributes without importing the SDK (`runner.load`). Only a method is wrapped, so that `model.method.remote`
exists; the wrapper gives the function back by `get_raw_f()`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from jitney.client import options
from jitney.errors import InvalidError

if TYPE_CHECKING:
    from typing import Self

    from jitney.client.function import Function

P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")

CONCURRENCY = "__jitney_concurrency__"
BATCHING = "__jitney_batching__"
ENTER = "__jitney_enter__"
SNAP = "__jitney_snap__"  # beside ENTER
EXIT = "__jitney_exit__"
METHOD = "__jitney_method__"
CLS = "__jitney_cls__"  # on a user's class: what `@app.cls` made of it


class Method(Generic[P, R, G]):
    """A method that can be called remotely. On an instance it is a `Function`."""

    def __init__(self, raw: Callable[..., Any], is_generator: bool | None = None) -> None:
        self.raw = raw
        self.is_generator = is_generator
        self.__doc__ = raw.__doc__
        self.__name__ = raw.__name__
        setattr(self, METHOD, True)

    def get_raw_f(self) -> Callable[..., Any]:
        """The function as written, with `self` first."""
        return self.raw

    @overload
    def __get__(self, obj: None, owner: Any) -> Self: ...
    @overload
    def __get__(self, obj: object, owner: Any) -> Function[P, R, G]: ...
    def __get__(self, obj: object | None, owner: Any) -> Self | Function[P, R, G]:
        if obj is None:
            return self
        cls = getattr(owner, CLS, None)
        if cls is None:
            raise InvalidError(
                f"{owner.__name__}.{self.__name__} is a @jitney.method(), and {owner.__name__} is not an @app.cls()"
            )
        return cls._method_of(obj, self)  # type: ignore[no-any-return]


class _MethodDecorator:
    def __init__(self, is_generator: bool | None) -> None:
        self._is_generator = is_generator

    @overload
    def __call__(self, f: Callable[Concatenate[Any, P], AsyncIterator[R]]) -> Method[P, R, AsyncIterator[R]]: ...
    @overload
    def __call__(
        self, f: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]
    ) -> Method[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, P], Iterator[R]]) -> Method[P, R, Iterator[R]]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, P], R]) -> Method[P, R, R]: ...
    def __call__(self, f: Any) -> Method[..., Any, Any]:
        if isinstance(f, Method):
            return Method(f.raw, self._is_generator)
        if not inspect.isfunction(f):
            raise InvalidError(f"@jitney.method() goes on a method, not on {f!r}", hint="write it with parentheses")
        return Method(f, self._is_generator)


def method(*, is_generator: bool | None = None) -> _MethodDecorator:
    """Let a method of an `@app.cls()` class be called remotely.

    Args:
        is_generator: whether it yields; found out by itself unless a decorator hides it.
    """
    return _MethodDecorator(is_generator)


def enter(*, snap: bool = False) -> Callable[[F], F]:
    """Run a method once in each container, before it takes inputs: to load models, for example.

    Args:
        snap: run it once, in the process that containers are forked from, so that each of them begins with what it
            made. Needs `enable_memory_snapshot=True` on the class; without it, it runs in each container, before
            the other `enter` methods. What cannot be forked (threads, connections, CUDA) belongs into a method
            without `snap`.
    """
    return _hook(ENTER, "enter", *([SNAP] if snap else []))


def exit() -> Callable[[F], F]:  # noqa: A001 (the vocabulary's word)
    """Run a method once in each container, after its last input. It has 30 seconds."""
    return _hook(EXIT, "exit")


def _hook(mark: str, name: str, *more: str) -> Callable[[F], F]:
    def decorate(f: F) -> F:
        if not isinstance(cast(object, f), FunctionType):
            raise InvalidError(f"@jitney.{name}() goes on a method, not on {f!r}", hint="write it with parentheses")
        for one in (mark, *more):
            setattr(f, one, True)
        return f

    return decorate


def concurrent(*, max_inputs: int, target_inputs: int | None = None) -> Callable[[T], T]:
    """Let one container work on several inputs at a time: on threads, or on one event loop if it is `async`.

    Goes below `@app.function()`, or below `@app.cls()` for all methods of the class.

    Args:
        max_inputs: at most so many inputs, up to 1,000.
        target_inputs: what the autoscaler aims at; default: `max_inputs`.

    Raises:
        InvalidError: out of range, or not on a function or class.
    """
    found = options.concurrency(max_inputs, target_inputs)

    def decorate(what: T) -> T:
        if not (inspect.isfunction(what) or inspect.isclass(what)):
            raise InvalidError(
                f"@jitney.concurrent goes on a function or class, not on {what!r}",
                hint="put it below @app.function() or @app.cls(); on a class it is for all methods",
            )
        setattr(what, CONCURRENCY, found)
        return what

    return decorate


class _BatchedDecorator:
    def __init__(self, max_batch_size: int, wait_ms: int) -> None:
        self._found = options.batching(max_batch_size, wait_ms)

    @overload
    def __call__(
        self, f: Callable[[list[A]], Coroutine[Any, Any, list[R]]]
    ) -> Callable[[A], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, f: Callable[[list[A]], list[R]]) -> Callable[[A], R]: ...
    @overload
    def __call__(
        self, f: Callable[[list[A], list[B]], Coroutine[Any, Any, list[R]]]
    ) -> Callable[[A, B], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, f: Callable[[list[A], list[B]], list[R]]) -> Callable[[A, B], R]: ...
    @overload
    def __call__(
        self, f: Callable[[S, list[A]], Coroutine[Any, Any, list[R]]]
    ) -> Method[[A], R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, f: Callable[[S, list[A]], list[R]]) -> Method[[A], R, R]: ...
    @overload
    def __call__(self, f: Callable[..., Any]) -> Any: ...
    def __call__(self, f: Any) -> Any:
        raw = f.raw if isinstance(f, Method) else f
        if not inspect.isfunction(raw):
            raise InvalidError(f"@jitney.batched goes on a function or method, not on {f!r}")
        setattr(raw, BATCHING, self._found)
        return f


def batched(*, max_batch_size: int, wait_ms: int) -> _BatchedDecorator:
    """Hand inputs over in lists: the function takes lists and gives a list, its callers give and get single values.

    Goes below `@app.function()`, or on a method of an `@app.cls()` class.

    Args:
        max_batch_size: inputs in one list, up to 1,000.
        wait_ms: how long the first input of a list waits for more, in ms, up to 600,000.

    Raises:
        InvalidError: out of range.
    """
    return _BatchedDecorator(max_batch_size, wait_ms)


_MISSING: Any = object()


class Parameter:
    """A value that instances of a class are made with. See `parameter`."""

    def __init__(self, default: Any, init: bool) -> None:
        self.default = None if default is _MISSING else default
        self.has_default = default is not _MISSING
        self.init = init


def parameter(*, default: Any = _MISSING, init: bool = True) -> Any:
    """A parameter of an `@app.cls()` class: each set of values has containers of its own.

    The annotation says the type: `str`, `int`, `bool` or `bytes`. All values of an instance may be 16 KiB together.

    Args:
        default: what it is when it is not given; without it, it must be.
        init: False keeps it out of the constructor: a plain attribute with a default.
    """
    if not init and default is _MISSING:
        raise InvalidError("a parameter(init=False) needs a default", hint="give it one, or leave init out")
    return Parameter(default, init)
