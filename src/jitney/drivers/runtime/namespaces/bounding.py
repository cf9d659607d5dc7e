"""What bounds a template: a control group of its own, or a look at its memory where there are no groups.

An import is code of users, and runs before there is a container whose limits would hold it. A container that is forked
from the template leaves the group as it starts, for its own. What both share stays charged to the template's, and so
does what only the container has of it once the template has written there: some 1.4 MiB for each, and all of it where
memory is collapsed into huge pages after forks. So the limit is raised when the template has loaded: from then on it
does nothing but fork, and the limit is there for what the import has left behind.

Where there are no groups the template is looked at while it loads; later, containers are its children.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import msgspec

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.memory import MemoryWatch
from jitney.ports.limits import Bounds, Group, Limiter
from jitney.values.containers import Exit, TemplateSpec

PIDS_MAX = 4_096  # processes and threads of one template, containers apart
NEAR_LIMIT = 0.9  # of the limit: below it was not that which memory ran out of
LATER_TIMES, LATER_MIB = 2, 4_096  # of the limit when it has loaded: for what the kernel charges to it
MACHINE_PARTS, MACHINE_PARTS_MAX = 10, 9  # of the machine's memory: the most for any
NAME = "template"  # to its own watch


def limit_of(spec: TemplateSpec, limit_mib: int) -> int | None:
    """Memory of a template, in MiB: what the worker allows, and no more than its class where it holds a snapshot."""
    own = spec.snapshot.memory_limit_mib if spec.snapshot is not None else None
    return min((one for one in (limit_mib, own) if one), default=None)


def later_limit_of(limit_mib: int, machine_mib: int) -> int:
    """The limit from when it has loaded.

    >>> later_limit_of(512, 64_000), later_limit_of(48_000, 64_000), later_limit_of(60_000, 64_000)
    (5120, 57600, 60000)
    """
    later_mib = min(LATER_TIMES * limit_mib + LATER_MIB, machine_mib * MACHINE_PARTS_MAX // MACHINE_PARTS)
    return max(limit_mib, later_mib)


class TemplateBounds:
    """The bounds of one template, from its start to its end. `joins`: what its process enters its group by."""

    def __init__(self, limit_mib: int | None, group: Group, *, is_watched: bool) -> None:
        self.limit_mib = limit_mib
        self.joins = group.join_fds
        self._group = group
        self._watch = MemoryWatch(self._over) if is_watched and limit_mib is not None else None
        self._kill: Callable[[], None] = lambda: None
        self._over_kib = 0  # what it had when it was ended for it, where it is watched
        self._kills_before = procfs.oom_kills()

    def begin(self, pid: int, kill: Callable[[], None]) -> None:
        """Its process is there, and loads."""
        self._group.close_fds()
        self._kill = kill
        if self._watch is not None and self.limit_mib is not None:
            self._watch.watch(NAME, pid, self.limit_mib)

    def loaded(self) -> None:
        """It does nothing but fork from now on."""
        if self._watch is not None:
            self._watch.forget(NAME)
        elif self.limit_mib is not None:
            self._group.raise_memory(later_limit_of(self.limit_mib, _machine_mib()))

    def _over(self, _name: str, used_kib: int) -> None:
        self._over_kib = used_kib
        self._kill()

    def judge(self, how: Exit) -> Exit:
        """How it ended: whether that was memory."""
        if how.signal != signal.SIGKILL or not self._was_memory():
            return how
        peak_kib = max(how.max_rss_kib, self._over_kib, self._group.usage().memory_peak_kib)
        limit_kib = (self.limit_mib or 0) * 1024
        if peak_kib < limit_kib * NEAR_LIMIT:
            limit_kib = 0  # the machine had none left
        return msgspec.structs.replace(how, oom_killed=True, max_rss_kib=peak_kib, limit_kib=limit_kib)

    def _was_memory(self) -> bool:
        if self._over_kib or self._group.oom_kills():
            return True
        return self._watch is not None and procfs.oom_kills() > self._kills_before

    def remedy(self, spec: TemplateSpec) -> str:
        """What to do where memory has ended it."""
        if spec.snapshot is not None and spec.snapshot.memory_limit_mib == self.limit_mib:
            return "Load less in @enter(snap=True), or raise the limit in memory= of the class."
        return "Load less as the module is imported, or raise template_limit_mib in [worker] of the configuration."

    async def remove(self) -> None:
        """It has ended."""
        if self._watch is not None:
            self._watch.forget(NAME)
        await self._group.remove()


def _machine_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)


def bound(limiter: Limiter, limit_mib: int, name: str, spec: TemplateSpec) -> TemplateBounds:
    """Bounds for a template that is about to start; `limit_mib` 0: none but that of its class.

    Raises:
        LimitsFailed: there can be no group for it.
    """
    own_mib = limit_of(spec, limit_mib)
    group = limiter.make(name, Bounds(memory_mib=own_mib, pids=PIDS_MAX))
    return TemplateBounds(own_mib, group, is_watched=not limiter.capabilities().memory)
