"""A command in a container, joined to this terminal.

Three parties. The main thread waits for the end, and has the signals: the size of the terminal, Ctrl-C where no
terminal is inside, the end of this process. A thread reads the keyboard (or a file, or a pipe), blocking, as making a
terminal non-blocking would make it so for the shell that we were started from. The portal has the connection, and
writes what comes.

With a terminal inside, ours is raw: every key goes through. It is given back in every case: on leaving the block, on a
signal that ends us, and, should we be killed, by a small process that waits for just that.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jitney.client.exec import RemoteCommand
from jitney.client.portal import PORTAL, post
from jitney.errors import JitneyError
from jitney.values.exec import ExecSpec, TtySize

STDIN, STDOUT, STDERR = 0, 1, 2
READ_BYTES = 64 * 1024
READER_WAIT_S = 1.0
GUARD = """
import json, os, sys, termios
before = json.loads(sys.argv[2])
before[6] = [one if isinstance(one, int) else one.encode("latin-1") for one in before[6]]
if not os.read(0, 1):
    termios.tcsetattr(int(sys.argv[1]), termios.TCSANOW, before)
"""


def is_terminal(fd: int) -> bool:
    """Whether a descriptor is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def size() -> TtySize:
    """Of our terminal, whichever descriptor it is on; the usual one where there is none."""
    for fd in (STDIN, STDOUT, STDERR):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        if found.lines > 0 and found.columns > 0:
            return TtySize(found.lines, found.columns)
    return TtySize()


def run(session: Any, container_id: str, spec: ExecSpec, *, forwards: bool) -> tuple[int, str]:
    """Run a command in a container, here; (its exit code, why it ended where that was not its own doing).

    Args:
        session: the client's session with the server.
        forwards: it gets our standard input; otherwise none.

    Raises:
        JitneyError: it could not be run.
    """
    command = RemoteCommand(session, container_id, spec)
    reader = _Reader(command) if forwards else None
    with _signals(command, has_terminal=spec.tty is not None), _raw(spec.tty is not None and forwards):
        try:
            if reader is not None:
                reader.start()
            else:
                _tell(command, eof=True)
            ended = PORTAL.call(command.run(_show))
        except BrokenPipeError:  # whoever reads our output has seen enough
            return 128 + signal.SIGPIPE, ""
        finally:
            if reader is not None:
                reader.stop()
    return ended.exit_code, ended.reason


async def _show(fd: int, data: bytes) -> None:
    # On a thread: a terminal or pipe that takes no more stops its writer, and would stop the portal.
    await asyncio.to_thread(_write_all, STDERR if fd == STDERR else STDOUT, data)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody else has made it so
            select.select([], [fd], [])


def _tell(command: RemoteCommand, **what: Any) -> None:
    """Send something without waiting: from any thread, and from signal handlers."""

    def send() -> None:
        task = asyncio.ensure_future(command.send(**what))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    post(PORTAL.loop(), send)


# ---------------------------------------------------------------------------------------------- the keyboard


class _Reader:
    """Reads standard input on a thread. What it has not read when it is told to stop is left for others."""

    def __init__(self, command: RemoteCommand) -> None:
        self._command = command
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="jitney-keyboard", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End it. It may be held up for as long as the connection is."""
        os.close(self._waker)
        self._thread.join(READER_WAIT_S)

    def _run(self) -> None:
        try:
            while True:
                ready, _, _ = select.select([STDIN, self._wake], [], [])
                if self._wake in ready:
                    return
                data = os.read(STDIN, READ_BYTES)
                if not data:
                    break
                PORTAL.call(self._command.write(data))
        except (OSError, ValueError):  # there is no standard input (any more)
            pass
        except (JitneyError, RuntimeError):
            return  # the end of the command says what there is to say
        finally:
            os.close(self._wake)
        _tell(self._command, eof=True)


# ---------------------------------------------------------------------------------------------- signals


@contextmanager
def _signals(command: RemoteCommand, *, has_terminal: bool) -> Iterator[None]:
    """While the command runs, signals to us are meant for it; those that end us do so in order."""
    interrupts = 0

    def resized(number: int, frame: FrameType | None) -> None:
        _tell(command, size=size())

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            raise KeyboardInterrupt  # the command does not want to: leave, and it is killed
        _tell(command, signal=number)

    def ended(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    wanted: dict[int, Any] = {signal.SIGTERM: ended, signal.SIGHUP: ended, signal.SIGINT: interrupted}
    if has_terminal:
        wanted[signal.SIGWINCH] = resized
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------- the terminal


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Our terminal raw in the block, and as it was after it."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(STDIN)
    with _guard(before):
        try:
            tty.setraw(STDIN, termios.TCSADRAIN)  # what was typed ahead stays
            yield
        finally:
            termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


@contextmanager
def _guard(before: list[Any]) -> Iterator[None]:
    """A process that gives the terminal back if we are gone without having done so."""
    characters = [one if isinstance(one, int) else one.decode("latin-1") for one in before[6]]
    attributes = json.dumps([*before[:6], characters])
    terminal = os.dup(STDIN)
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", GUARD, str(terminal), attributes],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[terminal],
            start_new_session=True,  # the terminal's own signals are not for it
        )
    finally:
        os.close(terminal)
    assert guard.stdin is not None
    try:
        yield
    finally:
        try:
            guard.stdin.write(b".")
            guard.stdin.close()
        except OSError:
            pass
        guard.wait()
