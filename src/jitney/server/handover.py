"""One queue in memory, and how an item gets from who puts it to who gets it.

A put is acknowledged when it is on disk. Where somebody waits for the item, it goes to them in the same turn, before
the disk has it: and when they say within `HANDOVER_S` that it has come, it never needs to be written, as it has been
consumed; then that is what the put is answered with. Otherwise it is written like all others.

What a getter takes for good is *held* until its peer says that it has it (`Reply.settle`), and goes back to its place
when the peer hangs up before. That it is gone is written down afterwards, and nobody waits for that: a server that is
killed in between delivers it once more, and none is lost. A lease is written down in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jitney.core.queues import Getter, Item, Place, Putter, QueueState, full, still_with
from jitney.errors import JitneyError, NotFoundError
from jitney.server.api.reply import Reply
from jitney.server.journal import Change
from jitney.values.objects import ObjectRecord
from jitney.values.queues import ITEMS_MAX, PAGE_BYTES_MAX, StoredItem
from jitney.wire import codec
from jitney.wire.messages.queues import QueueDone, QueueGet, QueueItem, QueueItems, QueuePut

if TYPE_CHECKING:
    from jitney.server.queues import Queues

HANDOVER_S = 0.02


class Asker:
    """A reply that is owed, until its time is over. `again` asks anew, where the queue had to be read again."""

    __slots__ = ("again", "op", "reply", "timer")

    def __init__(self, reply: Reply, again: Callable[[], None], op: int = 0) -> None:
        self.reply = reply
        self.again = again
        self.op = op
        self.timer: asyncio.TimerHandle | None = None

    def wait(self, timeout_ms: int | None, timed_out: Callable[[], None], gone: Callable[[], None]) -> None:
        """Wait in line, for at most `timeout_ms`."""
        self.reply.on_gone = gone
        if timeout_ms is not None:
            self.timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, timed_out)

    def end(self) -> None:
        """It waits no longer."""
        self.reply.on_gone = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Handed:
    """Items of one put that all went to getters at once, and are not written yet."""

    __slots__ = ("asker", "items", "left", "timer")

    def __init__(self, asker: Asker, items: list[Item]) -> None:
        self.asker = asker
        self.items = items
        self.left = len(items)
        self.timer: asyncio.TimerHandle | None = None


class LeaseClock:
    """Rings when the next lease of a queue ends."""

    def __init__(self, state: QueueState, now_ms: Callable[[], int], ring: Callable[[], None]) -> None:
        self._state = state
        self._now_ms = now_ms
        self._ring = ring
        self._set: tuple[int, asyncio.TimerHandle] | None = None

    def set(self) -> None:
        """Look when that is; after leases have changed."""
        until_ms = self._state.next_lease_end_ms()
        if self._set is not None and self._set[0] == until_ms:
            return
        self.stop()
        if until_ms is not None:
            delay_s = max(0, until_ms - self._now_ms()) / 1000
            self._set = (until_ms, asyncio.get_running_loop().call_later(delay_s, self._ring))

    def stop(self) -> None:
        """Ring no more."""
        if self._set is not None:
            self._set[1].cancel()
            self._set = None


class HotQueue:
    """A queue in memory."""

    def __init__(self, object_id: str, state: QueueState, queues: Queues) -> None:
        self.object_id = object_id
        self.state = state
        self.used_at_ms = queues.now_ms()
        self._queues = queues
        self._changes = 0  # that are not on disk
        self._clock = LeaseClock(state, queues.now_ms, self.end_leases)
        self.is_lost = False

    @property
    def is_idle(self) -> bool:
        return not self._changes and self.state.is_at_rest

    def end(self, record: ObjectRecord) -> None:
        """It was deleted: nobody gets anything any more."""
        self.is_lost = True
        self._clock.stop()
        error = NotFoundError(f"the queue {record.name or record.object_id} was deleted")
        for asker in self.state.askers():
            asker.end()
            asker.reply.refuse(error)

    def failed(self, error: JitneyError) -> None:
        """See journal.Owner: whoever waits asks again, of the queue as the store has it."""
        if self.is_lost:
            return
        self.is_lost = True
        self._clock.stop()
        self._queues.lost(self)
        for asker in self.state.askers():
            asker.end()
            asker.again()

    def begin_change(self, change: Change[StoredItem]) -> None:
        """A change is on its way to the disk."""
        self._changes += 1
        change.waiters.append(self._end_change)

    def _end_change(self, error: JitneyError | None) -> None:
        self._changes -= 1

    # ------------------------------------------------------------------------------------------- putting

    def put(self, request: QueuePut, asker: Asker) -> None:
        """Put items, now or when there is room."""
        state, key = self.state, request.partition
        if state.has_room(key, len(request.items)):
            self._put(key, request.items, request.ttl_ms, asker)
            return
        partition = state.partition(key)
        if request.timeout_ms == 0:
            raise full(partition.count)
        putter = Putter(key, request.items, request.ttl_ms, asker)
        partition.putters.append(putter)

        def leave() -> None:
            asker.end()
            partition.putters.remove(putter)
            state.tidy(key)
            self._admit(key)  # somebody with fewer items may have waited behind it

        def timed_out() -> None:
            leave()
            asker.reply.refuse(full(min(ITEMS_MAX, partition.count)))

        asker.wait(request.timeout_ms, timed_out, leave)

    def _put(self, key: bytes, payloads: list[bytes], ttl_ms: int, asker: Asker) -> None:
        queues, state = self._queues, self.state
        items = state.put(key, payloads, queues.now_ms(), ttl_ms, queues.numbers)
        queues.added(items)
        self._match(key)
        if all(item.place is Place.HELD for item in items):
            handed = Handed(asker, items)
            for item in items:
                item.origin = handed
            handed.timer = asyncio.get_running_loop().call_later(HANDOVER_S, self._write_handed, handed)
        else:
            self._write_put(asker, items, items)

    def _write_put(self, asker: Asker, items: list[Item], rows: list[Item]) -> None:
        body = codec.encode(QueueDone(count=len(items)))
        change = self._queues.insert(self, rows, self._queues.ops.make(asker.op, body))
        self._queues.ops.begun(asker.op, body, change)
        reply = asker.reply
        change.waiters.append(lambda error: reply.answer_body(body) if error is None else reply.refuse(error))

    def _write_handed(self, handed: Handed) -> None:
        """Nobody has said that these have arrived: write them, like others."""
        if handed.timer is not None:
            handed.timer.cancel()
        for item in handed.items:
            item.origin = None
        if self.is_lost:
            handed.asker.again()
        else:
            self._write_put(handed.asker, handed.items, [i for i in handed.items if i.place is not Place.GONE])

    def _arrived(self, handed: Handed) -> None:
        """One of these has arrived; with the last the put is over."""
        handed.left -= 1
        if not handed.left:
            if handed.timer is not None:
                handed.timer.cancel()
            body = codec.encode(QueueDone(count=len(handed.items)))
            self._queues.ops.done(handed.asker.op, body)
            handed.asker.reply.answer_body(body)

    def _admit(self, key: bytes) -> None:
        """Those who wait for room get it, as far as there is some."""
        for putter in self.state.admitted(key):
            asker = putter.asker
            asker.end()
            try:
                self._put(key, putter.payloads, putter.ttl_ms, asker)
            except JitneyError as error:
                asker.reply.refuse(error)
        self.state.tidy(key)

    # ------------------------------------------------------------------------------------------- getting

    def get(self, request: QueueGet, asker: Asker) -> None:
        """Take items, now or when some come."""
        state, key = self.state, request.partition
        getter = Getter(key, request.count, request.lease_ms, request.max_deliveries, asker)
        items = state.take(key, request.count)
        if items:
            self._give(getter, items)
            return
        if request.timeout_ms == 0:
            asker.reply.answer(QueueItems(items=[]))
            return
        partition = state.partition(key)
        partition.getters.append(getter)

        def leave() -> None:
            asker.end()
            partition.getters.remove(getter)
            state.tidy(key)

        def timed_out() -> None:
            leave()
            asker.reply.answer(QueueItems(items=[]))

        asker.wait(request.timeout_ms, timed_out, leave)

    def _match(self, key: bytes) -> None:
        """Those who wait get what there is."""
        for getter, items in self.state.matches(key):
            getter.asker.end()
            self._give(getter, items)
        partition = self.state.partitions.get(key)
        if partition is not None and partition.waiting and partition.watchers:
            watchers, partition.watchers = partition.watchers, []
            for watcher in watchers:
                watcher.end()
                watcher.again()

    def _give(self, getter: Getter, items: list[Item]) -> None:
        """Send held items to whoever asked for them."""
        items = self._fitting(items)
        if any(item.payload is None for item in items):
            self._queues.run(self._give_cold(getter, items))
            return
        if getter.lease_ms:
            self.state.lease(items, getter, self._queues.now_ms())
            self._queues.update(self, [item for item in items if item.is_stored])
            self._clock.set()
        sent = [(item, item.deliveries) for item in items]
        answer = QueueItems(items=[QueueItem(item.number, item.payload or b"", count) for item, count in sent])
        getter.asker.reply.answer(answer, lambda has_it: self._settled(getter, sent, has_it))

    def _fitting(self, items: list[Item]) -> list[Item]:
        """As many of them as one answer may have; the others go back."""
        size = 0
        for count, item in enumerate(items):
            size += item.size
            if count and size > PAGE_BYTES_MAX:
                self.state.give_back(items[count:])
                return items[:count]
        return items

    async def _give_cold(self, getter: Getter, items: list[Item]) -> None:
        try:
            await self._queues.warm_up(items)
        except Exception as error:
            self.state.give_back(items)
            getter.asker.reply.refuse(error)
            self._match(getter.partition)
            return
        if self.is_lost:
            getter.asker.again()
        elif getter.asker.reply.is_answered:  # it has hung up
            self._give_back(getter, items)
        else:
            self._give(getter, items)

    def _settled(self, getter: Getter, sent: list[tuple[Item, int]], has_it: bool) -> None:
        """The peer has the items, or never will."""
        items = still_with(getter, sent)
        if self.is_lost:
            if has_it and not getter.lease_ms:
                for item in items:
                    if item.origin is not None:
                        self._arrived(item.origin)
                self._queues.run(self._queues.forget_items(self.object_id, [item.number for item in items]))
        elif not has_it:
            self._give_back(getter, items)
        elif not getter.lease_ms:
            self._remove(getter.partition, items)
        elif not any(item.origin for item in items):
            self._queues.spare([item for item in items if item.is_stored])

    def _remove(self, key: bytes, items: Sequence[Item]) -> Change[StoredItem] | None:
        """Items are done with: the change that says so, if there is anything to write."""
        removed = self.state.remove(items)
        change = self._queues.drop(self, removed) if any(item.is_stored for item in removed) else None
        for item in removed:
            if item.origin is not None:
                self._arrived(item.origin)
        self._admit(key)
        return change

    def _give_back(self, getter: Getter, items: list[Item]) -> None:
        """Nobody has them: back to their places, and to whoever waits."""
        leased = [item for item in items if item.place is Place.LEASED]
        self.state.give_back(items)
        self._queues.update(self, [item for item in leased if item.is_stored])
        for handed in {item.origin for item in items if item.origin is not None}:
            self._write_handed(handed)
        self._match(getter.partition)

    def remove(self, numbers: Sequence[int]) -> None:
        """These have arrived, though they are here (again)."""
        wanted = set(numbers)
        for key, partition in list(self.state.partitions.items()):
            found = [item for item in partition.waiting if item.number in wanted]
            if found:
                self.state.withdraw(key, found)
                self._remove(key, found)

    # ------------------------------------------------------------------------------------------- leases, time

    def settle(self, leases: list[tuple[int, int]], done: bool, lease_ms: int) -> tuple[int, Change[StoredItem] | None]:
        """End leases, or set their ends: how many there were, and what has to be on disk first."""
        found = [self.state.leased_item(number, deliveries) for number, deliveries in dict(leases).items()]
        items = [item for item in found if item is not None]
        now_ms = self._queues.now_ms()
        if not items:
            return 0, None
        if not done and lease_ms:
            for item in items:
                self.state.extend(item, now_ms + lease_ms)
            self._clock.set()
            return len(items), self._queues.update(self, [item for item in items if item.is_stored])
        if not done:
            return len(items), self._fail(items, now_ms)
        removed = self.state.remove(items)
        change = self._queues.drop(self, removed)
        for key in {item.partition for item in removed}:
            self._admit(key)
        return len(items), change

    def _fail(self, items: list[Item], now_ms: int) -> Change[StoredItem] | None:
        touched = {item.partition for item in items}
        for item in items:
            self.state.fail(item, now_ms)
        change = self._queues.update(self, [item for item in items if item.is_stored])
        for key in touched | {item.partition for item in items}:
            self._match(key)
            self._admit(key)
        return change

    def end_leases(self) -> None:
        """Those whose time is over; also when the queue has been read."""
        self._clock.stop()
        now_ms = self._queues.now_ms()
        ended = self.state.ended_leases(now_ms)
        if ended:
            self._fail(ended, now_ms)
        self._clock.set()

    def clear(self, keys: list[bytes]) -> tuple[int, Change[StoredItem]]:
        """Drop what partitions have: how much it was."""
        gone = [item for key in keys for item in self.state.clear(key)]
        change = self._queues.drop(self, gone)
        for key in keys:
            self._admit(key)
        return len(gone), change

    def expire(self) -> None:
        """Drop what waits in partitions whose time is over."""
        gone = self.state.expire(self._queues.now_ms())
        if gone:
            self._queues.drop(self, gone)
            for key in {item.partition for item in gone}:
                self._admit(key)
