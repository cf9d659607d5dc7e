"""How every process of a group is ended, on kernels that can do it at once and on those that cannot.

Without `cgroup.kill` it is a race with whatever forks inside. It is won by stopping that first: with a limit of no
processes no fork succeeds, and in a group that is frozen nobody runs. Then everybody who can be seen is killed, until
nobody new is seen. A frozen group of version 1 has to thaw for its processes to die.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from jitney.drivers.limits.cgroups import files

ROUNDS_MAX = 200


def kill(folders: Sequence[str], *, can_kill: str = "", pids: str = "", freezer: str = "") -> None:
    """End whatever is in the folders of a group; the named ones are those that can do what they are named after."""
    if can_kill and files.try_write(f"{can_kill}/cgroup.kill", "1"):
        return
    limit = files.read(f"{pids}/pids.max").strip() if pids else ""
    if limit:
        files.try_write(f"{pids}/pids.max", "0")
    elif freezer:
        freeze(freezer)
    seen: set[int] = set()
    for _ in range(ROUNDS_MAX):
        fresh = {pid for folder in folders for pid in files.pids(folder)} - seen
        if not fresh:
            break
        for pid in fresh:
            _kill_member(pid, folders)
        seen |= fresh
    if freezer:
        thaw(freezer)
    if limit:
        files.try_write(f"{pids}/pids.max", limit)


def _kill_member(pid: int, folders: Sequence[str]) -> None:
    """SIGKILL to a process, unless its number has gone to somebody else since it was read."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if any(pid in files.pids(folder) for folder in folders):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(fd)


def freeze(folder: str) -> None:
    """Stop a group, of either version."""
    if not files.try_write(f"{folder}/cgroup.freeze", "1"):
        files.try_write(f"{folder}/freezer.state", "FROZEN")


def thaw(folder: str) -> None:
    """Let it go on."""
    if not files.try_write(f"{folder}/cgroup.freeze", "0"):
        files.try_write(f"{folder}/freezer.state", "THAWED")
