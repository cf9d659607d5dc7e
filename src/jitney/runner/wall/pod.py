"""Process 1 of a container's pid namespace, and what is around it: made ahead, entered later.

It does nothing but collect processes that lost their parent. Its end is the end of all that runs in its namespace.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jitney.runner.wall import enter, filters, idle, kernel
from jitney.runner.wall.ops import perform

_OWN = kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET | kernel.NEWCGROUP


class PodFailed(Exception):
    """It could not be made: the message says why."""


def make(
    ops: Sequence[Sequence[Any]],
    own_pids: int,
    idle_program: int,
    *,
    wire: Callable[[int], None] | None,
    finish: Callable[[], None],
) -> int:
    """The pid of a pod's first process.

    Args:
        ops: what is around it.
        own_pids: the descriptor of the caller's own pid namespace.
        idle_program: what the first process becomes (`idle.open_program`).
        wire: called here with its pid, once it has a network namespace; None: there is nothing to connect.
        finish: called in it after that, before the `ops`.

    Raises:
        PodFailed: nothing of it is left.
    """
    told, tell = os.pipe()
    go, let_go = os.pipe()
    try:
        kernel.unshare(kernel.NEWPID)  # for the next child
        first = -1
        try:
            first = os.fork()
            if first == 0:
                os.close(told)
                os.close(let_go)
                _be_first(ops, idle_program, go if wire is not None else -1, tell, finish)
        finally:
            if first:
                enter.aim_back(own_pids)
        os.close(tell)
        tell = -1
        try:
            if wire is not None:
                _expect(told, b"n")
                wire(first)
                os.write(let_go, b"x")
            _expect(told, b"r")
        except BaseException as error:
            os.kill(first, signal.SIGKILL)
            raise PodFailed(str(error)) from error
        return first
    finally:
        for descriptor in (told, go, let_go, tell):
            if descriptor >= 0:
                os.close(descriptor)


def _expect(told: int, word: bytes) -> None:
    answer = os.read(told, 1)
    if answer != word:
        raise PodFailed(os.read(told, 4096).decode(errors="replace") or "its first process ended")


def _be_first(
    ops: Sequence[Sequence[Any]], idle_program: int, go: int, tell: int, finish: Callable[[], None]
) -> NoReturn:
    try:
        os.setsid()
        kernel.unshare(_OWN)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        if go >= 0:
            os.write(tell, b"n")
            if os.read(go, 1) != b"x":
                os._exit(1)
        finish()
        perform(ops)
        kernel.keep_capabilities(())
        kernel.no_new_privileges()
        # Code in the container has the same ids, and could make this process do what it may not do itself.
        filters.install(filters.program("container", os.uname().machine))
        os.write(tell, b"r")
    except OSError as error:
        os.write(tell, b"e" + str(error).encode())
        os._exit(1)
    be_init(idle_program)


def be_init(idle_program: int) -> NoReturn:
    """Collect orphans until killed: the kernel does, for a process that ignores the end of its children."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    idle.become(idle_program)
    os.closerange(0, 1 << 16)
    while True:
        signal.pause()
