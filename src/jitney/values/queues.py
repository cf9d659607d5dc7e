"""Queues: partitions of items, first in first out. Items are bytes to everybody but the client."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from jitney.errors import InvalidError

PARTITION_BYTES_MAX = 64
PARTITIONS_MAX = 100_000  # of one queue
ITEMS_MAX = 5_000  # of one partition
ITEM_BYTES_MAX = 1024 * 1024
QUEUE_ITEMS_MAX = 1_000_000  # of one queue: what is known of each is in the server's memory
DEFAULT_PARTITION_TTL_MS = 24 * 3_600_000  # since the last put
PARTITION_TTL_MS_MAX = 7 * 24 * 3_600_000
LEASE_MS_MAX = 24 * 3_600_000
DEFAULT_MAX_DELIVERIES = 5
DELIVERIES_MAX = 1_000_000
PAGE_ITEMS_MAX = 1_000
PAGE_BYTES_MAX = 16 * 1024 * 1024

DEFAULT_PARTITION = b""
DEAD_LETTER = b"dead-letter"  # the partition of items that were delivered too often and never acknowledged
DEAD_LETTER_TTL_MS = 7 * 24 * 3_600_000


class StoredItem(msgspec.Struct, frozen=True, array_like=True):
    """An item as stored. `number` is its place: it grows with each put. Not leased: `leased_until_ms` is 0."""

    number: int
    partition: bytes
    payload: bytes | None  # None: left out, see `size`
    size: int
    expires_at_ms: int
    deliveries: int = 0
    max_deliveries: int = 0  # 0: no end
    leased_until_ms: int = 0

    def over(self, earlier: StoredItem) -> StoredItem:
        """This, with the payload of an earlier state of the same item."""
        return replace(self, payload=earlier.payload)


def check_partition(partition: bytes) -> None:
    """Refuse what cannot name a partition.

    Raises:
        InvalidError: it is too long.
    """
    if len(partition) > PARTITION_BYTES_MAX:
        raise InvalidError(
            f"a partition's name of {len(partition):,} bytes is over the limit of {PARTITION_BYTES_MAX}",
            hint="use a digest of it: hashlib.sha256(...).hexdigest()",
        )


def check_items(payloads: list[bytes]) -> None:
    """Refuse what cannot be put at once.

    Raises:
        InvalidError: too many items, or one that is too large.
    """
    if not 0 < len(payloads) <= ITEMS_MAX:
        raise InvalidError(f"one put has 1 to {ITEMS_MAX:,} items, not {len(payloads):,}", hint="put them in parts")
    for payload in payloads:
        if len(payload) > ITEM_BYTES_MAX:
            raise InvalidError(
                f"an item of {len(payload):,} bytes is over the limit of {ITEM_BYTES_MAX:,}",
                hint="put it into a Dict or a Volume, and its key or path into the queue",
            )
