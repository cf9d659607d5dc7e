"""Dicts in memory, and what is done with them beside requests: reading, writing, expiring.

Reads are answered from memory, and so are decisions: whether a key is there, what a sum is. A change is decided at
once, and answered when it is on disk; who reads a key with such a change under way hears of it when it is there too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from jitney.core.dicts import DictState, Entry, Warm
from jitney.errors import JitneyError
from jitney.ports.objects import DictWrite, Op
from jitney.ports.store import Store
from jitney.server.hot import Hot
from jitney.server.journal import Change, Journal, Merged, Run
from jitney.server.objects import Objects
from jitney.values.dicts import ENTRY_TTL_MS, DictEntry, referenced
from jitney.values.objects import ObjectKind, ObjectRecord

WARM_BYTES_MAX = 256 * 1024 * 1024
NOTE_USE_MS = 3_600_000  # how far the store may be behind with when an entry was used
SWEEP_AT_ONCE = 5_000
LOAD_AT_ONCE = 5_000


class HotDict:
    """A dict in memory. `pending` has the last change of each key that is not on disk yet."""

    def __init__(self, object_id: str, state: DictState, now_ms: int, on_failed: Callable[[HotDict], None]) -> None:
        self.object_id = object_id
        self.state = state
        self.used_at_ms = now_ms
        self.pending: dict[bytes, Change[DictEntry]] = {}
        self.cleared: Change[DictEntry] | None = None
        self.last: Change[DictEntry] | None = None  # of all that are under way
        self._on_failed = on_failed

    @property
    def is_idle(self) -> bool:
        return self.last is None

    def failed(self, error: JitneyError) -> None:
        self._on_failed(self)

    def under_way(self, key: bytes) -> Change[DictEntry] | None:
        """The change that decides what this key is, if it is not on disk yet."""
        return self.pending.get(key) or self.cleared


class Dicts:
    """All dicts of this server."""

    def __init__(
        self, *, store: Store, objects: Objects, numbers: Iterator[int], now_ms: Callable[[], int], run: Run
    ) -> None:
        self._store = store
        self._objects = objects
        self.numbers = numbers
        self.now_ms = now_ms
        self.run = run
        self.hot: Hot[HotDict] = Hot(self._load)
        self.warm = Warm(WARM_BYTES_MAX)
        self._journal: Journal[DictEntry] = Journal(self._write, run)
        objects.on_deleted[ObjectKind.DICT] = self._deleted

    async def _load(self, object_id: str) -> HotDict:
        await self._objects.find(object_id, ObjectKind.DICT)
        state, after = DictState(), 0
        while page := await self._store.dicts.load(object_id, after=after, limit=LOAD_AT_ONCE):
            state.restore(page)
            after = page[-1].number
        hot = HotDict(object_id, state, self.now_ms(), self._failed)
        for entry in state:
            self.warm.use(entry)
        return hot

    def _deleted(self, record: ObjectRecord) -> None:
        hot = self.hot.drop(record.object_id)
        if hot is not None:
            self.warm.forget(hot.state)

    def _failed(self, hot: HotDict) -> None:
        if self.hot.states.get(hot.object_id) is hot:
            self.hot.drop(hot.object_id)
            self.warm.forget(hot.state)

    # ------------------------------------------------------------------------------------------- changes

    def change(
        self,
        hot: HotDict,
        *,
        entries: Sequence[Entry] = (),
        dropped: Sequence[Entry] = (),
        clear_before: int = 0,
        op: Op | None = None,
    ) -> Change[DictEntry]:
        """Have it written that entries were set, or taken out."""
        self.warm.forget(entries)
        self.warm.forget(dropped)
        rows = [entry.stored() for entry in entries]
        drops = [] if clear_before else [entry.number for entry in dropped]
        change = Change(
            hot, rows, drops, grows=bool(rows), clear_before=clear_before, op=op, size=sum(row.size for row in rows)
        )
        for entry in (*entries, *dropped):
            hot.pending[entry.key] = change
        if clear_before:
            hot.cleared = change
        hot.last = change

        def written(error: JitneyError | None) -> None:
            for entry in (*entries, *dropped):
                if hot.pending.get(entry.key) is change:
                    del hot.pending[entry.key]
                    if error is None and entries:
                        self.warm.use(entry)
            if hot.cleared is change:
                hot.cleared = None
            if hot.last is change:
                hot.last = None

        change.waiters.append(written)
        self._journal.add(change)
        return change

    async def _write(self, what: dict[str, Merged[DictEntry]], ops: Sequence[Op]) -> None:
        writes = [
            DictWrite(
                object_id=object_id,
                entries=list(merged.rows.values()),
                drops=sorted(merged.drops),
                clear_before=merged.clear_before,
            )
            for object_id, merged in what.items()
            if merged.is_something
        ]
        await self._store.dicts.write(writes, ops)

    async def warm_up(self, entries: Sequence[Entry]) -> dict[int, bytes]:
        """Values of entries that are in the store only, by their numbers; also put into memory as far as they fit."""
        found = dict(await self._store.dicts.values([entry.number for entry in entries]))
        for entry in entries:
            if entry.value is None and entry.number in found:
                entry.value = found[entry.number]
                self.warm.use(entry)
        return found

    async def drained(self) -> None:
        """Return when all that was changed is on disk."""
        await self._journal.drained()

    # ------------------------------------------------------------------------------------------- time

    async def sweep(self) -> None:
        """End entries that were not used for too long, note when the others were, and let go of idle dicts."""
        for hot in list(self.hot.states.values()):
            await self._sweep(hot)
        for hot in self.hot.let_go(self.now_ms()):
            self.warm.forget(hot.state)

    async def sweep_stored(self) -> None:
        """The same for dicts that are in the store only."""
        for object_id in await self._store.dicts.stale(self.now_ms() - ENTRY_TTL_MS):
            await self._sweep(await self.hot.get(object_id))

    async def _sweep(self, hot: HotDict) -> None:
        entries = list(hot.state)
        for at in range(0, len(entries), SWEEP_AT_ONCE):
            now_ms = self.now_ms()
            there = [entry for entry in entries[at : at + SWEEP_AT_ONCE] if hot.state.has(entry)]
            expired = [entry for entry in there if entry.is_expired(now_ms)]
            for entry in expired:
                hot.state.drop(entry.key)
            if expired:
                self.change(hot, dropped=expired)
            self._note_uses(hot, [entry for entry in there if entry.used_at_ms - entry.noted_at_ms > NOTE_USE_MS])
            await asyncio.sleep(0)

    def _note_uses(self, hot: HotDict, entries: list[Entry]) -> None:
        rows = [DictEntry(entry.number, entry.key, None, entry.size, entry.used_at_ms) for entry in entries]
        if rows:
            for entry in entries:
                entry.noted_at_ms = entry.used_at_ms
            self._journal.add(Change(hot, rows))

    async def files(self) -> set[str]:
        """The names of all files that have a value."""
        stored = {referenced(value) for value in await self._store.dicts.by_file()}
        hot = {referenced(e.value) for one in self.hot.states.values() for e in one.state if e.value is not None}
        return stored | hot
