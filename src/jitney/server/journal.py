"""What has changed in memory, on its way to the store: written in groups, answered when it is on disk.

A turn of the loop may change many things for many peers: they are one write. While it is under way, what changes next
gathers for the one after. The store groups these writes with all others into one fsync. What needs room on the disk
and what does not are separate writes of one group, so that a full disk refuses the former only.

A write that fails leaves memory ahead of the disk. Then everything that waits for the same owner (a dict, a queue) has
failed as well, as it was decided on a state that never was; the owner is told, and reads itself from the store again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from jitney.errors import InternalError, JitneyError
from jitney.ports.objects import Op

log = logging.getLogger("jitney.journal")

GROUP_MAX = 4_000
GROUP_BYTES_MAX = 8 * 1024 * 1024


class Row(Protocol):
    """An entry or an item."""

    @property
    def number(self) -> int: ...

    def over(self, earlier: Self) -> Self:
        """This, with the content of an earlier state of the same row."""
        ...


R = TypeVar("R", bound=Row)
Then = Callable[[JitneyError | None], None]
Run = Callable[[Coroutine[Any, Any, None]], None]


class Owner(Protocol):
    """What a change is of."""

    object_id: str

    def failed(self, error: JitneyError) -> None:
        """Changes were not written: memory is not what the store has."""


class Change(Generic[R]):
    """Something that is so from now on. `rows`, `drops` and `clear_before` are as in ports.objects."""

    __slots__ = ("clear_before", "drops", "grows", "op", "owner", "rows", "size", "waiters")

    def __init__(
        self,
        owner: Owner,
        rows: Sequence[R] = (),
        drops: Sequence[int] = (),
        *,
        grows: bool = False,
        clear_before: int = 0,
        op: Op | None = None,
        size: int = 0,
    ) -> None:
        self.owner = owner
        self.rows = rows
        self.drops = drops
        self.grows = grows  # needs room: its rows have content
        self.clear_before = clear_before
        self.op = op
        self.size = size
        self.waiters: list[Then] = []


class Merged(Generic[R]):
    """What the changes of one owner come to."""

    __slots__ = ("clear_before", "drops", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, R] = {}
        self.drops: set[int] = set()
        self.clear_before = 0

    @property
    def is_something(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.rows or self.drops or self.clear_before)


class Group(NamedTuple, Generic[R]):
    """Changes as they are written: by object, each number once, without what a drop or a clear overtakes."""

    growing: dict[str, Merged[R]]
    other: dict[str, Merged[R]]
    leaning: set[Change[R]]  # that do not grow, and are in rows that do


def merge(changes: Sequence[Change[R]]) -> Group[R]:
    """A group. A row without content that follows one with content takes it over."""
    growing: dict[str, Merged[R]] = {}
    other: dict[str, Merged[R]] = {}
    leaning: set[Change[R]] = set()
    for change in changes:
        object_id = change.owner.object_id
        grown = growing.get(object_id) or growing.setdefault(object_id, Merged())
        kept = other.get(object_id) or other.setdefault(object_id, Merged())
        if change.clear_before:
            kept.clear_before = change.clear_before
            for rows in (grown.rows, kept.rows):
                for number in [number for number in rows if number < change.clear_before]:
                    del rows[number]
        for number in change.drops:
            grown.rows.pop(number, None)
            kept.rows.pop(number, None)
            kept.drops.add(number)
        for row in change.rows:
            if change.grows:
                grown.rows[row.number] = row
                kept.rows.pop(row.number, None)
            elif (earlier := grown.rows.get(row.number)) is not None:
                grown.rows[row.number] = row.over(earlier)
                leaning.add(change)
            else:
                kept.rows[row.number] = row
    return Group(growing, other, leaning)


class Journal(Generic[R]):
    """The changes of one kind of object. `write(what, ops)` is the store's."""

    def __init__(self, write: Callable[[dict[str, Merged[R]], Sequence[Op]], Awaitable[None]], run: Run) -> None:
        self._write = write
        self._run = run
        self._waiting: deque[Change[R]] = deque()
        self._writing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def drained(self) -> None:
        """Return when everything is on disk, or has failed."""
        await self._idle.wait()

    def add(self, change: Change[R]) -> None:
        """Have it written; its waiters are told of the end."""
        self._waiting.append(change)
        if not self._writing:
            self._writing = True
            self._idle.clear()
            self._run(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                changes = self._take()
                group = merge(changes)
                grown = [change for change in changes if change.grows]
                rest = [change for change in changes if not change.grows]
                growing: JitneyError | None = None
                other: JitneyError | None = None
                if not rest:
                    growing = await self._part(group.growing, grown)
                elif not grown:
                    other = await self._part(group.other, rest)
                else:
                    growing, other = await asyncio.gather(
                        self._part(group.growing, grown), self._part(group.other, rest)
                    )
                self._settle(changes, group.leaning, growing, other)
        finally:
            self._writing = False
            self._idle.set()

    async def _part(self, what: dict[str, Merged[R]], changes: list[Change[R]]) -> JitneyError | None:
        ops = [change.op for change in changes if change.op is not None]
        if not ops and not any(merged.is_something for merged in what.values()):
            return None  # all of it is in the other part
        try:
            await self._write(what, ops)
        except JitneyError as failure:
            return failure
        except Exception as failure:
            log.exception("a journal could not be written")
            return InternalError(f"the journal could not be written: {failure!r}", hint="see server.log")
        return None

    def _settle(
        self,
        changes: list[Change[R]],
        leaning: set[Change[R]],
        growing: JitneyError | None,
        other: JitneyError | None,
    ) -> None:
        """Tell all who wait for these changes; both errors are None as a rule."""
        ended = [
            (change, growing if change.grows else other or (growing if change in leaning else None))
            for change in changes
        ]
        failed = {change.owner: error for change, error in ended if error is not None}
        if failed:
            ended += [(change, failed[change.owner]) for change in self._waiting if change.owner in failed]
            self._waiting = deque(change for change in self._waiting if change.owner not in failed)
            for owner, failure in failed.items():
                owner.failed(failure)
        for change, error in ended:
            for waiter in change.waiters:
                waiter(error)

    def _take(self) -> list[Change[R]]:
        group: list[Change[R]] = []
        count = size = 0
        while self._waiting:
            change = self._waiting[0]
            count += len(change.rows) + len(change.drops) + 1
            size += change.size
            if group and (count > GROUP_MAX or size > GROUP_BYTES_MAX):
                break
            group.append(self._waiting.popleft())
        return group
