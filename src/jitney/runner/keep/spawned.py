"""Starts a program in a fork, and hears what went wrong before it ran."""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jitney.runner import signals

FIRST_DESCRIPTOR = 3  # of those that are handed over beyond output
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126


class NotStarted(Exception):
    """It could not be started; `code` is what a shell gives then, or 0 where it is not the program's fault."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def spawn(
    message: Mapping[str, Any], descriptors: Sequence[int], joins: Sequence[int] = (), *, is_tty: bool = False
) -> int:
    """The pid of a program: "argv", "env", "cwd", "rlimits" of a message, and its descriptors from 0 on.

    An argument "{fd}" is replaced by the number of the fourth. It leads a session; with `is_tty` descriptor 0 is its
    controlling terminal. It joins control groups first, by descriptors of theirs.

    Raises:
        NotStarted: it did not come to run.
        OSError: there is no room for a process.
    """
    hear, tell = os.pipe()  # closed by exec; carries the reason otherwise
    pid = os.fork()
    if pid == 0:
        _be_child(message, descriptors, joins, is_tty, tell)
    os.close(tell)
    try:
        reason = os.read(hear, 4096)
    finally:
        os.close(hear)
    if reason:
        os.waitpid(pid, 0)
        code, _, text = reason.decode(errors="replace").partition(" ")
        raise NotStarted(text, int(code))
    return pid


def _be_child(
    message: Mapping[str, Any], descriptors: Sequence[int], joins: Sequence[int], is_tty: bool, tell: int
) -> NoReturn:
    argv = [str(word).replace("{fd}", str(FIRST_DESCRIPTOR)) for word in message["argv"]]
    try:
        os.setsid()
        for group in joins:
            os.write(group, b"0")
        signals.reset()
        moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 100) for one in descriptors]
        for number, descriptor in enumerate(moved):
            os.dup2(descriptor, number, inheritable=True)
        if is_tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        limit(message.get("rlimits") or {})
        os.chdir(message["cwd"])
    except OSError as error:
        os.write(tell, f"{EXIT_NOT_EXECUTABLE} {error}".encode())
        os._exit(1)
    code = EXIT_NOT_FOUND
    try:
        os.execvpe(argv[0], argv, message["env"])
    except OSError as error:
        code = EXIT_NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE
        os.write(tell, f"{code} {argv[0]}: {error.strerror}".encode())
    finally:
        os._exit(code)


def limit(rlimits: Mapping[str, Sequence[int]]) -> None:
    """Set limits of this process, by their names without RLIMIT_."""
    import resource

    for name, (soft, hard) in rlimits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
