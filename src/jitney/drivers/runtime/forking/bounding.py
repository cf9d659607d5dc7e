"""Memory of a template while it imports: what it may take, what it takes, and what is said of one that it has ended.

An import is code of users, and runs before there is a container whose limit would hold it. Where the template has no
control group of its own it is looked at as containers are (see memory), until it has loaded: from then on it does
nothing but fork, and what it holds is counted to its containers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import msgspec

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.memory import MemoryWatch
from jitney.values.containers import Exit, TemplateSpec

NEAR_LIMIT = 0.9  # of the limit: below it was not that which memory ran out of
NAME = "template"  # to its own watch


def limit_of(spec: TemplateSpec, limit_mib: int) -> int | None:
    """Memory of a template, in MiB: what the worker allows, and no more than its class where it holds a snapshot."""
    own = spec.snapshot.memory_limit_mib if spec.snapshot is not None else None
    return min((one for one in (limit_mib, own) if one), default=None)


def remedy_of(spec: TemplateSpec, limit_mib: int | None) -> str:
    """What to do where memory has ended it."""
    if spec.snapshot is not None and spec.snapshot.memory_limit_mib == limit_mib:
        return "Load less in @enter(snap=True), or raise the limit in memory= of the class."
    return "Load less as the module is imported, or raise template_limit_mib in [worker] of the configuration."


def out_of_memory(how: Exit, peak_kib: int, limit_mib: int | None) -> Exit:
    """The end of one that memory has ended: by its limit, or where it was far from that, by the machine's.

    `peak_kib` is what was seen of it, 0 if nothing was. The kernel's own figure only serves then, as a process that
    was started by another program has the peak of that one in it (exec keeps it; see `ru_maxrss` in getrusage(2)).
    """
    peak_kib = peak_kib or how.max_rss_kib
    limit_kib = (limit_mib or 0) * 1024
    if peak_kib < limit_kib * NEAR_LIMIT:
        limit_kib = 0  # the machine had none left
    return msgspec.structs.replace(how, oom_killed=True, max_rss_kib=peak_kib, limit_kib=limit_kib)


class ImportWatch:
    """Looks at one template from `begin` to `end`. `limit_mib` None: only whether the machine runs out."""

    def __init__(self, limit_mib: int | None) -> None:
        self.limit_mib = limit_mib
        self.over_kib = 0  # what it had when it was ended for it
        self._watch = MemoryWatch(self._over)
        self._kill: Callable[[], None] = lambda: None
        self._kills_before = procfs.oom_kills()

    def begin(self, pid: int, kill: Callable[[], None]) -> None:
        """Its process is there, and loads."""
        self._kill = kill
        if self.limit_mib is not None:
            self._watch.watch(NAME, pid, self.limit_mib)

    def end(self) -> None:
        """It has loaded, or has ended."""
        self._watch.forget(NAME)

    def _over(self, _name: str, used_kib: int) -> None:
        self.over_kib = used_kib
        self._kill()

    def was_memory(self) -> bool:
        """Whether one that was killed was killed for that."""
        return bool(self.over_kib) or procfs.oom_kills() > self._kills_before

    def judge(self, how: Exit) -> Exit:
        """How it ended: whether that was memory."""
        if how.signal != signal.SIGKILL or not self.was_memory():
            return how
        return out_of_memory(how, self.over_kib, self.limit_mib)
