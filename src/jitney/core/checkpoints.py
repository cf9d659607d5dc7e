"""Which checkpoints are kept, and under what name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from jitney.values.containers import TemplateSpec

MIB = 1 << 20
DISK_FREE_BYTES_MIN = 1 << 30  # what a checkpoint leaves to others


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on the disk. `is_of_use`: its code and its image are there, and processes can be made from it."""

    key: str
    size_bytes: int
    used_at_ms: int
    is_of_use: bool = True


def key_of(spec: TemplateSpec, *facts: str) -> str:
    """The name of the checkpoint of a template: another one for other code, image or snapshot, or other `facts`."""
    digest = hashlib.sha256(msgspec.msgpack.encode((spec, facts)))
    return digest.hexdigest()[:32]


def doomed(kept: Iterable[Kept], budget_bytes: int) -> tuple[str, ...]:
    """Those that go: the ones of no use, and then those that were used longest ago until the others fit."""
    going = []
    left_bytes = 0
    for one in sorted(kept, key=lambda one: (-one.used_at_ms, one.key)):
        if not one.is_of_use or left_bytes + one.size_bytes > budget_bytes:
            going.append(one.key)
        else:
            left_bytes += one.size_bytes
    return tuple(going)


def unfit(memory_bytes: int, budget_bytes: int, free_bytes: int) -> str:
    """Why a process with so much memory is not written down; '' where it may be."""
    if not budget_bytes:
        return "`checkpoints_mib` is 0"
    if memory_bytes > budget_bytes:
        return f"it has {memory_bytes // MIB:,} MiB of memory, and `checkpoints_mib` is {budget_bytes // MIB:,}"
    if memory_bytes + DISK_FREE_BYTES_MIN > free_bytes:
        return f"it has {memory_bytes // MIB:,} MiB of memory, and the disk has {free_bytes // MIB:,} MiB free"
    return ""
