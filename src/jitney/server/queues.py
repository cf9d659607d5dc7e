"""All queues in memory: reading them, writing down what changes, and what time does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from jitney.core.queues import Item, Place, QueueState
from jitney.errors import NotFoundError
from jitney.ports.objects import Op, QueueWrite
from jitney.ports.store import Store
from jitney.server.handover import HotQueue
from jitney.server.hot import Hot
from jitney.server.journal import Change, Journal, Merged, Run
from jitney.server.objects import Objects
from jitney.server.ops import Ops
from jitney.values.objects import ObjectKind, ObjectRecord
from jitney.values.queues import StoredItem

HOT_BYTES_MAX = 256 * 1024 * 1024  # of payloads in memory; those of further items are read when it is their turn
LOAD_AT_ONCE = 5_000


class Queues:
    """The queues of this server."""

    def __init__(
        self,
        *,
        store: Store,
        objects: Objects,
        ops: Ops,
        numbers: Iterator[int],
        now_ms: Callable[[], int],
        run: Run,
    ) -> None:
        self._store = store
        self._objects = objects
        self.hot_bytes_max = HOT_BYTES_MAX
        self._hot_bytes = 0
        self.ops = ops
        self.numbers = numbers
        self.now_ms = now_ms
        self.run = run
        self.hot: Hot[HotQueue] = Hot(self._load)
        self._journal: Journal[StoredItem] = Journal(self._write, run)
        objects.on_deleted[ObjectKind.QUEUE] = self._deleted

    async def _load(self, object_id: str) -> HotQueue:
        await self._objects.find(object_id, ObjectKind.QUEUE)
        state, after = QueueState(), 0
        while page := await self._store.queues.load(object_id, after=after, limit=LOAD_AT_ONCE):
            self._hot_bytes += sum(len(item.payload or b"") for item in page)
            state.restore(page)
            after = page[-1].number
        hot = HotQueue(object_id, state, self)
        hot.end_leases()
        return hot

    def _deleted(self, record: ObjectRecord) -> None:
        hot = self.hot.drop(record.object_id)
        if hot is not None:
            hot.end(record)
            self._forget(hot)

    def lost(self, hot: HotQueue) -> None:
        """Its state is not what the store has: it is read again when it is next used."""
        if self.hot.states.get(hot.object_id) is hot:
            self.hot.drop(hot.object_id)
            self._forget(hot)

    def _forget(self, hot: HotQueue) -> None:
        for item in hot.state:
            self._cool(item)

    def _cool(self, item: Item) -> None:
        if item.payload is not None:
            self._hot_bytes -= len(item.payload)
            item.payload = None

    # ------------------------------------------------------------------------------------------- writing

    def added(self, items: Sequence[Item]) -> None:
        """Items are in memory that were not."""
        self._hot_bytes += sum(item.size for item in items)

    def insert(self, hot: HotQueue, items: Sequence[Item], op: Op | None) -> Change[StoredItem]:
        """Have new items written."""
        rows = [item.stored() for item in items]
        change = Change(hot, rows, grows=True, op=op, size=sum(row.size for row in rows))
        for item in items:
            item.is_stored = True
        hot.begin_change(change)
        change.waiters.append(lambda error: self.spare(items) if error is None else None)
        self._journal.add(change)
        return change

    def spare(self, items: Sequence[Item]) -> None:
        """Payloads are on disk: where memory is short, those that nobody is about to get need not be here as well."""
        for item in items:
            if self._hot_bytes > self.hot_bytes_max and item.place in (Place.WAITING, Place.LEASED):
                self._cool(item)

    def update(self, hot: HotQueue, items: Sequence[Item]) -> Change[StoredItem] | None:
        """Have it written that items that are stored were leased, moved or given back."""
        if not items:
            return None
        change = Change(hot, [item.stored() for item in items])
        hot.begin_change(change)
        self._journal.add(change)
        return change

    def drop(self, hot: HotQueue, items: Sequence[Item], op: Op | None = None) -> Change[StoredItem]:
        """Have it written that items are gone."""
        change: Change[StoredItem] = Change(hot, (), [item.number for item in items if item.is_stored], op=op)
        for item in items:
            self._cool(item)
        hot.begin_change(change)
        self._journal.add(change)
        return change

    async def _write(self, what: dict[str, Merged[StoredItem]], ops: Sequence[Op]) -> None:
        writes = [
            QueueWrite(object_id=object_id, items=list(merged.rows.values()), drops=sorted(merged.drops))
            for object_id, merged in what.items()
            if merged.is_something
        ]
        await self._store.queues.write(writes, ops)

    async def read(self, items: Sequence[Item]) -> Mapping[int, bytes]:
        """The payloads of items that are in the store only, by their numbers."""
        return await self._store.queues.payloads([item.number for item in items if item.payload is None])

    async def warm_up(self, items: Sequence[Item]) -> None:
        """Bring the payloads of items into memory."""
        found = await self.read(items)
        for item in items:
            if item.payload is None and item.place is not Place.GONE:
                item.payload = found.get(item.number, b"")
                self._hot_bytes += len(item.payload)

    async def forget_items(self, object_id: str, numbers: Sequence[int]) -> None:
        """Items that were given out have arrived, and their queue has been read again since: they are not in it."""
        try:
            (await self.hot.get(object_id)).remove(numbers)
        except NotFoundError:
            pass

    async def drained(self) -> None:
        """Return when all that was changed is on disk."""
        await self._journal.drained()

    # ------------------------------------------------------------------------------------------- time

    async def sweep(self) -> None:
        """End partitions whose time is over, and let go of idle queues."""
        for hot in list(self.hot.states.values()):
            hot.expire()
            await asyncio.sleep(0)
        for hot in self.hot.let_go(self.now_ms()):
            self._forget(hot)

    async def sweep_stored(self) -> None:
        """The same for queues that are in the store only."""
        for object_id in await self._store.queues.stale(self.now_ms()):
            (await self.hot.get(object_id)).expire()
