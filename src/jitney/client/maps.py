"""`f.map`, `f.starmap`, `f.for_each` and `f.spawn_map`: from iterators of the user to results, in both colours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from jitney.client import calls, results
from jitney.client.portal import PORTAL
from jitney.errors import InvalidError, UnsupportedError
from jitney.values.calls import Output

if TYPE_CHECKING:
    import asyncio

    from jitney.client.calls import FunctionCall
    from jitney.client.feed import Feed
    from jitney.client.function import Function
    from jitney.client.mapper import Consumed
    from jitney.client.session import Session

R = TypeVar("R")

NO_KWARGS: Mapping[str, Any] = {}
MakeFeed = Callable[["asyncio.Event"], "Feed"]


class _Mapping(Generic[R]):
    """What the four have in common."""

    __slots__ = ("_function",)

    def __init__(self, function: Function[..., R, Any]) -> None:
        self._function = function

    def _sync_feed(self, rows: Iterator[tuple[Any, ...]], kwargs: Mapping[str, Any], call_id: str) -> MakeFeed:
        """For iterators that are pulled on a thread of their own."""
        self._function._check_unary()
        payloads = self._encoded(rows, dict(kwargs), call_id)

        def make(changed: asyncio.Event) -> Feed:
            from jitney.client import feed

            made = feed.Feed(PORTAL.loop(), changed)
            feed.start_thread(made, payloads)
            return made

        return make

    def _encoded(self, rows: Iterator[tuple[Any, ...]], kwargs: dict[str, Any], call_id: str) -> Iterator[bytes]:
        session, encoder = self._function._session(), self._function._encoder
        if not call_id:
            for args in rows:
                yield encoder.connected(session, self._function._scope(), args, kwargs)
            return
        for index, args in enumerate(rows):
            yield encoder.durable(session, args, kwargs, f"{call_id}.{index}.in")

    def _async_feed(
        self, rows: AsyncIterator[tuple[Any, ...]], kwargs: Mapping[str, Any], call_id: str, tasks: list[Any]
    ) -> MakeFeed:
        """For async iterators, which are pulled by a task of the caller's loop."""
        self._function._check_unary()
        import asyncio

        from jitney.client import feed

        here = asyncio.get_running_loop()
        payloads = self._aencoded(rows, dict(kwargs), call_id)

        def begin(made: Feed) -> None:
            tasks.append(here.create_task(feed.produce(made, payloads)))

        def make(changed: asyncio.Event) -> Feed:
            made = feed.Feed(PORTAL.loop(), changed)
            here.call_soon_threadsafe(begin, made)
            return made

        return make

    async def _aencoded(
        self, rows: AsyncIterator[tuple[Any, ...]], kwargs: dict[str, Any], call_id: str
    ) -> AsyncGenerator[bytes, None]:
        session, encoder, index = self._function._session(), self._function._encoder, 0
        async for args in rows:
            if call_id:
                yield encoder.durable(session, args, kwargs, f"{call_id}.{index}.in")
            else:
                yield encoder.connected(session, self._function._scope(), args, kwargs)
            index += 1

    def _feed_of(
        self, iterators: tuple[Any, ...], kwargs: Mapping[str, Any], call_id: str, tasks: list[Any]
    ) -> MakeFeed:
        """For `.aio`: iterators of either kind."""
        if any(isinstance(iterator, AsyncIterator) or hasattr(iterator, "__aiter__") for iterator in iterators):
            return self._async_feed(_azip(iterators), kwargs, call_id, tasks)
        return self._sync_feed(_zip(iterators), kwargs, call_id)

    # ------------------------------------------------------------------------------------------- connected maps

    def _results(self, make: MakeFeed, ordered: bool, return_exceptions: bool) -> Generator[Any, None, None]:
        from jitney.client.mapper import Consumed

        consumed = Consumed()
        session = self._function._session()
        batches = PORTAL.iterate(self._batches(make, consumed, ordered))
        try:
            for batch in batches:
                yield from _decoded(session, batch, return_exceptions)
                consumed.add(len(batch))
        finally:
            batches.close()

    async def _aresults(
        self, make: MakeFeed, ordered: bool, return_exceptions: bool, tasks: list[Any]
    ) -> AsyncGenerator[Any, None]:
        from jitney.client.mapper import Consumed

        consumed = Consumed()
        session = self._function._session()
        batches = PORTAL.aiterate(self._batches(make, consumed, ordered))
        try:
            async for batch in batches:
                for value in _decoded(session, batch, return_exceptions):
                    yield value
                consumed.add(len(batch))
        finally:
            await batches.aclose()
            for task in tasks:
                task.cancel()

    async def _batches(self, make: MakeFeed, consumed: Consumed, ordered: bool) -> AsyncGenerator[list[Output], None]:
        from jitney.client.function import new_call_id
        from jitney.client.mapper import run

        function = self._function
        target = await function._handle.find_anew()
        source = run(target, function._method, new_call_id(), make, consumed, ordered)
        try:
            async for batch in source:
                yield batch
        finally:
            await source.aclose()


