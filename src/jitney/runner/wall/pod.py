"""Process 1 of a container's pid namespace, and what is around it: made ahead, entered later.

It does nothing but collect processes that lost their parent. Its end is the end of all that runs in its namespace.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jitney.runner.wall import filters, kernel
from jitney.runner.wall.ops import perform

_OWN = kernel.NEWNS | kernel.NEWPID | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET | kernel.NEWCGROUP


class PodFailed(Exception):
    """It could not be made: the message says why."""


def make(ops: Sequence[Sequence[Any]], wire: Callable[[int], None], finish: Callable[[], None]) -> int:
    """The pid of a pod's first process. `wire` is called here with its pid, before `finish` in it and the `ops`.

    Raises:
        PodFailed: nothing of it is left.
    """
    told, tell = os.pipe()
    go, let_go = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            os.close(told)
            os.close(let_go)
            kernel.unshare(_OWN)
            first = os.fork()
            if first == 0:
                _be_first(ops, go, tell, finish)
            os.write(tell, b"p%d\n" % first)
        except OSError as error:
            os.write(tell, b"e" + str(error).encode())
        os._exit(0)
    os.close(tell)
    os.close(go)
    try:
        os.waitpid(middle, 0)
        answer = os.read(told, 4096)
        if answer[:1] != b"p":
            raise PodFailed(answer[1:].decode(errors="replace") or "its namespaces could not be made")
        pid = int(answer[1 : answer.index(b"\n")])
        try:
            wire(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            raise PodFailed(f"its network: {error}") from error
        os.write(let_go, b"x")
        answer = answer[answer.index(b"\n") + 1 :] or os.read(told, 4096)
        if answer != b"r":
            os.kill(pid, signal.SIGKILL)
            raise PodFailed(answer[1:].decode(errors="replace") or "its first process ended")
        return pid
    finally:
        os.close(told)
        os.close(let_go)


def _be_first(ops: Sequence[Sequence[Any]], go: int, tell: int, finish: Callable[[], None]) -> NoReturn:
    try:
        os.setsid()
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
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
    be_init()


def be_init() -> NoReturn:
    """Collect orphans until killed."""
    os.closerange(0, 1 << 16)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})
