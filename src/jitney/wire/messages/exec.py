"""Commands in containers: start, input, output, end.

`container.exec` is a stream: `ExecOutput` events, then `ExecEnded` as the answer. Input goes the other way by requests
of `container.exec_input`, numbered so that none is taken twice or out of turn. Both directions are bounded: a request
with data is answered when the command has taken most of what was sent before, and output stops at OUTPUT_BYTES_AHEAD
until `took` says that the reader has it. The link is what holds a command: with it, or with the stream, it ends.
"""

from __future__ import annotations

import msgspec

from jitney.errors import InvalidError
from jitney.values.exec import CHUNK_BYTES_MAX, ExecSpec, TtySize

SIGNAL_MAX = 64


class Exec(msgspec.Struct, frozen=True, kw_only=True):
    """Run a command in a container. The client chooses the id (`ex-...`)."""

    exec_id: str
    container_id: str
    spec: ExecSpec = ExecSpec()


class ExecOutput(msgspec.Struct, frozen=True, array_like=True):
    """An event: bytes that it wrote; `fd` is 1 or 2."""

    fd: int
    data: bytes


class ExecEnded(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended, as a shell has it: 127 not found, 126 not executable, 128 + n for signal n.

    `reason` says why where it is not the command's own doing.
    """

    exit_code: int
    reason: str = ""


class ExecInput(msgspec.Struct, frozen=True, kw_only=True):
    """Number `seq` (from 0) of what a command is told: input, its end, the size of its terminal, a signal; or that its
    reader `took` so many more bytes of its output."""

    exec_id: str
    seq: int
    data: bytes = b""
    eof: bool = False
    size: TtySize | None = None
    signal: int = 0
    took: int = 0

    def __post_init__(self) -> None:
        if len(self.data) > CHUNK_BYTES_MAX:
            raise InvalidError(f"{len(self.data):,} bytes of input at once are over {CHUNK_BYTES_MAX:,}")
        if not 0 <= self.signal <= SIGNAL_MAX or self.took < 0 or self.seq < 0:
            raise InvalidError("a number of an input is out of its bounds")
