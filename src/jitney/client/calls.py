"""Durable calls: `spawn` and `spawn_map` give a `FunctionCall`, whose results any process can get for a week."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jitney.client import output as outputs
from jitney.client import results
from jitney.client import session as sessions
from jitney.client.dual import dual, dual_iter_lazy, dual_lazy
from jitney.client.portal import PORTAL
from jitney.errors import InvalidError, ResourceExhaustedError, TimeoutError
from jitney.values import ids
from jitney.values.calls import CallKind, Output
from jitney.wire.messages.calls import CallCancel, CallOutputs, CallRef, CallSpawn
from jitney.wire.methods import CALL_CANCEL, CALL_OUTPUTS, CALL_SHOW, CALL_SPAWN

if TYPE_CHECKING:
    import asyncio

    from jitney.client.feed import Feed
    from jitney.client.handle import Handle
    from jitney.client.session import Session

R = TypeVar("R")
T = TypeVar("T")

POLL_MS_MAX = 50_000  # one question for results waits at the server at most this long
OUTPUTS_AT_ONCE = 200
SPAWN_INPUTS_MAX = 512  # per request of a spawn_map, and so per fsync
SPAWN_BYTES_MAX = 8 * 1024 * 1024
SPAWN_RETRY_S_MAX = 5.0


class FunctionCall(Generic[R]):
    """A call that the server keeps: its results can be had later, and by others.

    >>> call = FunctionCall.from_id("fc-0000000000000000000000")
    >>> call.object_id
    'fc-0000000000000000000000'
    """

    def __init__(self, call_id: str, session: Session | None = None) -> None:
        self._call_id = ids.check(call_id, ids.CALL)
        self._session = session

    @staticmethod
    def from_id(function_call_id: str) -> FunctionCall[Any]:
        """The call with that id; nothing is asked yet.

        Raises:
            InvalidError: not an id of a call.
        """
        return FunctionCall(function_call_id)

    @property
    def object_id(self) -> str:
        """Its id: 'fc-…'."""
        return self._call_id

    def __repr__(self) -> str:
        return f"FunctionCall.from_id({self._call_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (FunctionCall, (self._call_id,))

    def _of(self) -> Session:
        return self._session or sessions.current()

    @dual_lazy
    async def get(self, timeout: float | None = None, index: int = 0) -> Callable[[], R]:
        """The result of the input at `index`.

        Args:
            timeout: seconds to wait; None waits as long as it takes, 0 only looks.
            index: which input, from 0; for calls of `spawn_map`.

        Raises:
            TimeoutError: there is no result yet.
            OutputExpiredError: results are kept for 7 days.
            NotFoundError: no such call.
            Exception: what the function raised.
        """
        session = self._of()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            wait_ms = POLL_MS_MAX
            if deadline is not None:
                wait_ms = max(0, min(POLL_MS_MAX, round((deadline - time.monotonic()) * 1000)))
            answer = await session.request(
                CALL_OUTPUTS, CallOutputs(call_id=self._call_id, start=index, limit=1, timeout_ms=wait_ms)
            )
            if answer.outputs:
                found = answer.outputs[0]
                return lambda: results.value_of(session, found)
            if answer.inputs_complete and index >= answer.inputs:
                raise InvalidError(f"call {self._call_id} has {answer.inputs} inputs; there is no index {index}")
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"call {self._call_id} has no result yet, after {timeout:g} s")

    @dual_iter_lazy
    async def iter(self, start: int = 0, end: int | None = None) -> AsyncGenerator[Callable[[], Iterable[R]], None]:
        """Results of the inputs from `start` up to `end` (default: all), in order, as they come.

        Raises:
            Exception: what the function raised for the first input that failed.
        """
        session, index = self._of(), start
        while end is None or index < end:
            limit = OUTPUTS_AT_ONCE if end is None else min(OUTPUTS_AT_ONCE, end - index)
            answer = await session.request(
                CALL_OUTPUTS,
                CallOutputs(call_id=self._call_id, start=index, limit=limit, timeout_ms=POLL_MS_MAX),
            )
            if answer.outputs:
                index += len(answer.outputs)
                yield _values(session, answer.outputs)
            elif answer.inputs_complete and index >= answer.inputs:
                return

    @dual
    async def num_inputs(self) -> int:
        """How many inputs the call has."""
        return (await self._of().request(CALL_SHOW, CallRef(call_id=self._call_id))).call.inputs

    @dual
    async def cancel(self, terminate_containers: bool = False) -> None:
        """Stop it: what waits never runs, what runs is interrupted.

        Args:
            terminate_containers: also end the containers that run it.
        """
        await self._of().request(
            CALL_CANCEL, CallCancel(call_id=self._call_id, terminate_containers=terminate_containers)
        )

    gather: Gather


class Gather:
    """Results of several calls, in their order. Raises what the first failed one raised."""

    def __call__(self, *function_calls: FunctionCall[T]) -> list[T]:
        return [value() for value in PORTAL.call(self._all(function_calls))]

    async def aio(self, *function_calls: FunctionCall[T]) -> list[T]:
        """The same for async code."""
        return [value() for value in await PORTAL.acall(self._all(function_calls))]

    async def _all(self, calls: tuple[FunctionCall[T], ...]) -> list[Callable[[], T]]:
        import asyncio

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call.get.body()) for call in calls]
        return [task.result() for task in tasks]


FunctionCall.gather = Gather()


def _values(session: Session, found: list[Output]) -> Callable[[], Iterable[Any]]:
    return lambda: (results.value_of(session, output) for output in found)


async def spawn(handle: Handle, method: str, call_id: str, payload: bytes) -> FunctionCall[Any]:
    """Have one input recorded. Returns when it is on disk."""
    target = await handle.find()
    message = CallSpawn(call_id=call_id, function_id=target.function_id, method=method, payloads=[payload])
    await target.session.request(CALL_SPAWN, message)
    return FunctionCall(call_id, target.session)


async def spawn_map(
    handle: Handle, method: str, call_id: str, make_feed: Callable[[asyncio.Event], Feed]
) -> FunctionCall[Any]:
    """Have all inputs of a feed recorded, as one call. Returns when the last is on disk.

    Raises:
        BaseException: what the user's iterator raised; the call is cancelled then.
    """
    import asyncio

    target = await handle.find_anew()
    changed = asyncio.Event()
    feed = make_feed(changed)
    first, complete = 0, False
    try:
        while not complete:
            changed.clear()
            payloads = feed.take(SPAWN_INPUTS_MAX)
            complete = feed.is_dry
            if feed.is_dry and feed.error is not None:
                raise feed.error
            if not payloads and not complete:
                if feed.wants():
                    await changed.wait()
                continue
            await _record(
                target.session,
                CallSpawn(
                    call_id=call_id,
                    function_id=target.function_id,
                    method=method,
                    kind=CallKind.SPAWN_MAP,
                    first_index=first,
                    payloads=payloads,
                    complete=complete,
                ),
            )
            first += len(payloads)
    except BaseException:
        if first:
            await target.session.request(CALL_CANCEL, CallCancel(call_id=call_id))
        raise
    finally:
        feed.stop()
    return FunctionCall(call_id, target.session)


async def _record(session: Session, message: CallSpawn) -> None:
    """Record a part; where the server has no room for more, wait until it has."""
    import asyncio

    pause_s = 0.1
    while True:
        try:
            await session.request(CALL_SPAWN, message)
            return
        except ResourceExhaustedError as error:
            if pause_s == 0.1:
                outputs.current().note(f"spawn_map waits for room: {error.message}")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, SPAWN_RETRY_S_MAX)
