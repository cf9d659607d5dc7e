"""Version 1: what is written to a group's files, and what is read from them. Pure.

Its traps: swap is bounded by memory *and* swap together, which must not be less than memory alone at any moment, so
memory comes first; a quota that is more than an outer group has is refused, and means nothing anyway; `failcnt` counts
reclaims that helped, not kills.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jitney.drivers.limits.cgroups.counters import Counters, Write, keyed, number
from jitney.drivers.limits.cgroups.layout import Role
from jitney.ports.limits import Bounds

PERIOD_US = 100_000
QUOTA_MIN_US = 1_000  # the kernel's
SHARES_MIN, SHARES_MAX = 2, 262_144
PIDS_MAX = 4_194_304
MIB = 1 << 20

READS = {
    Role.MEMORY: ("memory.usage_in_bytes", "memory.stat", "memory.max_usage_in_bytes", "memory.oom_control"),
    Role.CPU: ("cpu.stat",),
    Role.TIME: ("cpuacct.usage",),
    Role.PIDS: ("pids.current",),
    Role.IO: ("blkio.throttle.io_service_bytes",),
}


def writes(bounds: Bounds, roles: Collection[Role]) -> tuple[Write, ...]:
    """The limits of a new group. One CPU's share is the kernel's default, 1024."""
    found = []
    if Role.MEMORY in roles and bounds.memory_mib is not None:
        size = str(bounds.memory_mib * MIB)
        found.append(Write("memory.limit_in_bytes", size))
        found.append(Write("memory.memsw.limit_in_bytes", size, optional=True))
        found.append(Write("memory.swappiness", "0", optional=True))  # where swap is not counted
    if Role.CPU in roles:
        shares = bounds.cpu_weight_milli * 1024 // 1000
        found.append(Write("cpu.shares", str(min(SHARES_MAX, max(SHARES_MIN, shares)))))
        if bounds.cpu_milli is not None:
            found += quota(bounds.cpu_milli)
    if Role.PIDS in roles and bounds.pids is not None:
        found.append(Write("pids.max", str(min(PIDS_MAX, bounds.pids))))
    return tuple(found)


def quota(cpu_milli: int | None) -> tuple[Write, ...]:
    """A limit of CPU; None: there is none."""
    size = -1 if cpu_milli is None else max(QUOTA_MIN_US, cpu_milli * PERIOD_US // 1000)
    return (Write("cpu.cfs_period_us", str(PERIOD_US)), Write("cpu.cfs_quota_us", str(size), optional=True))


def raises(memory_mib: int) -> tuple[Write, ...]:
    """A higher limit of memory: first of both together, as that may not be the lower one."""
    size = str(memory_mib * MIB)
    names = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes")
    return tuple(Write(name, size, optional=True) for name in names)


def read(roles: Collection[Role], texts: Mapping[str, str]) -> Counters:
    """What files say; one that is not there counts nothing."""
    found = Counters()
    if Role.MEMORY in roles:
        memory = number(texts.get("memory.usage_in_bytes", ""))
        idle = keyed(texts.get("memory.stat", "")).get("total_inactive_file", 0)
        found += Counters(
            memory_bytes=max(0, memory - idle),
            peak_bytes=max(memory, number(texts.get("memory.max_usage_in_bytes", ""))),
            oom_kills=keyed(texts.get("memory.oom_control", "")).get("oom_kill", 0),
        )
    if Role.CPU in roles:
        found += Counters(throttled_ns=keyed(texts.get("cpu.stat", "")).get("throttled_time", 0))
    if Role.TIME in roles:
        found += Counters(cpu_ns=number(texts.get("cpuacct.usage", "")))
    if Role.PIDS in roles:
        found += Counters(processes=number(texts.get("pids.current", "")))
    if Role.IO in roles:
        found += _io(texts.get("blkio.throttle.io_service_bytes", ""))
    return found


def _io(text: str) -> Counters:
    """Sums over devices of `8:0 Read 4096`."""
    fields = [line.split(" ") for line in text.splitlines()]
    rows = [(row[1], int(row[2])) for row in fields if len(row) == 3 and row[2].isdecimal()]
    return Counters(
        read_bytes=sum(size for kind, size in rows if kind == "Read"),
        written_bytes=sum(size for kind, size in rows if kind == "Write"),
    )
