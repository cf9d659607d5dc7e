"""The worker's end of a command that runs in a container: its descriptors, and the flow through them.

Whoever starts the command makes pipes or a terminal, gives the far ends to the process, and this the near ones, with
a `Command` that knows the process. Everything is done by callbacks on the event loop; no descriptor ever blocks it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from jitney.ports.interactive import (
    CHUNK_BYTES_MAX,
    INPUT_BYTES_AHEAD,
    OUTPUT_BYTES_AHEAD,
    OnOutput,
    TtySize,
)

END_OF_INPUT = b"\x04"  # on a terminal


class Command(Protocol):
    """The process of a command, however it was started."""

    def watch(self, on_ended: Callable[[int], None]) -> None:
        """Call `on_ended` once, on the loop and not before this returns, with its exit code (128 + n for signal n)."""
        ...

    def signal(self, signum: int) -> None:
        """A signal to its process group; nothing happens if it has ended."""
        ...

    def kill(self) -> None:
        """SIGKILL to it and what it started; nothing happens if it has ended."""
        ...


class Session:
    """One command. See ports.interactive.

    Args:
        command: its process.
        feed: where its input is written; the master of its terminal, or a duplicate, with `is_tty`.
        outputs: where its output is read, by the descriptor that it has there. All of them are closed by this.
        is_tty: they are a terminal.
    """

    def __init__(
        self, command: Command, feed: int, outputs: Mapping[int, int], on_output: OnOutput, *, is_tty: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._is_tty = is_tty
        self._on_output = on_output
        self._feed = feed
        self._outputs = dict(outputs)
        self._is_reading = False
        self._ahead = 0  # bytes of output that were handed over, and that the reader does not have yet
        self._unwritten: deque[memoryview] = deque()
        self._unwritten_bytes = 0
        self._feed_ends = False
        self._is_killed = False
        self._room = asyncio.Event()
        self._code: int | None = None
        self.ended: asyncio.Future[int] = self._loop.create_future()
        for fd in (feed, *outputs.values()):
            os.set_blocking(fd, False)
        self._resume()
        command.watch(self._exited)

    # -------------------------------------------------------------------------------------------- output

    def took(self, count: int) -> None:
        """See the port."""
        self._ahead = max(self._ahead - count, 0)
        if self._ahead < OUTPUT_BYTES_AHEAD and not self.ended.done():
            if self._code is None:
                self._resume()
            else:
                self._deliver_rest()

    def _resume(self) -> None:
        if not self._is_reading and not self._is_killed:
            self._is_reading = True
            for which, fd in self._outputs.items():
                self._loop.add_reader(fd, self._read, which)

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            for fd in self._outputs.values():
                self._loop.remove_reader(fd)

    def _read(self, which: int) -> bool:
        """Hand over what is there; False when that was nothing."""
        fd = self._outputs.get(which)
        if fd is None:
            return False
        room = OUTPUT_BYTES_AHEAD - self._ahead
        if room <= 0:
            self._pause()
            return False
        try:
            data = os.read(fd, min(CHUNK_BYTES_MAX, room))
        except BlockingIOError:
            return False
        except OSError:  # so ends a terminal
            data = b""
        if not data:
            self._close_output(which)
            return False
        self._ahead += len(data)
        self._on_output(which, data)
        return True

    def _deliver_rest(self) -> None:
        """The command has ended: hand over what it wrote before. Whoever else may still write is not waited for."""
        for which in list(self._outputs):
            while self._read(which):
                pass
            if which in self._outputs and self._ahead < OUTPUT_BYTES_AHEAD:
                self._close_output(which)
        if not self._outputs:
            self._finish()

    def _close_output(self, which: int) -> None:
        fd = self._outputs.pop(which)
        self._loop.remove_reader(fd)
        os.close(fd)

    # -------------------------------------------------------------------------------------------- input

    def write(self, data: bytes) -> None:
        """See the port."""
        if data and self._feed >= 0 and not self._feed_ends:
            self._queue(data)
            self._flush()

    def close_input(self) -> None:
        """See the port."""
        if self._feed >= 0 and not self._feed_ends:
            if self._is_tty:
                self._queue(END_OF_INPUT)
            self._feed_ends = True
            self._flush()

    async def drained(self) -> None:
        """See the port."""
        while self._unwritten_bytes >= INPUT_BYTES_AHEAD:
            self._room.clear()
            await self._room.wait()

    def _queue(self, data: bytes) -> None:
        self._unwritten.append(memoryview(data))
        self._unwritten_bytes += len(data)

    def _flush(self) -> None:
        while self._unwritten:
            part = self._unwritten[0]
            try:
                count = os.write(self._feed, part)
            except BlockingIOError:
                self._loop.add_writer(self._feed, self._flush)
                break
            except OSError:  # it reads no more
                self._drop_input()
                return
            self._unwritten_bytes -= count
            if count < len(part):
                self._unwritten[0] = part[count:]
            else:
                self._unwritten.popleft()
        else:
            self._loop.remove_writer(self._feed)
            if self._feed_ends and not self._is_tty:
                self._close_feed()
        if self._unwritten_bytes < INPUT_BYTES_AHEAD:
            self._room.set()

    def _drop_input(self) -> None:
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._room.set()
        self._loop.remove_writer(self._feed)
        if not self._is_tty:
            self._close_feed()

    def _close_feed(self) -> None:
        if self._feed >= 0:
            self._loop.remove_writer(self._feed)
            os.close(self._feed)
            self._feed = -1

    # -------------------------------------------------------------------------------------------- control

    def resize(self, size: TtySize) -> None:
        """See the port."""
        if self._is_tty and self._feed >= 0:
            set_size(self._feed, size)

    def signal(self, signum: int) -> None:
        """See the port."""
        if self._code is not None:
            return
        group = self._foreground()
        if not group:
            self._command.signal(signum)
            return
        try:
            os.killpg(group, signum)
        except OSError:
            pass

    def _foreground(self) -> int:
        """The process group that the terminal's keys would reach; 0 where there is none."""
        if not self._is_tty or self._feed < 0:
            return 0
        try:
            return os.tcgetpgrp(self._feed)
        except OSError:
            return 0

    def kill(self) -> None:
        """See the port."""
        if self.ended.done():
            return
        self._pause()
        self._is_killed = True
        if self._code is None:
            self._command.kill()  # its output is closed when it has ended: seeing that first, it could end otherwise
        else:
            self._drop_output()

    async def wait(self) -> int:
        """See the port."""
        return await asyncio.shield(self.ended)

    def _exited(self, code: int) -> None:
        self._code = code
        self._pause()
        if self._is_killed:
            self._drop_output()
        else:
            self._deliver_rest()

    def _drop_output(self) -> None:
        for which in list(self._outputs):
            self._close_output(which)
        self._finish()

    def _finish(self) -> None:
        if not self.ended.done():
            assert self._code is not None
            if self._feed >= 0:
                self._drop_input()
            self._close_feed()
            self.ended.set_result(self._code)


def set_size(terminal: int, size: TtySize) -> None:
    """Rows and columns of a terminal, told to whoever runs in it."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.cols, 0, 0))


def open_pipes() -> tuple[list[int], list[int]]:
    """(ours, theirs): of its input, output and errors."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for is_input in (True, False, False):
            reader, writer = os.pipe()
            ours.append(writer if is_input else reader)
            theirs.append(reader if is_input else writer)
    except OSError:
        close_all([*ours, *theirs])
        raise
    return ours, theirs


def open_terminal(size: TtySize) -> tuple[list[int], list[int]]:
    """(ours, theirs): a master, twice, for input and output, and a slave."""
    master, slave = os.openpty()
    try:
        set_size(master, size)
        return [master, os.dup(master)], [slave]
    except OSError:
        close_all([master, slave])
        raise


def close_all(fds: list[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
