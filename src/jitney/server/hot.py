"""Objects whose state is in memory: brought in at their first use, let go when they were idle for a while.

Whoever finds one here goes on in the same turn of the loop. Whoever does not is asked again when it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from jitney.server.api.reply import Reply

IDLE_MS = 600_000


class HotState(Protocol):
    """The state of one object."""

    object_id: str
    used_at_ms: int

    @property
    def is_idle(self) -> bool:
        """Whether the store has all of it, and nobody waits for anything."""


S = TypeVar("S", bound=HotState)


class Hot(Generic[S]):
    """The states of one kind of object by id."""

    def __init__(self, load: Callable[[str], Awaitable[S]]) -> None:
        self._load = load
        self._loading: dict[str, asyncio.Task[S]] = {}
        self._waiting: dict[str, list[tuple[Callable[[], None], Reply]]] = {}
        self._deleted: set[str] = set()  # while they were being read
        self.states: dict[str, S] = {}

    def find(self, object_id: str, now_ms: int, again: Callable[[], None], reply: Reply) -> S | None:
        """The state of an object, which is used now.

        None where it has to be read first: then `again` is called when it is in memory, in turn with others and before
        whoever comes then. Errors, also those of `again`, are the reply.
        """
        state = self.states.get(object_id)
        if state is not None:
            state.used_at_ms = now_ms
            return state
        self._waiting.setdefault(object_id, []).append((again, reply))
        self._reading(object_id)
        return None

    async def get(self, object_id: str) -> S:
        """The state of an object.

        Raises:
            JitneyError: there is no such object, or the store does not answer.
        """
        state = self.states.get(object_id)
        return state if state is not None else await asyncio.shield(self._reading(object_id))

    def _reading(self, object_id: str) -> asyncio.Task[S]:
        task = self._loading.get(object_id)
        if task is None:
            task = self._loading[object_id] = asyncio.get_running_loop().create_task(self._read(object_id))
            task.add_done_callback(_look_at)
        return task

    async def _read(self, object_id: str) -> S:
        error: BaseException | None = None
        try:
            state = await self._load(object_id)
            if object_id not in self._deleted:
                self.states[object_id] = state
            return state
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._deleted.discard(object_id)
            del self._loading[object_id]
            for then, reply in self._waiting.pop(object_id, ()):
                self._go_on(then, reply, error)

    def _go_on(self, then: Callable[[], None], reply: Reply, error: BaseException | None) -> None:
        if reply.is_answered:  # gone meanwhile
            return
        if error is not None:
            reply.refuse(error)
            return
        try:
            then()
        except Exception as failure:
            reply.refuse(failure)

    def drop(self, object_id: str) -> S | None:
        """Forget an object: it was deleted, or is not what the store has."""
        if object_id in self._loading:
            self._deleted.add(object_id)
        return self.states.pop(object_id, None)

    def let_go(self, now_ms: int) -> list[S]:
        """Forget those that are idle."""
        idle = [state for state in self.states.values() if state.is_idle and now_ms - state.used_at_ms > IDLE_MS]
        for state in idle:
            del self.states[state.object_id]
        return idle


def _look_at(task: asyncio.Task[S]) -> None:
    """Take an error that was told to all who waited, lest asyncio complain of it."""
    if not task.cancelled():
        task.exception()
