"""The digests of blocks of files: several at a time, each while it is in the processor's cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jitney.core.volumes import block_hash
from jitney.values.volumes import BLOCK_BYTES

HASHERS_MAX = 8
PIECE_BYTES = 128 * 1024

_buffers = threading.local()


def hash_block(file: int, index: int, length: int) -> bytes:
    """The digest of a block of a file; that of fewer bytes, where the file ends before.

    Piece by piece: what has just been read is still in the processor's cache when it is hashed.
    """
    buffer: memoryview | None = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = memoryview(bytearray(PIECE_BYTES))
    found, at, end = block_hash(), index * BLOCK_BYTES, index * BLOCK_BYTES + length
    while at < end and (count := os.preadv(file, [buffer[: end - at]], at)):
        found.update(buffer[:count])
        at += count
    return found.digest()


def hash_blocks(file: int, blocks: Sequence[tuple[int, int]]) -> list[bytes]:
    """The digests of blocks, given as (index, length), several at a time."""
    workers = min(HASHERS_MAX, os.cpu_count() or 1, len(blocks))
    if workers < 2:
        return [hash_block(file, index, length) for index, length in blocks]
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        return list(pool.map(lambda block: hash_block(file, *block), blocks))
