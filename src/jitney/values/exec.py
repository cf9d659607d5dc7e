"""A command to run in a container that lives already."""

from __future__ import annotations

import msgspec

from jitney.errors import InvalidError

COMMAND_BYTES_MAX = 64 * 1024  # of all words and variables together
TTY_SIDE_MAX = 10_000  # rows or columns
CHUNK_BYTES_MAX = 64 * 1024  # of input or output in one message
OUTPUT_BYTES_AHEAD = 256 * 1024  # output that is on its way to whoever reads it; then the command has to wait
INPUT_BYTES_AHEAD = 256 * 1024  # input that the command has not taken yet; then whoever types has to wait

NOT_FOUND = 127  # exit codes as shells have them
NOT_EXECUTABLE = 126
KILLED = 137  # 128 + SIGKILL


class TtySize(msgspec.Struct, frozen=True):
    """Rows and columns of a terminal."""

    rows: int = 24
    cols: int = 80

    def __post_init__(self) -> None:
        if not (1 <= self.rows <= TTY_SIDE_MAX and 1 <= self.cols <= TTY_SIDE_MAX):
            raise InvalidError(f"a terminal of {self.rows} rows and {self.cols} columns cannot be")


class ExecSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and how. `env` is beside what the container has; `cwd` is below its working folder if relative.

    No `argv` at all means the image's command, or else a shell. `tty`: it gets a terminal of that size.
    """

    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    tty: TtySize | None = None

    def __post_init__(self) -> None:
        words = [*self.argv, *self.env, *self.env.values(), self.cwd]
        try:
            size = sum(len(word.encode()) + 1 for word in words)
        except UnicodeEncodeError:
            raise InvalidError("the command or one of its variables is not UTF-8") from None
        if size > COMMAND_BYTES_MAX:
            raise InvalidError(f"the command and its variables are over {COMMAND_BYTES_MAX:,} bytes")
        if any("\0" in word for word in words):
            raise InvalidError("a command and its variables cannot hold a zero byte")
        if self.argv and not self.argv[0]:
            raise InvalidError("the name of the command is empty")
        if any(not name or "=" in name for name in self.env):
            raise InvalidError("the name of a variable is empty or has a '=' in it")
