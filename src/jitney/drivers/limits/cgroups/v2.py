"""Version 2: what is written to a group's files, and what is read from them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jitney.drivers.limits.cgroups.counters import Counters, Write, keyed, number
from jitney.drivers.limits.cgroups.layout import Role
from jitney.ports.limits import Bounds

PERIOD_US = 100_000
QUOTA_MIN_US = 1_000  # the kernel's
WEIGHT_MAX = 10_000
PIDS_MAX = 4_194_304
MIB = 1 << 20

READS = {
    Role.MEMORY: ("memory.current", "memory.stat", "memory.peak", "memory.events"),
    Role.CPU: ("cpu.stat",),
    Role.TIME: ("cpu.stat",),
    Role.PIDS: ("pids.current",),
    Role.IO: ("io.stat",),
}


def writes(bounds: Bounds, roles: Collection[Role]) -> tuple[Write, ...]:
    """The limits of a new group. One CPU's weight is the kernel's default, 100."""
    found = []
    if Role.MEMORY in roles:
        # One process of a container that is ended leaves the others in a state that nobody has thought of.
        found.append(Write("memory.oom.group", "1", optional=True))
        if bounds.memory_mib is not None:
            found.append(Write("memory.max", str(bounds.memory_mib * MIB)))
            found.append(Write("memory.swap.max", "0", optional=True))
    if Role.CPU in roles:
        found.append(Write("cpu.weight", str(min(WEIGHT_MAX, max(1, bounds.cpu_weight_milli // 10)))))
        if bounds.cpu_milli is not None:
            found += quota(bounds.cpu_milli)
    if Role.PIDS in roles and bounds.pids is not None:
        found.append(Write("pids.max", str(min(PIDS_MAX, bounds.pids))))
    return tuple(found)


def quota(cpu_milli: int | None) -> tuple[Write, ...]:
    """A limit of CPU; None: there is none."""
    size = "max" if cpu_milli is None else max(QUOTA_MIN_US, cpu_milli * PERIOD_US // 1000)
    return (Write("cpu.max", f"{size} {PERIOD_US}"),)


def raises(memory_mib: int) -> tuple[Write, ...]:
    """A higher limit of memory."""
    return (Write("memory.max", str(memory_mib * MIB), optional=True),)


def read(roles: Collection[Role], texts: Mapping[str, str]) -> Counters:
    """What files say; one that is not there counts nothing."""
    found = Counters()
    cpu = keyed(texts.get("cpu.stat", ""))
    if Role.MEMORY in roles:
        memory = number(texts.get("memory.current", ""))
        idle = keyed(texts.get("memory.stat", "")).get("inactive_file", 0)
        found += Counters(
            memory_bytes=max(0, memory - idle),
            peak_bytes=max(memory, number(texts.get("memory.peak", ""))),
            oom_kills=keyed(texts.get("memory.events", "")).get("oom_kill", 0),
        )
    if Role.CPU in roles:
        found += Counters(throttled_ns=cpu.get("throttled_usec", 0) * 1000)
    if Role.TIME in roles:
        found += Counters(cpu_ns=cpu.get("usage_usec", 0) * 1000)
    if Role.PIDS in roles:
        found += Counters(processes=number(texts.get("pids.current", "")))
    if Role.IO in roles:
        found += _io(texts.get("io.stat", ""))
    return found


def _io(text: str) -> Counters:
    """Sums over devices of `8:0 rbytes=1 wbytes=2 ...`."""
    fields = [field.partition("=") for line in text.splitlines() for field in line.split(" ")[1:]]
    return Counters(
        read_bytes=sum(int(value) for key, _, value in fields if key == "rbytes" and value.isdecimal()),
        written_bytes=sum(int(value) for key, _, value in fields if key == "wbytes" and value.isdecimal()),
    )
