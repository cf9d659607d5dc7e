"""The last steps of a process before code of users: into its pod and control group, and down to no privilege."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jitney.runner.wall import filters, kernel, landlock

_JOINED = kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET | kernel.NEWCGROUP


def aim(pod: int) -> None:
    """The next fork of this process is born in the pod's pid namespace."""
    kernel.setns(pod, kernel.NEWPID)


def aim_back(own_pids: int) -> None:
    """Later forks are born here again; `own_pids` is the descriptor of our own pid namespace."""
    kernel.setns(own_pids, kernel.NEWPID)


def own_pid_namespace() -> int:
    """For `aim_back`."""
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def enter(pod: int, joins: Sequence[int], program: bytes) -> None:
    """Join the control groups and the pod, then drop everything; the descriptors are closed."""
    join(joins)
    kernel.setns(pod, _JOINED)
    os.close(pod)
    os.chdir("/")
    landlock.restrict(["/"], ["/"])
    restrict(program)


def join(groups: Sequence[int]) -> None:
    """Enter control groups, by descriptors that whoever made them has opened."""
    for group in groups:
        os.write(group, b"0")
        os.close(group)


def restrict(program: bytes, kept: tuple[int, ...] = ()) -> None:
    """No capability but `kept`, no new privileges, and the filter."""
    kernel.keep_capabilities(kept)
    kernel.no_new_privileges()
    if program:
        filters.install(program)
