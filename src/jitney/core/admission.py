"""Whether a pool takes more inputs: the limits that keep the server's memory bounded (Modal's figures).

Refusing is an answer, not a failure: it says the reason, when to try again, and what would help.
"""

from __future__ import annotations

import msgspec

from jitney.values.calls import INPUTS_MAX_CONNECTED, INPUTS_MAX_DURABLE, PENDING_INPUTS_MAX_CONNECTED, CallKind

QUEUED_BYTES_MAX = 1 << 30  # payloads held in the server's memory, over all pools
RETRY_AFTER_MS = 100


class Load(msgspec.Struct, frozen=True):
    """What a pool holds now, and the server's payload bytes over all pools."""

    queued: int
    running: int
    queued_bytes: int


class Refusal(msgspec.Struct, frozen=True):
    """Not now: why, and when to try again."""

    message: str
    hint: str
    retry_after_ms: int


def room(load: Load, kind: CallKind) -> int:
    """How many more inputs of a call of `kind` the pool may take now (0 or more)."""
    if load.queued_bytes >= QUEUED_BYTES_MAX:
        return 0
    if kind.is_durable:
        return max(0, INPUTS_MAX_DURABLE - load.queued)
    return max(0, min(PENDING_INPUTS_MAX_CONNECTED - load.queued, INPUTS_MAX_CONNECTED - load.queued - load.running))


def refusal(load: Load, kind: CallKind, name: str) -> Refusal:
    """Why `room` was not enough, for the person who waits."""
    if load.queued_bytes >= QUEUED_BYTES_MAX:
        return Refusal(
            f"the server holds {load.queued_bytes >> 20:,} MiB of queued arguments, its limit",
            "pass large data by reference (a path, a volume) instead of as an argument",
            RETRY_AFTER_MS * 10,
        )
    limit = INPUTS_MAX_DURABLE if kind.is_durable else PENDING_INPUTS_MAX_CONNECTED
    return Refusal(
        f"{name} has {load.queued:,} inputs queued, its limit is {limit:,}",
        "the client waits and sends them again; more containers (max_containers) drain the queue faster",
        RETRY_AFTER_MS,
    )
