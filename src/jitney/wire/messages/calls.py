"""Durable calls, and looking at calls of either kind."""

from __future__ import annotations

import msgspec

from jitney.values.calls import CallKind, CallRecord, Output


class CallSpawn(msgspec.Struct, frozen=True, kw_only=True):
    """Record inputs; answered only when they are on disk. The same (call_id, index) twice is one input.

    The client picks `call_id`: it is the idempotency key. A spawn_map comes in several of these; `complete=False`
    says that more follow.
    """

    call_id: str
    function_id: str
    method: str = ""
    kind: CallKind = CallKind.SPAWN
    first_index: int = 0
    payloads: list[bytes]
    complete: bool = True


class CallSpawned(msgspec.Struct, frozen=True, kw_only=True):
    call_id: str
    inputs: int


class CallRef(msgspec.Struct, frozen=True, kw_only=True):
    call_id: str


class CallOutputs(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a durable call from index `start` on, in index order without a gap: waits until the first is there.

    `timeout_ms=0` polls. The answer may have fewer than `limit`, and none after the timeout.
    """

    call_id: str
    start: int = 0
    limit: int = 1
    timeout_ms: int = 0


class CallOutputsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    outputs: list[Output]
    inputs: int  # of the call, as far as known
    inputs_complete: bool


class CallCancel(msgspec.Struct, frozen=True, kw_only=True):
    call_id: str
    terminate_containers: bool = False


class CallList(msgspec.Struct, frozen=True, kw_only=True):
    app: str = ""
    limit: int = 50


class CallListed(msgspec.Struct, frozen=True, kw_only=True):
    calls: tuple[CallRecord, ...]


class CallShown(msgspec.Struct, frozen=True, kw_only=True):
    call: CallRecord
    inputs: tuple[InputState, ...] = ()  # the first 100


class InputState(msgspec.Struct, frozen=True, kw_only=True):
    input_id: str
    index: int
    state: str  # queued, running, or a Status in lower case
    attempt: int = 0
    container_id: str = ""
