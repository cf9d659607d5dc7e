"""The parent of one command in a container: starts it, passes on what concerns it, and adopts what it leaves behind.

It speaks with the worker on a socket of its own (frames as in runner.template_protocol):

    worker -> sitter
      signal   {"signum"}            to the command's process group; on a terminal to that in the foreground
      resize   {"rows", "columns"}   of its terminal
      kill     {}                    the command and all that it started; so does the end of the stream
    sitter -> worker
      started  {"pid"}
      failed   {"message", "code"}   nothing more follows
      ended    {"code"}              128 + n for signal n; its output has been written

Without a terminal the command has the worker's three pipes. With one it has a terminal of this side, and the sitter
carries characters between that and two pipes, as a terminal cannot be handed over a wall whose other side has another
kernel. A sitter lives as long as something that its command has started.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Any, NoReturn

from jitney.runner import process, template_protocol
from jitney.runner.keep import looks
from jitney.runner.keep.spawned import NotStarted, spawn

CARRY_BYTES = 64 * 1024


class Sitter:
    """See the module. `descriptors`: the worker's socket, then the command's pipes (with a terminal: in and out)."""

    def __init__(self, message: dict[str, Any], descriptors: Sequence[int], joins: Sequence[int]) -> None:
        self._message = message
        self._control = socket.socket(fileno=descriptors[0])
        self._pipes = list(descriptors[1:])
        self._joins = joins
        self._splitter = template_protocol.Splitter()
        self._terminal = -1
        self._feed = self._screen = -1  # of a terminal: what is typed comes here, what is shown goes there
        self._to_type = self._to_show = b""
        self._pid = 0
        self._code: int | None = None
        self._is_heard = True
        self._is_killed = False
        self._is_blank = False  # nobody has the terminal open on its other side
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> NoReturn:
        """Until nothing of it is left."""
        os.setsid()
        process.adopt_orphans()
        try:
            self._start()
        except (OSError, NotStarted) as error:
            self._say("failed", message=str(error), code=getattr(error, "code", 126))
            os._exit(1)
        self._say("started", pid=self._pid)
        while self._pid or process.children():
            self._wait()
        os._exit(0)

    def _start(self) -> None:
        size = self._message["tty"]
        if not size:
            self._pid = spawn(self._message, self._pipes, self._joins)
            self._close(self._pipes)
        else:
            self._terminal, theirs = os.openpty()
            self._resize(*size)
            self._pid = spawn(self._message, [theirs] * 3, self._joins, is_tty=True)
            os.close(theirs)
            self._feed, self._screen = self._pipes
            for descriptor in (self._terminal, self._feed, self._screen):
                os.set_blocking(descriptor, False)
        self._close(list(self._joins))

    def _close(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    def _say(self, kind: str, **fields: Any) -> None:
        try:
            template_protocol.send_frame(self._control, template_protocol.pack({"kind": kind, **fields}))
        except OSError:
            pass  # nobody listens: the end of the stream comes next

    # ------------------------------------------------------------------ waiting

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._is_heard:
            poll.register(self._control, select.POLLIN)
        if self._terminal >= 0:
            self._register(poll)
        for descriptor, _ in poll.poll():
            if descriptor == self._wake:
                _drain(self._wake)
            elif descriptor == self._control.fileno():
                self._hear()
        if self._terminal >= 0:
            self._carry()
        self._collect()

    def _register(self, poll: Any) -> None:
        wanted = (0 if self._to_show or self._is_blank else select.POLLIN) | (select.POLLOUT if self._to_type else 0)
        if wanted:
            poll.register(self._terminal, wanted)
        if self._feed >= 0 and not self._to_type:
            poll.register(self._feed, select.POLLIN)
        if self._to_show:
            poll.register(self._screen, select.POLLOUT)

    def _hear(self) -> None:
        try:
            data = self._control.recv(CARRY_BYTES)
        except OSError:
            data = b""
        for message in self._splitter.feed(data):
            self._take(message)
        if not data:
            self._is_heard = False
            self._kill()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "signal":
            self._signal(int(message["signum"]))
        elif kind == "resize" and self._terminal >= 0:
            self._resize(int(message["rows"]), int(message["columns"]))
            self._signal(signal.SIGWINCH)  # gVisor's terminals do not tell, and twice does no harm
        elif kind == "kill":
            self._kill()

    def _resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _signal(self, signum: int) -> None:
        group = self._pid
        try:
            if self._terminal >= 0:
                group = os.tcgetpgrp(self._terminal) or group
        except OSError:
            pass
        if group:
            try:
                os.killpg(group, signum)
            except OSError:
                pass

    def _kill(self) -> None:
        self._is_killed = True
        for pid in looks.below(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass

    # ------------------------------------------------------------------ ending

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._pid:
                self._pid = 0
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code
        if self._is_killed and not self._pid:
            process.kill_children(set())
        if self._code is not None:
            while self._terminal >= 0 and self._is_heard and self._carry():
                pass
            if self._to_show and self._is_heard:
                return  # the rest of what it has written waits for the reader
            self._hang_up()
            self._say("ended", code=self._code)
            self._code = None

    def _hang_up(self) -> None:
        """The terminal goes with its command; what still has it open hears so."""
        if self._terminal >= 0:
            self._close([one for one in (self._terminal, self._feed, self._screen) if one >= 0])
            self._terminal = self._feed = self._screen = -1

    # ------------------------------------------------------------------ carrying

    def _carry(self) -> bool:
        """Whether it may be worth while to do it again at once."""
        if self._feed >= 0 and not self._to_type:
            typed = _read(self._feed)
            if typed == b"":
                os.close(self._feed)
                self._feed = -1
            self._to_type = typed or b""
        self._to_type = _write(self._terminal, self._to_type)
        if not self._to_show:
            shown = _read(self._terminal)
            self._is_blank = shown == b""
            self._to_show = shown or b""
        found = bool(self._to_show)
        self._to_show = _write(self._screen, self._to_show)
        return found and not self._to_show


def _read(descriptor: int) -> bytes | None:
    """What is there; None when nothing is, b"" at the end."""
    try:
        return os.read(descriptor, CARRY_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # a terminal that nobody has open
        return b""


def _write(descriptor: int, data: bytes) -> bytes:
    """The rest of it."""
    if not data:
        return b""
    try:
        return data[os.write(descriptor, data) :]
    except BlockingIOError:
        return data
    except OSError:  # nobody reads it any more
        return b""


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass
