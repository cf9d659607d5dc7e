"""What this machine is: its share of CPU and memory where a limit is set on us, or all that there is."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path

from jitney.values import ids
from jitney.values.containers import NodeInfo

CGROUPS = Path("/sys/fs/cgroup")


def describe(root: Path, runtime: str) -> NodeInfo:
    """This machine, as the worker of the server folder `root` reports it."""
    return NodeInfo(
        node_id=node_id(root),
        hostname=socket.gethostname(),
        cpu_milli=cpu_milli(),
        memory_mib=memory_mib(),
        disk_mib=disk_mib(root),
        runtime=runtime,
        python_version=platform.python_version(),
    )


def node_id(root: Path) -> str:
    """The same for every worker of this folder on this machine."""
    name = _read(Path("/etc/machine-id")) or socket.gethostname()
    return ids.make(ids.NODE, hashlib.sha256(f"{name}\0{root}".encode()).digest())


def cpu_milli() -> int:
    """Thousandths of a CPU that we may use."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    return min([count * 1000, *_cpu_quotas()])


def memory_mib() -> int:
    """Memory that we may use, in MiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_memory_limits()]) // (1024 * 1024)


def disk_mib(root: Path) -> int:
    """Size of the file system that the server folder is on, in MiB; 0 where the system does not tell."""
    try:
        found = os.statvfs(root)
    except OSError:
        return 0
    return found.f_blocks * found.f_frsize // (1024 * 1024)


def _cpu_quotas() -> Iterator[int]:
    for folder in _cgroups("cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")  # version 2
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield max(int(quota) * 1000 // int(period), 1)


def _memory_limits() -> Iterator[int]:
    for folder in _cgroups("memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if limit.isdigit():
            yield int(limit)


def _cgroups(controller: str) -> Iterator[Path]:
    """Our control group and those around it, in whichever hierarchies have the controller."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            bases = [CGROUPS, CGROUPS / "unified"]
        elif controller in controllers.split(","):
            bases = [CGROUPS / controllers, CGROUPS / controller]
        else:
            continue
        for base in bases:
            here = base / path.lstrip("/")
            while here.is_relative_to(base):
                yield here
                here = here.parent


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
