"""Groups without processes: for tests of whatever makes groups, and asks them.

A test puts processes in with `FakeGroup.enter`, and lets them do things; the group bounds and counts them as the port's
contract says (it passes the conformance suite), unless it is told to misbehave.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import msgspec

from jitney.core.metering import MemoryTime
from jitney.ports.limits import Bounds, LimitCapabilities, LimitsFailed
from jitney.values.containers import Usage

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
MIB = 1 << 20


class FakeProcess:
    """Somebody inside."""

    def __init__(self) -> None:
        self.memory_bytes = 0
        self.spins = False
        self.ended_by: int | None = None  # a signal


class FakeGroup:
    """See `ports.limits.Group`. There are no descriptors: who enters says so."""

    def __init__(self, name: str, bounds: Bounds, gone: Callable[[], None]) -> None:
        self.name = name
        self.bounds = bounds
        self.processes: list[FakeProcess] = []
        self.is_frozen = False
        self.is_removed = False
        self.is_open = True
        self._gone = gone
        self._cpu_ns = self._throttled_ns = self._peak_bytes = self._oom_kills = 0
        self._memory_time: MemoryTime | None = None

    # ------------------------------------------------------------------------------------------------ for tests

    def enter(self) -> FakeProcess:
        """A process enters, or one inside forks.

        Raises:
            BlockingIOError: there are as many as may be (EAGAIN).
            FileNotFoundError: the group is gone.
        """
        if self.is_removed:
            raise FileNotFoundError(self.name)
        if self.bounds.pids is not None and len(self.processes) >= self.bounds.pids:
            raise BlockingIOError("Resource temporarily unavailable")
        process = FakeProcess()
        self.processes.append(process)
        return process

    def charge(self, process: FakeProcess, size_bytes: int) -> None:
        """A process takes memory; over the limit all are ended."""
        process.memory_bytes += size_bytes
        limit = self.bounds.memory_mib
        memory = self._memory_bytes()
        if limit is not None and memory > limit * MIB:
            self._peak_bytes = max(self._peak_bytes, limit * MIB)
            self._oom_kills += len(self.processes)
            self.kill()
        self._peak_bytes = max(self._peak_bytes, self._memory_bytes())

    def spend(self, wall_ns: int) -> None:
        """Time passes, on a machine with as many CPUs as it takes."""
        wanted = 0 if self.is_frozen else wall_ns * sum(process.spins for process in self.processes)
        given = wanted if self.bounds.cpu_milli is None else min(wanted, wall_ns * self.bounds.cpu_milli // 1000)
        self._cpu_ns += given
        self._throttled_ns += wanted - given

    # ------------------------------------------------------------------------------------------------ the port

    @property
    def join_fds(self) -> tuple[int, ...]:
        """See the port."""
        return ()

    def close_fds(self) -> None:
        """See the port."""
        self.is_open = False

    def raise_memory(self, memory_mib: int) -> None:
        """See the port."""
        if self.bounds.memory_mib is not None:
            self.bounds = msgspec.structs.replace(self.bounds, memory_mib=memory_mib)

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """See the port."""
        self.bounds = msgspec.structs.replace(self.bounds, cpu_milli=cpu_milli)

    def usage(self) -> Usage:
        """See the port."""
        return Usage(
            cpu_ns=self._cpu_ns,
            cpu_throttled_ns=self._throttled_ns,
            memory_kib=self._memory_bytes() >> 10,
            memory_peak_kib=self._peak_bytes >> 10,
            memory_byte_s=self._memory_time.byte_s if self._memory_time is not None else 0,
            processes=len(self.processes),
        )

    def sample(self, now_ns: int) -> Usage:
        """See the port."""
        memory = self._memory_bytes()
        if self._memory_time is None:
            self._memory_time = MemoryTime(at_ns=now_ns, memory_bytes=memory)
        else:
            self._memory_time = self._memory_time.until(now_ns, memory)
        return self.usage()

    def oom_kills(self) -> int:
        """See the port."""
        return self._oom_kills

    def kill(self) -> None:
        """See the port."""
        for process in self.processes:
            process.ended_by = signal.SIGKILL
        self.processes.clear()

    def freeze(self) -> None:
        """See the port."""
        self.is_frozen = True

    def thaw(self) -> None:
        """See the port."""
        self.is_frozen = False

    async def remove(self) -> None:
        """See the port."""
        self.kill()
        self.close_fds()
        if not self.is_removed:
            self.is_removed = True
            self._gone()

    def _memory_bytes(self) -> int:
        return sum(process.memory_bytes for process in self.processes)


class FakeMachine:
    """What outlives a limiter: the groups of all owners."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], FakeGroup] = {}  # (owner, name)

    def spend(self, wall_ns: int) -> None:
        """Time passes."""
        for group in self.groups.values():
            group.spend(wall_ns)


class FakeLimiter:
    """See `ports.limits.Limiter`.

    Args:
        owner: whose groups these are.
        machine: shared by limiters that see each other's groups.
        refuses: why no group can be made, while it is set.
    """

    def __init__(self, owner: str = "fake", machine: FakeMachine | None = None, *, refuses: str = "") -> None:
        self.refuses = refuses
        self.machine = machine or FakeMachine()
        self.made: list[FakeGroup] = []
        self._owner = owner

    def capabilities(self) -> LimitCapabilities:
        """See the port."""
        return LimitCapabilities(name="fake", cpu=True, memory=True, pids=True, freeze=True)

    async def reap(self) -> int:
        """See the port."""
        left = [group for group in self._owned() if group not in self.made]
        for group in left:
            await group.remove()
        return len(left)

    def make(self, name: str, bounds: Bounds) -> FakeGroup:
        """See the port."""
        if self.refuses:
            raise LimitsFailed(self.refuses)
        key = (self._owner, name)
        if not NAME.fullmatch(name) or key in self.machine.groups:
            raise LimitsFailed(f"{name!r} cannot name a group, or is taken")
        group = FakeGroup(name, bounds, lambda: self._forget(key))
        self.machine.groups[key] = group
        self.made.append(group)
        return group

    def _forget(self, key: tuple[str, str]) -> None:
        self.machine.groups.pop(key, None)

    def _owned(self) -> list[FakeGroup]:
        return [group for (owner, _), group in self.machine.groups.items() if owner == self._owner]

    async def close(self) -> None:
        """See the port."""
        for group in self._owned():
            await group.remove()
