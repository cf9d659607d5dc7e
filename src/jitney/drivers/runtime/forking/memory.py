"""Enforces `memory_limit_mib` by looking at it, as plain processes have no control group.

Rejected: RLIMIT_AS, which counts addresses and not memory: torch, CUDA, Go and the JVM reserve tens of GiB that they
never touch. RLIMIT_DATA, which counts private writable mappings, touched or not: numpy's lazy zeros, thread stacks and
allocator arenas fail far below the limit, with a MemoryError that nobody can explain. Both are per process, and a
container may have many.

So each container with a limit is looked at every SAMPLE_S, and every SAMPLE_NEAR_S when it is above NEAR of its limit.
It may pass the limit for that long: on a machine without memory to spare the kernel's own killer acts first, on the
containers (see leftovers: the brand).

What counts: the resident memory of the container's first process, as a template's pages are part of what the function
needs, and of each further process only what it shares with nobody, as a fork shares all that it has not changed.
Summing up shared pages is the cheap first look; private ones are read only when that is above the limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jitney.drivers.runtime.forking import procfs

SAMPLE_S = 0.5
SAMPLE_NEAR_S = 0.05
NEAR = 0.7
SAMPLE_OOM_S = 5.0


class OomCounter:
    """Whether the kernel has killed something for want of memory in the last seconds.

    It only counts such kills since boot, so while containers run an older count is kept to compare with.
    """

    def __init__(self) -> None:
        self._older = self._newer = procfs.oom_kills()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Containers run: take a count now and then."""
        if self._timer is None:
            self._older = self._newer = procfs.oom_kills()
            self._timer = asyncio.get_running_loop().call_later(SAMPLE_OOM_S, self._look)

    def end(self) -> None:
        """None runs any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._older, self._newer = self._newer, procfs.oom_kills()
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_OOM_S, self._look)

    def has_risen(self) -> bool:
        """Whether there was a kill in the last SAMPLE_OOM_S, or at most twice that."""
        return procfs.oom_kills() > self._older


class MemoryWatch:
    """Looks at containers with a limit, and calls `on_over(container_id, rss_kib)` once for one that is above it."""

    def __init__(self, on_over: Callable[[str, int], None]) -> None:
        self._on_over = on_over
        self._limits: dict[str, tuple[int, int]] = {}  # container id -> pid, KiB
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, container_id: str, pid: int, limit_mib: int) -> None:
        """Begin to look at it."""
        self._limits[container_id] = (pid, limit_mib * 1024)
        self._arm(SAMPLE_NEAR_S)  # start-up code may be the largest of all

    def forget(self, container_id: str) -> None:
        """It is gone."""
        if self._limits.pop(container_id, None) is not None and not self._limits:
            self._disarm()

    def _arm(self, delay_s: float) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        nearest = 0.0
        for container_id, (pid, limit_kib) in list(self._limits.items()):
            used_kib = used(pid, limit_kib)
            nearest = max(nearest, used_kib / limit_kib)
            if used_kib > limit_kib:
                del self._limits[container_id]
                self._on_over(container_id, used_kib)
        if self._limits:
            self._arm(SAMPLE_NEAR_S if nearest >= NEAR else SAMPLE_S)


def used(pid: int, limit_kib: int) -> int:
    """Memory of a container in KiB: exact when it is above the limit, at most too high when it is below."""
    first, *others = procfs.tree(pid)
    own_kib = procfs.rss_kib(first)
    sum_kib = own_kib + sum(map(procfs.rss_kib, others))
    if sum_kib <= limit_kib or not others:
        return sum_kib
    return own_kib + sum(map(procfs.private_kib, others))
