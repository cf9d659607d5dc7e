"""One queue in memory: partitions of items, who waits for them, and who has them.

An item waits at its place (its number), is *held* by a link that it was sent to and that has not said yet that it has
it, is *leased* to somebody who will acknowledge it, or is gone. What is held or leased goes back to its place when the
link breaks or the lease ends: before what was put later. So a getter that hangs up loses nothing, and order is kept.

Getters wait in line, as do putters where a partition is full. An item goes to whoever has waited longest, and nobody
who comes later gets past: while somebody waits, nothing is left to take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any

from jitney.errors import QueueFullError, ResourceExhaustedError
from jitney.values import queues
from jitney.values.queues import StoredItem


class Place(IntEnum):
    """Where an item is."""

    WAITING = 0
    HELD = 1
    LEASED = 2
    GONE = 3


class Item:
    """An item. `payload` is None where it is in the store only; `is_stored` once the store has it."""

    __slots__ = (
        "deliveries", "expires_at_ms", "is_stored", "leased_until_ms", "max_deliveries", "number", "origin",
        "partition", "payload", "place", "size",
    )  # fmt: skip

    def __init__(self, number: int, partition: bytes, payload: bytes | None, size: int, expires_at_ms: int) -> None:
        self.number = number
        self.partition = partition
        self.payload = payload
        self.size = size
        self.expires_at_ms = expires_at_ms
        self.deliveries = 0
        self.max_deliveries = 0
        self.leased_until_ms = 0
        self.place = Place.WAITING
        self.is_stored = False
        self.origin: Any = None  # what waits until the item is safe: of the shell

    def __lt__(self, other: Item) -> bool:
        return self.number < other.number

    def stored(self) -> StoredItem:
        """As it is to be stored; the payload is left out when the store has it."""
        return StoredItem(
            self.number,
            self.partition,
            None if self.is_stored else self.payload,
            self.size,
            self.expires_at_ms,
            self.deliveries,
            self.max_deliveries,
            self.leased_until_ms,
        )


class Getter:
    """Somebody who wants up to `count` items. `lease_ms` 0: for good. `asker` is of the shell."""

    __slots__ = ("asker", "count", "lease_ms", "max_deliveries", "partition")

    def __init__(self, partition: bytes, count: int, lease_ms: int, max_deliveries: int, asker: Any) -> None:
        self.partition = partition
        self.count = count
        self.lease_ms = lease_ms
        self.max_deliveries = max_deliveries
        self.asker = asker


class Putter:
    """Somebody who waits for room for all of `payloads`. `asker` is of the shell."""

    __slots__ = ("asker", "partition", "payloads", "ttl_ms")

    def __init__(self, partition: bytes, payloads: list[bytes], ttl_ms: int, asker: Any) -> None:
        self.partition = partition
        self.payloads = payloads
        self.ttl_ms = ttl_ms
        self.asker = asker


class Partition:
    """Items that wait, in order; `count` has those that are held or leased too."""

    __slots__ = ("count", "expires_at_ms", "getters", "putters", "waiting", "watchers")

    def __init__(self) -> None:
        self.waiting: list[Item] = []  # a heap
        self.count = 0
        self.expires_at_ms = 0
        self.getters: deque[Getter] = deque()
        self.putters: deque[Putter] = deque()
        self.watchers: list[Any] = []  # of the shell: they want to hear of the next item

    @property
    def is_unused(self) -> bool:
        """Whether nobody would miss it."""
        return not (self.count or self.getters or self.putters or self.watchers)


class QueueState:
    """A queue.

    >>> from itertools import count
    >>> state = QueueState()
    >>> _ = state.put(b"", [b"a", b"b"], 0, 60_000, count(1))
    >>> first = state.take(b"", 1)
    >>> state.give_back(first)
    >>> [item.payload for item in state.take(b"", 5)]
    [b'a', b'b']
    """

    def __init__(self, items: Iterable[StoredItem] = ()) -> None:
        self.partitions: dict[bytes, Partition] = {}
        self.leased: dict[int, Item] = {}
        self.count = 0
        self._lease_ends: list[tuple[int, int]] = []  # a heap of (when, item), with some that are over
        self.restore(items)

    def __iter__(self) -> Iterator[Item]:
        """Items that wait, and those that are leased."""
        for partition in self.partitions.values():
            yield from partition.waiting
        yield from self.leased.values()

    @property
    def is_at_rest(self) -> bool:
        """Whether every item waits, and nobody waits for one."""
        waiting = sum(len(partition.waiting) for partition in self.partitions.values())
        return waiting == self.count and not any(p.getters or p.putters or p.watchers for p in self.partitions.values())

    def askers(self) -> list[Any]:
        """Who waits for items or for room."""
        found: list[Any] = []
        for partition in self.partitions.values():
            found += [getter.asker for getter in partition.getters]
            found += [putter.asker for putter in partition.putters]
            found += partition.watchers
        return found

    def restore(self, items: Iterable[StoredItem]) -> None:
        """Add items as they are stored."""
        for stored in items:
            self._restore(stored)

    def _restore(self, stored: StoredItem) -> None:
        item = Item(stored.number, stored.partition, stored.payload, stored.size, stored.expires_at_ms)
        item.deliveries, item.max_deliveries = stored.deliveries, stored.max_deliveries
        item.is_stored = True
        partition = self.partition(stored.partition)
        partition.expires_at_ms = max(partition.expires_at_ms, stored.expires_at_ms)
        partition.count += 1
        self.count += 1
        if stored.leased_until_ms:
            self._note_lease(item, stored.leased_until_ms)
        else:
            heappush(partition.waiting, item)

    def partition(self, key: bytes) -> Partition:
        """The partition of that name, made if it is new.

        Raises:
            ResourceExhaustedError: there are too many.
        """
        partition = self.partitions.get(key)
        if partition is None:
            if len(self.partitions) >= queues.PARTITIONS_MAX:
                raise ResourceExhaustedError(
                    f"the queue has {queues.PARTITIONS_MAX:,} partitions, which is the limit",
                    hint="partitions end when they are empty, or by their partition_ttl",
                )
            partition = self.partitions[key] = Partition()
        return partition

    def tidy(self, key: bytes) -> None:
        """Forget a partition that nobody would miss."""
        partition = self.partitions.get(key)
        if partition is not None and partition.is_unused:
            del self.partitions[key]

    # ------------------------------------------------------------------------------------------- putting

    def has_room(self, key: bytes, count: int) -> bool:
        """Whether so many items may be put now, by somebody who has not waited."""
        partition = self.partitions.get(key)
        if partition is None:
            return True
        return not partition.putters and partition.count + count <= queues.ITEMS_MAX

    def put(self, key: bytes, payloads: list[bytes], now_ms: int, ttl_ms: int, numbers: Iterator[int]) -> list[Item]:
        """Add items at the end of a partition.

        Raises:
            QueueFullError: the partition has no room for all of them; nothing was put.
            ResourceExhaustedError: too many partitions, or too many items in all of them.
        """
        if self.count + len(payloads) > queues.QUEUE_ITEMS_MAX:
            raise ResourceExhaustedError(
                f"the queue has {self.count:,} items; the limit for all partitions is {queues.QUEUE_ITEMS_MAX:,}",
                hint="take some out, or use several queues",
            )
        partition = self.partition(key)
        if partition.count + len(payloads) > queues.ITEMS_MAX:
            raise full(partition.count)
        partition.expires_at_ms = max(partition.expires_at_ms, now_ms + ttl_ms)
        items = [Item(next(numbers), key, payload, len(payload), partition.expires_at_ms) for payload in payloads]
        for item in items:
            heappush(partition.waiting, item)
        partition.count += len(items)
        self.count += len(items)
        return items

    def admitted(self, key: bytes) -> Iterator[Putter]:
        """Putters for whom there is room now, in turn; each must be put before the next is asked for."""
        partition = self.partitions.get(key)
        while partition is not None and partition.putters:
            if partition.count + len(partition.putters[0].payloads) > queues.ITEMS_MAX:
                return
            yield partition.putters.popleft()

    # ------------------------------------------------------------------------------------------- taking

    def take(self, key: bytes, count: int) -> list[Item]:
        """The first items of a partition, at most `count`: they are held."""
        partition = self.partitions.get(key)
        if partition is None:
            return []
        taken = [heappop(partition.waiting) for _ in range(min(count, len(partition.waiting)))]
        for item in taken:
            item.place = Place.HELD
        return taken

    def withdraw(self, key: bytes, items: list[Item]) -> None:
        """Take items that wait out of their line: they are held."""
        partition = self.partitions[key]
        for item in items:
            item.place = Place.HELD
        partition.waiting = [item for item in partition.waiting if item.place is Place.WAITING]
        heapify(partition.waiting)

    def matches(self, key: bytes) -> Iterator[tuple[Getter, list[Item]]]:
        """Items for those who wait for them, in turn."""
        partition = self.partitions.get(key)
        while partition is not None and partition.waiting and partition.getters:
            getter = partition.getters.popleft()
            yield getter, self.take(key, getter.count)

    def lease(self, items: Iterable[Item], getter: Getter, now_ms: int) -> None:
        """Held items are leased for the time that the getter asked for: one more delivery of each."""
        for item in items:
            item.deliveries += 1
            item.max_deliveries = getter.max_deliveries
            self._note_lease(item, now_ms + getter.lease_ms)

    def _note_lease(self, item: Item, until_ms: int) -> None:
        item.place, item.leased_until_ms = Place.LEASED, until_ms
        self.leased[item.number] = item
        heappush(self._lease_ends, (until_ms, item.number))

    def leased_item(self, number: int, deliveries: int) -> Item | None:
        """The item of a lease that has not ended; `deliveries` tells it from later leases of the same item."""
        item = self.leased.get(number)
        return item if item is not None and item.deliveries == deliveries else None

    def extend(self, item: Item, until_ms: int) -> None:
        """Have the lease end at another time."""
        self._note_lease(item, until_ms)

    def give_back(self, items: Iterable[Item]) -> None:
        """Put held or leased items back to their places."""
        for item in items:
            if item.place is Place.LEASED:
                del self.leased[item.number]
                item.leased_until_ms = 0
            elif item.place is not Place.HELD:
                continue
            item.place = Place.WAITING
            heappush(self.partitions[item.partition].waiting, item)

    def remove(self, items: Iterable[Item]) -> list[Item]:
        """Held or leased items are done with: those that were not gone already."""
        removed = [item for item in items if item.place in (Place.HELD, Place.LEASED)]
        for item in removed:
            self.leased.pop(item.number, None)
            item.place = Place.GONE
            self._left(item)
        return removed

    def _left(self, item: Item) -> None:
        self.partitions[item.partition].count -= 1
        self.count -= 1

    def next_lease_end_ms(self) -> int | None:
        """When the next lease ends; None if there is none."""
        while self._lease_ends:
            until_ms, number = self._lease_ends[0]
            item = self.leased.get(number)
            if item is not None and item.leased_until_ms == until_ms:
                return until_ms
            heappop(self._lease_ends)
        return None

    def ended_leases(self, now_ms: int) -> list[Item]:
        """Items whose leases are over: still leased, for `fail`."""
        ended = []
        while (until_ms := self.next_lease_end_ms()) is not None and until_ms <= now_ms:
            ended.append(self.leased[heappop(self._lease_ends)[1]])
        return ended

    def fail(self, item: Item, now_ms: int) -> None:
        """A lease ended without acknowledgement: back to its place, or to the dead letters."""
        if not item.max_deliveries or item.deliveries < item.max_deliveries or item.partition == queues.DEAD_LETTER:
            self.give_back([item])
            return
        self._left(item)
        dead = self.partitions.setdefault(queues.DEAD_LETTER, Partition())  # beyond all limits: nothing may be lost
        item.partition = queues.DEAD_LETTER
        item.expires_at_ms = now_ms + queues.DEAD_LETTER_TTL_MS
        dead.expires_at_ms = max(dead.expires_at_ms, item.expires_at_ms)
        dead.count += 1
        self.count += 1
        self.give_back([item])

    # ------------------------------------------------------------------------------------------- looking, ending

    def peek(self, key: bytes, after: int, limit: int) -> list[Item]:
        """Items that wait, in order, with greater numbers than `after`; they stay."""
        partition = self.partitions.get(key)
        return sorted(item for item in partition.waiting if item.number > after)[:limit] if partition else []

    def length(self, key: bytes) -> int:
        """How many items wait in a partition."""
        partition = self.partitions.get(key)
        return len(partition.waiting) if partition else 0

    def total(self) -> int:
        """How many items wait in all partitions."""
        return sum(len(partition.waiting) for partition in self.partitions.values())

    def clear(self, key: bytes) -> list[Item]:
        """Take everything out of a partition, leased items too. Held ones are on their way, and stay."""
        partition = self.partitions.get(key)
        if partition is None:
            return []
        gone, partition.waiting = partition.waiting, []
        gone += self.remove([item for item in self.leased.values() if item.partition == key])
        for item in gone:
            if item.place is not Place.GONE:
                item.place = Place.GONE
                self._left(item)
        return gone

    def expire(self, now_ms: int) -> list[Item]:
        """Take out what waits in partitions whose time is over."""
        gone: list[Item] = []
        for key, partition in list(self.partitions.items()):
            if partition.expires_at_ms <= now_ms and partition.waiting:
                items, partition.waiting = partition.waiting, []
                for item in items:
                    item.place = Place.GONE
                    self._left(item)
                gone += items
            self.tidy(key)
        return gone


def still_with(getter: Getter, sent: Iterable[tuple[Item, int]]) -> list[Item]:
    """Which of the items that a getter was sent, each with its `deliveries` then, it has not lost since.

    A lease may end before its answer is known to have arrived, and somebody else have the item by then.
    """
    place = Place.LEASED if getter.lease_ms else Place.HELD
    return [item for item, deliveries in sent if item.place is place and item.deliveries == deliveries]


def full(count: int) -> QueueFullError:
    """A partition has no room."""
    return QueueFullError(
        f"the partition has {count:,} items; the limit is {queues.ITEMS_MAX:,}",
        hint="get some out, wait with put(block=True), or use more partitions",
    )
