"""What Linux tells of processes, read from /proc. Where there is no /proc everything here is empty or None."""

from __future__ import annotations

import os
from typing import NamedTuple

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
ENVIRON_BYTES_MAX = 256 * 1024


class Stat(NamedTuple):
    """One process. `start_ticks` (clock ticks since boot) with the pid names it for ever; `cpu_ms` without children."""

    pid: int
    state: str
    ppid: int
    session: int
    cpu_ms: int
    start_ticks: int


def _read(path: str, limit: int = 65_536) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)


def stat(pid: int) -> Stat | None:
    """The process, or None when there is none (any more)."""
    text = _read(f"/proc/{pid}/stat")
    fields = text[text.rfind(b")") + 2 :].split()  # the name in brackets may hold anything
    if len(fields) < 20:
        return None
    return Stat(
        pid,
        fields[0].decode(),
        int(fields[1]),
        int(fields[3]),
        (int(fields[11]) + int(fields[12])) * TICK_MS,
        int(fields[19]),
    )


def pids() -> list[int]:
    """Every process of the machine that can be seen."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """The living (or unreaped) children of a process, whichever of its threads started them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def tree(pid: int) -> list[int]:
    """The process and all its descendants, parents first."""
    found = [pid]
    for one in found:  # grows while it is read
        found += children(one)
    return found


def argv(pid: int) -> list[bytes]:
    """The words it was started with, as it shows them; none of one that has ended."""
    return _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]


def carries(pid: int, marker: bytes) -> bool:
    """Whether the environment that the process was started with holds `marker` (b"NAME=value")."""
    return marker in _read(f"/proc/{pid}/environ", ENVIRON_BYTES_MAX).split(b"\0")


def oom_score_adj(pid: int) -> int | None:
    """How much sooner than others the process goes when memory runs out: -1000 to 1000."""
    text = _read(f"/proc/{pid}/oom_score_adj")
    return int(text) if text else None


def set_oom_score_adj(pid: int, value: int) -> bool:
    """Set it for a process and its future children; False where that cannot be done."""
    try:
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, str(value).encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def rss_kib(pid: int) -> int:
    """Resident memory, shared pages counted whole."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE_KIB if len(fields) > 1 else 0


def private_kib(pid: int) -> int:
    """Resident memory that no other process shares."""
    total = 0
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith((b"Private_Clean:", b"Private_Dirty:")):
            total += int(line.split()[1])
    return total


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot."""
    for line in _read("/proc/vmstat").splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def pid_of(pidfd: int) -> int:
    """The process that a pidfd stands for, as we number it; -1 when it was collected."""
    for line in _read(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith(b"Pid:"):
            return int(line.split()[1])
    return -1


def cpu_ms_with_children(pid: int) -> int:
    """CPU time of a process and of those children that it has waited for."""
    text = _read(f"/proc/{pid}/stat")
    fields = text[text.rfind(b")") + 2 :].split()
    return sum(map(int, fields[11:15])) * TICK_MS if len(fields) >= 15 else 0


def peak_kib(pid: int) -> int:
    """The most resident memory that the process has had."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1])
    return 0


def moved_bytes(pid: int) -> tuple[int, int]:
    """(read from disks, written to disks); 0 where that may not be seen."""
    found = {name: int(value) for name, _, value in (line.partition(b": ") for line in _read_lines(pid, "io")) if value}
    return found.get(b"read_bytes", 0), found.get(b"write_bytes", 0)


def _read_lines(pid: int, name: str) -> list[bytes]:
    return _read(f"/proc/{pid}/{name}").splitlines()
