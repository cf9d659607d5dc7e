"""Items of a queue. Partitions and payloads are opaque bytes. `op`: as in messages.dicts.

`timeout_ms`: 0 looks and does not wait; None waits as long as it takes. An answer with items is confirmed by the peer
(`link.Received`): until then they are on their way, and go back to their places if the link breaks.
"""

from __future__ import annotations

import msgspec

from jitney.values.queues import DEFAULT_MAX_DELIVERIES, DEFAULT_PARTITION_TTL_MS


class QueuePut(msgspec.Struct, frozen=True, kw_only=True):
    """Put items at the end of a partition, all of them or none. Answered when they are on disk, or have been taken."""

    object_id: str
    items: list[bytes]
    partition: bytes = b""
    ttl_ms: int = DEFAULT_PARTITION_TTL_MS
    timeout_ms: int | None = 0
    op: int = 0


class QueueDone(msgspec.Struct, frozen=True, kw_only=True):
    """How many items it was."""

    count: int


class QueueGet(msgspec.Struct, frozen=True, kw_only=True):
    """Take up to `count` items; the first of them is waited for. `lease_ms`: they come back unless acknowledged."""

    object_id: str
    partition: bytes = b""
    count: int = 1
    timeout_ms: int | None = 0
    lease_ms: int = 0
    max_deliveries: int = DEFAULT_MAX_DELIVERIES


class QueueItem(msgspec.Struct, frozen=True, array_like=True):
    """An item, at its place. `deliveries`: leases so far, of which this is the last."""

    number: int
    payload: bytes
    deliveries: int = 0


class QueueItems(msgspec.Struct, frozen=True, kw_only=True):
    """None: nothing came in time."""

    items: list[QueueItem]


class QueueSettle(msgspec.Struct, frozen=True, kw_only=True):
    """End leases: (number, deliveries) each. `done`: the items go; otherwise they come back, now or in `lease_ms`."""

    object_id: str
    leases: list[tuple[int, int]]
    done: bool = True
    lease_ms: int = 0
    op: int = 0


class QueueLook(msgspec.Struct, frozen=True, kw_only=True):
    """Items that wait with greater numbers than `after`; they stay. The first of them is waited for."""

    object_id: str
    partition: bytes = b""
    after: int = 0
    limit: int = 100
    timeout_ms: int | None = 0


class QueueLength(msgspec.Struct, frozen=True, kw_only=True):
    """How many items wait, in one partition or (`total`) in all."""

    object_id: str
    partition: bytes = b""
    total: bool = False


class QueueClear(msgspec.Struct, frozen=True, kw_only=True):
    """Drop the items of one partition, or of all."""

    object_id: str
    partition: bytes = b""
    all: bool = False


class QueueRef(msgspec.Struct, frozen=True, kw_only=True):
    object_id: str


class QueuePartition(msgspec.Struct, frozen=True, kw_only=True):
    """`leased` has those that somebody works on."""

    partition: bytes
    waiting: int
    leased: int


class QueuePartitions(msgspec.Struct, frozen=True, kw_only=True):
    partitions: list[QueuePartition]
