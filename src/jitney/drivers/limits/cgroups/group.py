"""One control group: a folder in each hierarchy that is used."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

from jitney.core.metering import MemoryTime
from jitney.drivers.limits.cgroups import endings, files, probe, v1, v2
from jitney.drivers.limits.cgroups.counters import Counters, Write
from jitney.drivers.limits.cgroups.layout import Layout, Part, Role
from jitney.ports.limits import Bounds, LimitsFailed
from jitney.values.containers import Usage

REMOVE_S = 10.0  # for the kernel to let go of a group whose processes were killed
RETRY_FIRST_S, RETRY_MOST_S = 0.001, 0.05
RESTORES_MAX = 3

DIALECTS = {1: v1, 2: v2}

log = logging.getLogger(__name__)


class CgroupGroup:
    """See `ports.limits.Group`."""

    def __init__(self, name: str, layout: Layout, gone: Callable[[CgroupGroup], None]) -> None:
        self.name = name
        self._layout = layout
        self._gone = gone
        self._folders = {part.folder: f"{part.folder}/{name}" for part in layout.parts}
        self._fds: tuple[int, ...] = ()
        self._counters = Counters()
        self._memory_time: MemoryTime | None = None
        self._removal: asyncio.Task[None] | None = None
        self._is_removed = False

    # ------------------------------------------------------------------------------------------------ making

    def create(self, bounds: Bounds) -> None:
        """Make the folders, with limits.

        Raises:
            LimitsFailed: it cannot be done; nothing is left.
        """
        made: list[str] = []
        fds: list[int] = []
        try:
            for part in self._layout.parts:
                folder = self._folders[part.folder]
                _make(part, folder)
                made.append(folder)
                self._limit(part, bounds)
                fds.append(os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            files.remove_all(made)
            where = error.filename or (made[-1] if made else self.name)
            raise LimitsFailed(f"the control group of {self.name} cannot be made: {where}: {error.strerror}") from error
        self._fds = tuple(fds)

    def _limit(self, part: Part, bounds: Bounds) -> None:
        for write in DIALECTS[part.version].writes(bounds, part.roles):
            if write.optional:
                if write.file in part.files:
                    files.try_write(f"{self._folders[part.folder]}/{write.file}", write.text)
                continue
            path = f"{self._folders[part.folder]}/{write.file}"
            try:
                files.write(path, write.text)
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror} ({write.text})", path) from None

    def raise_memory(self, memory_mib: int) -> None:
        """See the port."""
        part = self._layout.part(Role.MEMORY)
        if part is not None:
            self._change(part, DIALECTS[part.version].raises(memory_mib))

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """See the port."""
        part = self._layout.part(Role.CPU)
        if part is not None:
            self._change(part, DIALECTS[part.version].quota(cpu_milli))

    def _change(self, part: Part, writes: Iterable[Write]) -> None:
        for write in writes if not self._is_removed else ():
            if write.file in part.files:
                files.try_write(f"{self._folders[part.folder]}/{write.file}", write.text)

    # ------------------------------------------------------------------------------------------------ entering

    @property
    def join_fds(self) -> tuple[int, ...]:
        """See the port."""
        return self._fds

    def close_fds(self) -> None:
        """See the port."""
        fds, self._fds = self._fds, ()
        for fd in fds:
            os.close(fd)

    # ------------------------------------------------------------------------------------------------ counting

    def usage(self) -> Usage:
        """See the port."""
        counters = self._count()
        return Usage(
            cpu_ns=counters.cpu_ns,
            cpu_throttled_ns=counters.throttled_ns,
            memory_kib=counters.memory_bytes >> 10,
            memory_peak_kib=counters.peak_bytes >> 10,
            memory_byte_s=self._memory_time.byte_s if self._memory_time is not None else 0,
            processes=counters.processes,
            read_bytes=counters.read_bytes,
            written_bytes=counters.written_bytes,
        )

    def sample(self, now_ns: int) -> Usage:
        """See the port."""
        memory = self._count().memory_bytes
        if self._memory_time is None:
            self._memory_time = MemoryTime(at_ns=now_ns, memory_bytes=memory)
        else:
            self._memory_time = self._memory_time.until(now_ns, memory)
        return self.usage()

    def oom_kills(self) -> int:
        """See the port."""
        return self._count().oom_kills

    def _count(self) -> Counters:
        """Read everything; of a group that is gone, what was read last, with nobody inside."""
        if self._is_removed:
            return self._counters
        found = Counters()
        for part in self._layout.parts:
            dialect = DIALECTS[part.version]
            names = {name for role in part.roles if role in dialect.READS for name in dialect.READS[role]}
            folder = self._folders[part.folder]
            found += dialect.read(part.roles, {name: files.read(f"{folder}/{name}") for name in names & part.files})
        self._counters = found.at_least(self._counters)
        return self._counters

    # ------------------------------------------------------------------------------------------------ ending

    def kill(self) -> None:
        """See the port."""
        if self._is_removed:
            return
        endings.kill(
            tuple(self._folders.values()),
            can_kill=self._folder_with("cgroup.kill"),
            pids=self._folder_of(Role.PIDS),
            freezer=self._folder_of(Role.FREEZER),
        )

    def freeze(self) -> None:
        """See the port."""
        if folder := self._folder_of(Role.FREEZER):
            endings.freeze(folder)

    def thaw(self) -> None:
        """See the port."""
        if folder := self._folder_of(Role.FREEZER):
            endings.thaw(folder)

    def _folder_of(self, role: Role) -> str:
        part = self._layout.part(role)
        return self._folders[part.folder] if part is not None and not self._is_removed else ""

    def _folder_with(self, name: str) -> str:
        return next((self._folders[part.folder] for part in self._layout.parts if name in part.files), "")

    async def remove(self) -> None:
        """See the port. Whoever asks again waits for the same."""
        if self._removal is None:
            self._removal = asyncio.ensure_future(self._remove())
        await asyncio.shield(self._removal)

    async def _remove(self) -> None:
        self.close_fds()
        delay_s = RETRY_FIRST_S
        loop = asyncio.get_running_loop()
        until = loop.time() + REMOVE_S
        while True:
            self.kill()
            if not self._pids():
                self._count()
                if files.remove_all(self._folders.values()):
                    break
            if loop.time() > until:
                log.warning("limits_group_stuck", extra={"group": self.name, "pids": self._pids()[:10]})
                break  # `reap` or `close` tries again
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MOST_S)
        self._is_removed = True
        self._counters = self._counters.without_anybody()
        self._gone(self)

    def _pids(self) -> list[int]:
        return [pid for folder in self._folders.values() for pid in files.pids(folder)]


def _make(part: Part, folder: str) -> None:
    """Make a group's folder; the one around it goes when it is empty, and somebody cleans up."""
    for _ in range(RESTORES_MAX):
        try:
            os.mkdir(folder, 0o755)
            return
        except FileNotFoundError:
            probe.restore(part)
    os.mkdir(folder, 0o755)
