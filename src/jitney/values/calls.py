"""What the system tracks of a call: its inputs, their attempts and results."""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec

from jitney.values import ids

OUTPUT_TTL_MS = 7 * 24 * 3_600_000  # how long a durable result is kept (Modal: 7 days)
PENDING_INPUTS_MAX_CONNECTED = 2_000  # queued and not running, per function (Modal's sync limit)
INPUTS_MAX_CONNECTED = 25_000  # queued and running, per function
INPUTS_MAX_DURABLE = 1_000_000  # queued, per function
CRASHES_MAX = 3  # containers that one input may take down before it fails (a poisoned input)
INTERNAL_FAILURES_MAX = 8  # re-runs after failures that are not the user's; they use up no retry
INLINE_BYTES_MAX = 256 * 1024  # larger payloads of connected calls go by shared memory
INLINE_BYTES_MAX_DURABLE = 64 * 1024  # larger payloads of durable calls go by a file
FRAME_BYTES_MAX = 64 * 1024 * 1024
GENERATOR_ITEMS_AHEAD = 1_000  # items a remote generator may be ahead of its reader


BY_FILE = b"F"  # first byte of a payload whose content is in a file of home.blobs (runner.payload)


class CallKind(StrEnum):
    """How a call came in, which decides who keeps its inputs: the client, or the store."""

    UNARY = "unary"
    MAP = "map"
    GENERATOR = "generator"
    SPAWN = "spawn"
    SPAWN_MAP = "spawn_map"

    @property
    def is_durable(self) -> bool:
        """Whether inputs and results are in the store."""
        return self in (CallKind.SPAWN, CallKind.SPAWN_MAP)


class Status(IntEnum):
    """The one terminal status of an input (Modal's `GenericResult` names)."""

    SUCCESS = 1
    FAILURE = 2  # user code raised
    TERMINATED = 3  # cancelled
    TIMEOUT = 4
    INIT_FAILURE = 5  # the container never got ready
    INTERNAL_FAILURE = 6  # ours
    CRASH = 7  # the container went down with it
    EXPIRED = 8  # the result was kept its time


STATUS_CODE: dict[Status, str] = {
    Status.FAILURE: "remote",
    Status.TERMINATED: "cancelled",
    Status.TIMEOUT: "function_timeout",
    Status.INIT_FAILURE: "startup",
    Status.INTERNAL_FAILURE: "internal",
    Status.CRASH: "container_crash",
    Status.EXPIRED: "output_expired",
}


class Output(msgspec.Struct, frozen=True, array_like=True):
    """The result of one input. `payload` is opaque to the server: a value, or a failure (runner.payload)."""

    index: int
    status: int
    payload: bytes


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A call as listed and shown. Times are Unix ms."""

    call_id: str
    function_id: str
    function_name: str = ""
    app_id: str = ""
    method: str = ""
    kind: CallKind = CallKind.UNARY
    created_at_ms: int = 0
    ended_at_ms: int | None = None
    inputs: int = 0
    inputs_complete: bool = True  # False while a client is still adding inputs
    succeeded: int = 0
    failed: int = 0
    cancelled: bool = False

    @property
    def state(self) -> str:
        """pending, done, failed or cancelled: one word for a list."""
        if self.cancelled:
            return "cancelled"
        if not self.inputs_complete or self.succeeded + self.failed < self.inputs:
            return "pending"
        return "failed" if self.failed else "done"


class InputRecord(msgspec.Struct, frozen=True, array_like=True):
    """A durable input as stored: enough to run it again after a restart."""

    call_id: str
    index: int
    payload: bytes
    user_failures: int = 0
    crashes: int = 0


def payload_file(call_id: str, index: int, *, output: bool) -> str:
    """The name of the file in home.blobs that has the arguments, or the result, of an input (see BY_FILE).

    >>> payload_file("fc-0000000000000000000000", 3, output=True)
    'fc-0000000000000000000000.3.out'
    """
    return f"{ids.check(call_id, ids.CALL)}.{index}.{'out' if output else 'in'}"
