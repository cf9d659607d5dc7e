"""Commands in containers that live already: an ability that a runtime may have (`Capabilities.exec`).

The contract, for every driver that declares it:

 1. `exec` gives a session as soon as the command's process exists. It raises `ExecFailed`, whose exit code is that of
    a shell (127: there is no such command; 126: it cannot be executed, or its folder not entered), and
    `ContainerGone` for a container that has ended or is not known. Then nothing was started.
 2. The command runs where the container's own processes run: its file system, its namespaces, its user, its limits.
    It has the variables that the container was started with, then those of the spec; its working folder is the
    container's, or `cwd`, below that if relative. `argv[0]` without a slash is looked for in the PATH of those
    variables. It gets no descriptor of ours but 0, 1 and 2.
 3. Without `tty` these are three pipes. It is the first of a session and process group of its own.
 4. With `tty` they are a pseudo terminal of that size, which is its controlling terminal; all output has descriptor 1.
    `resize` changes the size, and whoever runs in the foreground gets SIGWINCH.
 5. `on_output(fd, data)` is called on the event loop, in the order of each descriptor, with at most CHUNK_BYTES_MAX.
    What was handed over counts until `took` says that the reader has it: at OUTPUT_BYTES_AHEAD reading pauses, and the
    command waits as for any slow reader. Nothing is dropped.
 6. `write` keeps the order and never blocks; `drained` gives when less than INPUT_BYTES_AHEAD waits for the command.
    `close_input` is the end of input, after all that was written; on a terminal it is the character that means so.
    What comes after the end, of the input or of the session, is dropped.
 7. `signal` reaches the command's process group; on a terminal that which runs in the foreground.
 8. `wait` gives the exit code (128 + n for signal n) once the process has ended and its output has been handed over;
    asked again it gives the same. Processes that it leaves in the background hold up nothing; they may go on, and
    never longer than the container.
 9. When the container ends the session ends with 137, and no process of it is left when `Runtime.wait` gives.
10. `kill` ends the command and what it started, by SIGKILL; output that was not handed over is dropped. It is
    idempotent. Whoever asked for a session kills it when nobody holds it any more.
11. A cancelled `exec` leaves nothing behind. `Runtime.close` ends all sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jitney.ports.runtime import ContainerHandle
from jitney.values.exec import CHUNK_BYTES_MAX as CHUNK_BYTES_MAX
from jitney.values.exec import INPUT_BYTES_AHEAD as INPUT_BYTES_AHEAD
from jitney.values.exec import KILLED as KILLED
from jitney.values.exec import NOT_EXECUTABLE as NOT_EXECUTABLE
from jitney.values.exec import NOT_FOUND as NOT_FOUND
from jitney.values.exec import OUTPUT_BYTES_AHEAD as OUTPUT_BYTES_AHEAD
from jitney.values.exec import ExecSpec as ExecSpec
from jitney.values.exec import TtySize as TtySize

OnOutput = Callable[[int, bytes], None]


class ExecFailed(Exception):
    """The command could not be started: the message says why, for the user to read."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ContainerGone(Exception):
    """There is no such container here (any more)."""


class ExecSession(Protocol):
    """One command that runs; see the contract above."""

    def write(self, data: bytes) -> None:
        """Input for it."""
        ...

    def close_input(self) -> None:
        """The end of its input."""
        ...

    async def drained(self) -> None:
        """Return when it has taken enough of its input."""
        ...

    def took(self, count: int) -> None:
        """The reader has so many more bytes of its output."""
        ...

    def resize(self, size: TtySize) -> None:
        """Its terminal has another size."""
        ...

    def signal(self, signum: int) -> None:
        """Send it a signal."""
        ...

    async def wait(self) -> int:
        """Its exit code, when it has ended."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Interactive(Protocol):
    """A runtime that can run commands in its containers; see the contract above."""

    async def exec(self, handle: ContainerHandle, spec: ExecSpec, on_output: OnOutput) -> ExecSession:
        """Run a command in a container. `spec.argv` has at least one word.

        Raises:
            ExecFailed: it cannot be started.
            ContainerGone: the container has ended.
        """
        ...
