"""The part of the store that has objects: their names, entries of dicts, items of queues.

The hot state of a dict or queue is in the server's memory; this is the log under it, read when one is first used. So
entries and items go by numbers that the server gives, writes say what is so from now on, and nothing is decided here.
The contract of ports.store holds here too. Beyond it:

 1. The first object of a kind with a name wins: `create` gives it to whoever comes later.
 2. What is written to an object that is not there (any more) is passed over, and nobody is told.
 3. A deleted object is gone at once; its entries and items follow, some with each `tidy`.
 4. Operations (`Op`) are recorded with the write that they are of, whole or not at all: after a restart the server
    knows what it has done already, and what it answered.
 5. Numbers grow with each new entry, item and operation, also over restarts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from jitney.values.dicts import DictEntry
from jitney.values.objects import ObjectRecord
from jitney.values.queues import StoredItem


class Op(msgspec.Struct, frozen=True, array_like=True):
    """An operation that must not be done twice: the number that its client gave it, and what was answered."""

    number: int
    op: int
    at_ms: int
    answer: bytes


class DictWrite(msgspec.Struct, frozen=True, kw_only=True):
    """What is so from now on in one dict. `clear_before` is applied first, then `drops`, then `entries`.

    An entry whose `value` is None keeps the one that is stored.
    """

    object_id: str
    entries: Sequence[DictEntry] = ()
    drops: Sequence[int] = ()
    clear_before: int = 0  # entries with smaller numbers go

    @property
    def grows(self) -> bool:
        """Whether it needs room."""
        return any(entry.value is not None for entry in self.entries)


class QueueWrite(msgspec.Struct, frozen=True, kw_only=True):
    """What is so from now on in one queue. An item whose `payload` is None keeps the one that is stored."""

    object_id: str
    items: Sequence[StoredItem] = ()
    drops: Sequence[int] = ()

    @property
    def grows(self) -> bool:
        """Whether it needs room."""
        return any(item.payload is not None for item in self.items)


class ObjectStore(Protocol):
    """Objects of all kinds."""

    async def create(self, record: ObjectRecord) -> ObjectRecord:
        """Record an object; gives the one that has its kind and name. Ephemeral ones have no name to share.

        Raises:
            AlreadyExistsError: its id is that of another object.
        """

    async def all(self) -> list[ObjectRecord]:
        """Every object, in the order in which they were recorded."""

    async def heartbeat(self, object_ids: Sequence[str], now_ms: int) -> None:
        """Note that ephemeral objects are used. Others are passed over."""

    async def rename(self, object_id: str, name: str) -> ObjectRecord:
        """Give an object with a name another one: what it is then.

        Raises:
            NotFoundError: there is none with that id and a name.
            AlreadyExistsError: another one of its kind has the name.
        """

    async def delete(self, object_ids: Sequence[str]) -> list[ObjectRecord]:
        """End objects: those that were there."""

    async def tidy(self, *, limit: int = 5_000) -> int:
        """Drop entries and items of deleted objects: how many. At most `limit`; 0: nothing is left to drop."""

    async def ops(self) -> list[Op]:
        """Operations that are remembered, in order of their numbers."""

    async def forget_ops(self, before_ms: int) -> None:
        """Drop operations that are older."""


class DictStore(Protocol):
    """Entries of dicts."""

    async def write(self, writes: Sequence[DictWrite], ops: Sequence[Op] = ()) -> None:
        """Apply all of it, or none."""

    async def load(
        self, object_id: str, *, after: int = 0, limit: int = 1_000, value_bytes_max: int = 1_024
    ) -> list[DictEntry]:
        """Entries with greater numbers than `after`, in order. Larger values are left out: see `values`."""

    async def values(self, numbers: Sequence[int]) -> Mapping[int, bytes]:
        """Values by the numbers of their entries; without those that are not there."""

    async def by_file(self) -> list[bytes]:
        """The values that are references to files, of all dicts."""

    async def stale(self, before_ms: int, *, limit: int = 1_000) -> list[str]:
        """Ids of dicts with entries that were last used before."""


class QueueStore(Protocol):
    """Items of queues."""

    async def write(self, writes: Sequence[QueueWrite], ops: Sequence[Op] = ()) -> None:
        """Apply all of it, or none."""

    async def load(
        self, object_id: str, *, after: int = 0, limit: int = 1_000, payload_bytes_max: int = 1_024
    ) -> list[StoredItem]:
        """Items with greater numbers than `after`, in order. Larger payloads are left out: see `payloads`."""

    async def payloads(self, numbers: Sequence[int]) -> Mapping[int, bytes]:
        """Payloads by the numbers of their items; without those that are not there."""

    async def stale(self, now_ms: int, *, limit: int = 1_000) -> list[str]:
        """Ids of queues with items whose time is over."""
