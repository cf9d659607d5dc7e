"""`Queue`: what one function puts, another gets."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, ClassVar

from jitney.client import codec
from jitney.client.dicts import new_op
from jitney.client.objects import Named, NamedObject
from jitney.client.talk import Ask, Pages, Talk, here, talk, talk_iter, there
from jitney.errors import InvalidError, LeaseEndedError, QueueEmptyError
from jitney.values import queues
from jitney.values.objects import ObjectKind
from jitney.wire import methods
from jitney.wire.messages.queues import QueueItem

PUT_BYTES_MAX = 8 * 1024 * 1024  # of one request, and so of what is put all at once
PARTITION_TTL_S = queues.DEFAULT_PARTITION_TTL_MS // 1_000
LOOK_AT_ONCE = 100
_count = len  # a method has the name


class Lease:
    """An item that is yours until `lease` seconds are over. Acknowledge it, or somebody else gets it.

    As a context manager it is acknowledged at the end of the block, and given back when the block raises.
    """

    def __init__(self, queue: Queue, item: QueueItem, value: Any) -> None:
        """Of the SDK: see `Queue.get`."""
        self._queue = queue
        self._item = item
        self.value = value
        self._over = False

    def __repr__(self) -> str:
        return f"<Lease of {self.value!r:.60}>"

    @property
    def deliveries(self) -> int:
        """How often it has been leased, this time included."""
        return self._item.deliveries

    @talk
    def ack(self) -> Talk[None]:
        """It is done: it will not be delivered again. On disk when this returns.

        Raises:
            LeaseEndedError: the lease was over already, and somebody else may have the item.
        """
        yield from self._settle(done=True)

    @talk
    def nack(self) -> Talk[None]:
        """Give it back now, to its place; it goes to the dead letters if it was delivered too often.

        Raises:
            LeaseEndedError: as `ack`.
        """
        yield from self._settle(done=False)

    @talk
    def extend(self, lease: float) -> Talk[None]:
        """Keep it for `lease` seconds from now.

        Raises:
            LeaseEndedError: as `ack`.
        """
        yield from self._settle(done=False, lease_ms=_milliseconds("lease", lease, queues.LEASE_MS_MAX))

    def _settle(self, *, done: bool, lease_ms: int = 0) -> Generator[Ask, Any, None]:
        answer = yield from self._queue._ask(
            methods.QUEUE_SETTLE,
            leases=[(self._item.number, self._item.deliveries)],
            done=done,
            lease_ms=lease_ms,
            op=new_op(),
        )
        self._over = not lease_ms
        if not answer.count:
            raise LeaseEndedError(
                "the lease of this item has ended", hint="ask for a longer one, or call extend() while you work on it"
            )

    def __enter__(self) -> Any:
        return self.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._over:
            here(self._leave(error))

    async def __aenter__(self) -> Any:
        return self.value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._over:
            await there(self._leave(error))

    def _leave(self, error: BaseException | None) -> Generator[Ask, Any, None]:
        try:
            yield from self._settle(done=error is None)
        except LeaseEndedError:
            if error is None:
                raise


class Queue(NamedObject):
    """A queue on the server: first in, first out in each partition. A put is on disk when it returns, or has been got.

    Items: whatever can be pickled, up to 1 MiB; 5,000 in a partition, 100,000 partitions. Those who wait for items get
    them in turn. An item is delivered once; when the server is killed in the moment of its delivery, once more. With a
    lease it is delivered until somebody acknowledges it.

        jobs = jitney.Queue.from_name("jobs", create_if_missing=True)
        jobs.put({"page": 3})
        item = jobs.get(lease=60)
        item.ack()
    """

    KIND = ObjectKind.QUEUE
    DEAD_LETTER: ClassVar[str] = queues.DEAD_LETTER.decode()
    objects: ClassVar[Named[Queue]]

    @talk
    def put(
        self,
        v: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: float = PARTITION_TTL_S,
    ) -> Talk[None]:
        """Put an item at the end of a partition.

        Args:
            block: wait where the partition is full (5,000 items), with others in turn.
            timeout: seconds to wait; None waits as long as it takes.
            partition: its name, up to 64 bytes; None: the one without a name.
            partition_ttl: seconds after the last put until the partition is emptied.

        Raises:
            QueueFullError: there is no room (also a `queue.Full`).
            SerializationError: the item cannot be pickled.
            InvalidError: it is over 1 MiB.
        """
        yield from self._put([codec.encode_item(v)], block, timeout, partition, partition_ttl)

    @talk
    def put_many(
        self,
        vs: Iterable[Any],
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: float = PARTITION_TTL_S,
    ) -> Talk[None]:
        """Put items, at most 5,000: all at once, or, where they come to more than 8 MiB, in parts. See `put`."""
        bodies = [codec.encode_item(v) for v in vs]
        if _count(bodies) > queues.ITEMS_MAX:
            raise InvalidError(
                f"{_count(bodies):,} items are put at once; the limit is {queues.ITEMS_MAX:,}", hint="put them in parts"
            )
        part: list[bytes] = []
        size = 0
        for body in bodies:
            if part and size + _count(body) > PUT_BYTES_MAX:
                yield from self._put(part, block, timeout, partition, partition_ttl)
                part, size = [], 0
            part.append(body)
            size += _count(body)
        if part:
            yield from self._put(part, block, timeout, partition, partition_ttl)

    def _put(
        self, bodies: list[bytes], block: bool, timeout: float | None, partition: str | None, ttl: float
    ) -> Generator[Ask, Any, None]:
        yield from self._ask(
            methods.QUEUE_PUT,
            items=bodies,
            partition=_partition(partition),
            ttl_ms=_milliseconds("partition_ttl", ttl, queues.PARTITION_TTL_MS_MAX),
            timeout_ms=_timeout_ms(block, timeout),
            op=new_op(),
        )

    @talk
    def get(
        self,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        lease: float | None = None,
        max_deliveries: int | None = queues.DEFAULT_MAX_DELIVERIES,
    ) -> Talk[Any]:
        """Take the first item of a partition.

        Args:
            block: wait for one, with others in turn. Without, an empty partition gives None.
            timeout: seconds to wait; None waits as long as it takes.
            partition: its name; None: the one without a name.
            lease: seconds. Then a `Lease` is given, and the item comes back unless it is acknowledged.
            max_deliveries: after so many leases without acknowledgement it goes to the partition `Queue.DEAD_LETTER`;
                None: never.

        Raises:
            QueueEmptyError: nothing came in time (also a `queue.Empty`).
            DeserializationError: the item cannot be unpickled here; without a lease it is gone then.
        """
        found = yield from self._get(1, block, timeout, partition, lease, max_deliveries)
        return found[0] if found else None

    @talk
    def get_many(
        self,
        n_values: int,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        lease: float | None = None,
        max_deliveries: int | None = queues.DEFAULT_MAX_DELIVERIES,
    ) -> Talk[list[Any]]:
        """Take up to `n_values` items; the first of them is waited for. See `get`."""
        return (yield from self._get(n_values, block, timeout, partition, lease, max_deliveries))

    def _get(
        self,
        count: int,
        block: bool,
        timeout: float | None,
        partition: str | None,
        lease: float | None,
        max_deliveries: int | None,
    ) -> Generator[Ask, Any, list[Any]]:
        answer = yield from self._ask(
            methods.QUEUE_GET,
            held=True,
            partition=_partition(partition),
            count=count,
            timeout_ms=_timeout_ms(block, timeout),
            lease_ms=0 if lease is None else _milliseconds("lease", lease, queues.LEASE_MS_MAX),
            max_deliveries=_deliveries(max_deliveries),
        )
        if block and not answer.items:
            where = f" partition {partition!r} of" if partition else ""
            raise QueueEmptyError(f"nothing came into{where} {self!r} within {timeout:g} s")
        values = [codec.decode_value(item.payload) for item in answer.items]
        if lease is None:
            return values
        return [Lease(self, item, value) for item, value in zip(answer.items, values, strict=True)]

    @talk_iter
    def iterate(self, *, partition: str | None = None, item_poll_timeout: float = 0.0) -> Pages[Any]:
        """Items of a partition, in order; they stay in it.

        Args:
            item_poll_timeout: seconds to wait for a next item at the end.
        """
        after = 0
        key = _partition(partition)
        until = time.monotonic() + item_poll_timeout
        while True:
            left_ms = max(0, round((until - time.monotonic()) * 1_000))
            answer = yield from self._ask(
                methods.QUEUE_LOOK, partition=key, after=after, limit=LOOK_AT_ONCE, timeout_ms=left_ms
            )
            if not answer.items:
                return
            yield [codec.decode_value(item.payload) for item in answer.items]
            after = answer.items[-1].number
            until = time.monotonic() + item_poll_timeout

    @talk
    def len(self, *, partition: str | None = None, total: bool = False) -> Talk[int]:
        """How many items wait. Those that are leased do not.

        Args:
            total: in all partitions.
        """
        return (yield from self._ask(methods.QUEUE_LENGTH, partition=_partition(partition), total=total)).count  # type: ignore[no-any-return]

    @talk
    def clear(self, *, partition: str | None = None, all: bool = False) -> Talk[None]:
        """Drop what a partition has, leased items too.

        Args:
            all: of all partitions.
        """
        if all and partition is not None:
            raise InvalidError("clear() has both a partition and all=True", hint="give one of them")
        yield from self._ask(methods.QUEUE_CLEAR, partition=_partition(partition), all=all)


def _partition(name: str | None) -> bytes:
    if name == "":
        raise InvalidError("a partition's name has at least one character", hint="leave it out for the default one")
    key = (name or "").encode()
    queues.check_partition(key)
    return key


def _timeout_ms(block: bool, timeout: float | None) -> int | None:
    if not block:
        return 0
    if timeout is None:
        return None
    if timeout < 0:
        raise InvalidError(f"timeout must not be negative, and is {timeout:g}")
    return round(timeout * 1_000)


def _milliseconds(name: str, seconds: float, limit_ms: int) -> int:
    milliseconds = round(seconds * 1_000)
    if not 0 < milliseconds <= limit_ms:
        raise InvalidError(f"{name} must be more than 0 and at most {limit_ms // 1_000:,} seconds, not {seconds:g}")
    return milliseconds


def _deliveries(count: int | None) -> int:
    if count is not None and not 1 <= count <= queues.DELIVERIES_MAX:
        raise InvalidError(f"max_deliveries must be from 1 to {queues.DELIVERIES_MAX:,}, or None, not {count}")
    return count or 0


Queue.objects = Named(Queue)
