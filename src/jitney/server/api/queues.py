"""Queues: the handlers of the queue.* methods. They answer in the turn in which they are asked, or when they can."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from jitney.core.queues import Item
from jitney.errors import InvalidError, JitneyError
from jitney.server.api.reply import Reply
from jitney.server.api.table import Peer, Table
from jitney.server.handover import Asker, HotQueue
from jitney.server.journal import Change
from jitney.server.queues import Queues
from jitney.values import queues as values
from jitney.wire import codec, methods
from jitney.wire.messages import queues as qm


class QueuesApi:
    """Handlers of the queue.* methods."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def register(self, table: Table) -> None:
        """Answer the queue.* methods."""
        table.at_once(methods.QUEUE_PUT, self.put)
        table.at_once(methods.QUEUE_GET, self.get)
        table.at_once(methods.QUEUE_SETTLE, self.settle)
        table.at_once(methods.QUEUE_LOOK, self.look)
        table.at_once(methods.QUEUE_LENGTH, self.length)
        table.at_once(methods.QUEUE_CLEAR, self.clear)
        table.at_once(methods.QUEUE_PARTITIONS, self.partitions)

    def _find(self, object_id: str, again: Callable[[], None], reply: Reply) -> HotQueue | None:
        """The queue; None where it has to be read first: `again` is called then."""
        return self._queues.hot.find(object_id, self._queues.now_ms(), again, reply)

    def put(self, peer: Peer, request: qm.QueuePut, reply: Reply) -> None:
        """Put items."""

        def again() -> None:
            self.put(peer, request, reply)

        if self._queues.ops.repeat(request.op, reply):
            return
        values.check_partition(request.partition)
        values.check_items(request.items)
        _within("partition_ttl (ms)", request.ttl_ms, 1, values.PARTITION_TTL_MS_MAX)
        hot = self._find(request.object_id, again, reply)
        if hot is not None:
            hot.put(request, Asker(reply, again, request.op))

    def get(self, peer: Peer, request: qm.QueueGet, reply: Reply) -> None:
        """Take items."""

        def again() -> None:
            self.get(peer, request, reply)

        values.check_partition(request.partition)
        _within("the number of items", request.count, 1, values.ITEMS_MAX)
        _within("lease (ms)", request.lease_ms, 0, values.LEASE_MS_MAX)
        _within("max_deliveries", request.max_deliveries, 0, values.DELIVERIES_MAX)
        hot = self._find(request.object_id, again, reply)
        if hot is not None:
            hot.get(request, Asker(reply, again))

    def settle(self, peer: Peer, request: qm.QueueSettle, reply: Reply) -> None:
        """End leases: acknowledge, give back, or hold on for longer."""
        if self._queues.ops.repeat(request.op, reply):
            return
        _within("lease (ms)", request.lease_ms, 0, values.LEASE_MS_MAX)
        hot = self._find(request.object_id, lambda: self.settle(peer, request, reply), reply)
        if hot is None:
            return
        count, change = hot.settle(request.leases, request.done, request.lease_ms)
        answer = qm.QueueDone(count=count)
        if change is not None:
            self._queues.ops.begun(request.op, codec.encode(answer), change)
        _answer(reply, answer, change)

    def look(self, peer: Peer, request: qm.QueueLook, reply: Reply) -> None:
        """Items that wait, which stay."""

        def again() -> None:
            self.look(peer, request, reply)

        values.check_partition(request.partition)
        hot = self._find(request.object_id, again, reply)
        if hot is None:
            return
        key = request.partition
        items = _page(hot.state.peek(key, request.after, max(1, min(request.limit, values.PAGE_ITEMS_MAX))))
        if not items and request.timeout_ms != 0:
            self._watch(hot, request, Asker(reply, again))
        elif any(item.payload is None for item in items):
            self._queues.run(self._look_cold(items, reply))
        else:
            reply.answer(_shown(items, {}))

    def _watch(self, hot: HotQueue, request: qm.QueueLook, asker: Asker) -> None:
        partition = hot.state.partition(request.partition)
        partition.watchers.append(asker)

        def leave() -> None:
            asker.end()
            partition.watchers.remove(asker)
            hot.state.tidy(request.partition)

        def timed_out() -> None:
            leave()
            asker.reply.answer(qm.QueueItems(items=[]))

        asker.wait(request.timeout_ms, timed_out, leave)

    async def _look_cold(self, items: list[Item], reply: Reply) -> None:
        try:
            reply.answer(_shown(items, await self._queues.read(items)))
        except Exception as error:
            reply.refuse(error)

    def length(self, peer: Peer, request: qm.QueueLength, reply: Reply) -> None:
        """How many items wait."""
        values.check_partition(request.partition)
        hot = self._find(request.object_id, lambda: self.length(peer, request, reply), reply)
        if hot is not None:
            count = hot.state.total() if request.total else hot.state.length(request.partition)
            reply.answer(qm.QueueDone(count=count))

    def clear(self, peer: Peer, request: qm.QueueClear, reply: Reply) -> None:
        """Drop items."""
        values.check_partition(request.partition)
        hot = self._find(request.object_id, lambda: self.clear(peer, request, reply), reply)
        if hot is not None:
            count, change = hot.clear(list(hot.state.partitions) if request.all else [request.partition])
            _answer(reply, qm.QueueDone(count=count), change)

    def partitions(self, peer: Peer, request: qm.QueueRef, reply: Reply) -> None:
        """The partitions that have items."""
        hot = self._find(request.object_id, lambda: self.partitions(peer, request, reply), reply)
        if hot is not None:
            found = [
                qm.QueuePartition(partition=key, waiting=len(one.waiting), leased=one.count - len(one.waiting))
                for key, one in sorted(hot.state.partitions.items())
                if one.count
            ]
            reply.answer(qm.QueuePartitions(partitions=found))


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidError(f"{name} must be from {low:,} to {high:,}, not {value:,}")


def _page(items: list[Item]) -> list[Item]:
    size = 0
    for count, item in enumerate(items):
        size += item.size
        if count and size > values.PAGE_BYTES_MAX:
            return items[:count]
    return items


def _shown(items: list[Item], read: Mapping[int, bytes]) -> qm.QueueItems:
    found = [(item, item.payload if item.payload is not None else read.get(item.number)) for item in items]
    there = [qm.QueueItem(item.number, payload, item.deliveries) for item, payload in found if payload is not None]
    return qm.QueueItems(items=there)


def _answer(reply: Reply, answer: msgspec.Struct, change: Change[values.StoredItem] | None) -> None:
    """Answer now, or when the change is on disk."""
    if change is None:
        reply.answer(answer)
        return

    def written(error: JitneyError | None) -> None:
        if error is None:
            reply.answer(answer)
        else:
            reply.refuse(error)

    change.waiters.append(written)