def _decoded(session: Session, batch: list[Output], return_exceptions: bool) -> Iterator[Any]:
    for output in batch:
        if not return_exceptions:
            yield results.value_of(session, output)
            continue
        try:
            value = results.value_of(session, output)
        except Exception as error:
            value = error
        yield value


def _zip(iterators: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if not iterators:
        raise InvalidError("map needs at least one iterator of inputs")
    for iterator in iterators:
        if hasattr(iterator, "__aiter__"):
            raise InvalidError("an async iterator needs the async form", hint="use `async for ... in f.map.aio(...)`")
    return zip(*iterators, strict=False)  # the shortest one ends the map


async def _azip(iterators: tuple[Any, ...]) -> AsyncGenerator[tuple[Any, ...], None]:
    sources = [aiter(one) if hasattr(one, "__aiter__") else _Slow(iter(one)) for one in iterators]
    while True:
        row = []
        for source in sources:
            try:
                row.append(await anext(source))
            except StopAsyncIteration:
                return
        yield tuple(row)


class _Slow:
    """A plain iterator among async ones."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _Slow:
        return self

    async def __anext__(self) -> Any:
        for item in self._iterator:
            return item
        raise StopAsyncIteration


async def _rows(iterator: Any) -> AsyncGenerator[tuple[Any, ...], None]:
    async for item in iterator:
        yield tuple(item)


def _check_wrap(wrap_returned_exceptions: bool) -> None:
    if wrap_returned_exceptions:
        raise UnsupportedError(
            "map(wrap_returned_exceptions=True) is not supported", hint="exceptions are returned as they were raised"
        )


class Map(_Mapping[R]):
    """`f.map(...)`: run a function for each input, on as many containers as that needs.

    Several iterators give one argument each, and the shortest ends the map. Iterators are pulled as results come, at
    most 1,000 inputs ahead: they may be endless.
    """

    @overload
    def __call__(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = ...,
        order_outputs: bool = ...,
        return_exceptions: Literal[False] = ...,
        wrap_returned_exceptions: bool = ...,
    ) -> Generator[R, None, None]: ...
    @overload
    def __call__(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = ...,
        order_outputs: bool = ...,
        return_exceptions: bool,
        wrap_returned_exceptions: bool = ...,
    ) -> Generator[R | Exception, None, None]: ...
    def __call__(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = NO_KWARGS,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = False,
    ) -> Generator[Any, None, None]:
        """Results as they come.

        Args:
            kwargs: keyword arguments that all inputs get.
            order_outputs: results in the order of the inputs; False gives them as they come.
            return_exceptions: give what an input raised as its result, instead of raising it and stopping.
        """
        _check_wrap(wrap_returned_exceptions)
        make = self._sync_feed(_zip(input_iterators), kwargs, "")
        return self._results(make, order_outputs, return_exceptions)

    @overload
    def aio(
        self,
        *input_iterators: Iterable[Any] | AsyncIterator[Any],
        kwargs: Mapping[str, Any] = ...,
        order_outputs: bool = ...,
        return_exceptions: Literal[False] = ...,
        wrap_returned_exceptions: bool = ...,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def aio(
        self,
        *input_iterators: Iterable[Any] | AsyncIterator[Any],
        kwargs: Mapping[str, Any] = ...,
        order_outputs: bool = ...,
        return_exceptions: bool,
        wrap_returned_exceptions: bool = ...,
    ) -> AsyncGenerator[R | Exception, None]: ...
    def aio(
        self,
        *input_iterators: Iterable[Any] | AsyncIterator[Any],
        kwargs: Mapping[str, Any] = NO_KWARGS,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """The same for async code, over iterators of either kind."""
        _check_wrap(wrap_returned_exceptions)
        tasks: list[Any] = []
        make = self._feed_of(input_iterators, kwargs, "", tasks)
        return self._aresults(make, order_outputs, return_exceptions, tasks)


class Starmap(_Mapping[R]):
    """`f.starmap(...)`: as `map`, over an iterator of tuples of arguments."""

    def __call__(
        self,
        input_iterator: Iterable[Iterable[Any]],
        *,
        kwargs: Mapping[str, Any] = NO_KWARGS,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = False,
    ) -> Generator[R, None, None]:
        """Results as they come; see `map`."""
        _check_wrap(wrap_returned_exceptions)
        make = self._sync_feed(map(tuple, input_iterator), kwargs, "")
        return self._results(make, order_outputs, return_exceptions)

    def aio(
        self,
        input_iterator: Iterable[Iterable[Any]] | AsyncIterator[Iterable[Any]],
        *,
        kwargs: Mapping[str, Any] = NO_KWARGS,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = False,
    ) -> AsyncGenerator[R, None]:
        """The same for async code."""
        _check_wrap(wrap_returned_exceptions)
        tasks: list[Any] = []
        if isinstance(input_iterator, Iterable):
            make = self._sync_feed(map(tuple, input_iterator), kwargs, "")
        else:
            make = self._async_feed(_rows(input_iterator), kwargs, "", tasks)
        return self._aresults(make, order_outputs, return_exceptions, tasks)


class ForEach(_Mapping[Any]):
    """`f.for_each(...)`: as `map`, for the effect: waits for all inputs and gives nothing."""

    def __call__(
        self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = NO_KWARGS, ignore_exceptions: bool = False
    ) -> None:
        """Return when all inputs are done.

        Args:
            ignore_exceptions: go on after an input that raised.
        """
        make = self._sync_feed(_zip(input_iterators), kwargs, "")
        for _ in self._results(make, False, ignore_exceptions):
            pass

    async def aio(
        self,
        *input_iterators: Iterable[Any] | AsyncIterator[Any],
        kwargs: Mapping[str, Any] = NO_KWARGS,
        ignore_exceptions: bool = False,
    ) -> None:
        """The same for async code."""
        tasks: list[Any] = []
        make = self._feed_of(input_iterators, kwargs, "", tasks)
        async for _ in self._aresults(make, False, ignore_exceptions, tasks):
            pass


class SpawnMap(_Mapping[R]):
    """`f.spawn_map(...)`: have all inputs recorded as one durable call, and do not wait for results."""

    def __call__(self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = NO_KWARGS) -> FunctionCall[R]:
        """The call, when the last input is on the server's disk. `.iter()` and `.get(index=)` give its results."""
        from jitney.client.function import new_call_id

        call_id, function = new_call_id(), self._function
        make = self._sync_feed(_zip(input_iterators), kwargs, call_id)
        return PORTAL.call(calls.spawn_map(function._handle, function._method, call_id, make))

    async def aio(
        self, *input_iterators: Iterable[Any] | AsyncIterator[Any], kwargs: Mapping[str, Any] = NO_KWARGS
    ) -> FunctionCall[R]:
        """The same for async code."""
        from jitney.client.function import new_call_id

        call_id, function, tasks = new_call_id(), self._function, list[Any]()
        make = self._feed_of(input_iterators, kwargs, call_id, tasks)
        try:
            return await PORTAL.acall(calls.spawn_map(function._handle, function._method, call_id, make))
        finally:
            for task in tasks:
                task.cancel()
