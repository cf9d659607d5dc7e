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

from jitney.drivers.runtime.forking.bounding import ImportWatch, limit_of, out_of_memory, remedy_of
from jitney.ports.limits import Bounds, Group, Limiter
from jitney.values.containers import Exit, TemplateSpec

PIDS_MAX = 4_096  # processes and threads of one template, containers apart
LATER_TIMES, LATER_MIB = 2, 4_096  # of the limit when it has loaded: for what the kernel charges to it
MACHINE_PARTS, MACHINE_PARTS_MAX = 10, 9  # of the machine's memory: the most for any


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
        self._watch = ImportWatch(limit_mib) if is_watched and limit_mib is not None else None

    def begin(self, pid: int, kill: Callable[[], None]) -> None:
        """Its process is there, and loads."""
        self._group.close_fds()
        if self._watch is not None:
            self._watch.begin(pid, kill)

    def loaded(self) -> None:
        """It does nothing but fork from now on."""
        if self._watch is not None:
            self._watch.end()
        elif self.limit_mib is not None:
            self._group.raise_memory(later_limit_of(self.limit_mib, _machine_mib()))

    def judge(self, how: Exit) -> Exit:
        """How it ended: whether that was memory."""
        if how.signal != signal.SIGKILL or not self._was_memory():
            return how
        seen_kib = self._watch.over_kib if self._watch is not None else 0
        return out_of_memory(how, max(seen_kib, self._group.usage().memory_peak_kib), self.limit_mib)

    def _was_memory(self) -> bool:
        return bool(self._group.oom_kills()) or (self._watch is not None and self._watch.was_memory())

    def remedy(self, spec: TemplateSpec) -> str:
        """What to do where memory has ended it."""
        return remedy_of(spec, self.limit_mib)

    async def remove(self) -> None:
        """It has ended."""
        if self._watch is not None:
            self._watch.end()
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
