"""Starts a program in a fork that prepares itself first, and says what went wrong before it ran."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jitney.runner import signals

FIRST_DESCRIPTOR = 3  # of those that are handed over beyond output
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126


class NotStarted(Exception):
    """The program could not be executed; `code` is what a shell gives then."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Spawn:
    """One program: "argv", "env", "cwd", "tty" of a message, and its descriptors: stdin, stdout, stderr, others.

    An argument "{fd}" is replaced by the number of the first of the others.
    """

    def __init__(self, message: dict[str, Any], descriptors: Sequence[int], prepare: Callable[[], None]) -> None:
        self._message = message
        self._descriptors = descriptors
        self._prepare = prepare

    def start(self, wire: Callable[[int], None]) -> tuple[int, list[int]]:
        """(its pid, descriptors for the worker: a pidfd, and the master of its terminal).

        Raises:
            NotStarted: there is no such program, or it cannot be executed.
            OSError: it could not be prepared.
        """
        parent, child = os.pipe()  # closed by exec; carries the reason otherwise
        masters, send_master = os.pipe() if not self._message.get("tty") else _socket_pair()
        pid = os.fork()
        if pid == 0:
            self._be_child(child, send_master)
        os.close(child)
        os.close(send_master)
        try:
            wire(pid)
            given = [os.pidfd_open(pid)]
            if self._message.get("tty"):
                given += _receive_descriptor(masters)
            reason = os.read(parent, 4096)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            os.close(parent)
            os.close(masters)
        if reason:
            for descriptor in given:
                os.close(descriptor)
            code, _, text = reason.decode(errors="replace").partition(" ")
            if int(code):
                raise NotStarted(text, int(code))
            raise OSError(errno.EIO, text)
        return pid, given

    def _be_child(self, tell: int, send_master: int) -> NoReturn:
        try:
            os.setsid()
            self._prepare()
            signals.reset()
            moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 100) for one in self._descriptors]
            for one in self._descriptors:
                os.close(one)  # the program has each once
            if self._message.get("tty"):
                moved[:3] = [_open_terminal(self._message["tty"], send_master)] * 3
            for number, descriptor in enumerate(moved):
                os.dup2(descriptor, number, inheritable=True)
            os.chdir(self._message["cwd"])
        except OSError as error:
            os.write(tell, f"0 {error}".encode())
            os._exit(1)
        argv = [word.replace("{fd}", str(FIRST_DESCRIPTOR)) for word in self._message["argv"]]
        code = EXIT_NOT_FOUND
        try:
            os.execvpe(argv[0], argv, self._message["env"])
        except OSError as error:
            code = EXIT_NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE
            os.write(tell, f"{code} {argv[0]}: {error.strerror}".encode())
        finally:
            os._exit(code)


def _open_terminal(size: Sequence[int], send_master: int) -> int:
    """A new terminal of the pod's own devpts, ours to be controlled by; the master goes to the worker."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK: unlock
    number = struct.unpack("I", fcntl.ioctl(master, 0x80045430, bytes(4)))[0]  # TIOCGPTN
    terminal = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    with socket.socket(fileno=send_master) as channel:
        socket.send_fds(channel, [b"m"], [master])
        channel.detach()
    os.close(master)
    return terminal


def _socket_pair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def _receive_descriptor(masters: int) -> list[int]:
    channel = socket.socket(fileno=masters)
    try:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        return descriptors
    finally:
        channel.detach()
