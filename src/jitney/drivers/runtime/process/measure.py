"""What a container uses, summed up over its processes and those of the commands that run in it."""

from __future__ import annotations

import os

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.process.container import Container
from jitney.ports.runtime import Stats
from jitney.values.containers import Limits, Usage

DISK_ENTRIES_MAX = 2_000  # of a scratch folder with more than that the size is not told: counting would take too long


def measure(container: Container, commands: list[int]) -> Stats:
    """Of a container that lives. Processes that have ended count where their parent has waited for them."""
    assert container.handle is not None
    pids = [pid for root in (container.handle.pid, *commands) for pid in procfs.tree(root)]
    found = [stat for pid in pids if (stat := procfs.stat(pid)) is not None]
    cpu_ms = sum(stat.cpu_ms for stat in found)
    rss_kib = sum(map(procfs.rss_kib, pids))
    moved = [procfs.moved_bytes(pid) for pid in pids]
    usage = Usage(
        cpu_ns=sum(map(procfs.cpu_ms_with_children, pids)) * 1_000_000,
        memory_kib=rss_kib,
        memory_peak_kib=max(sum(map(procfs.peak_kib, pids)), rss_kib),
        processes=len(found),
        read_bytes=sum(read for read, _ in moved),
        written_bytes=sum(written for _, written in moved),
        disk_kib=disk_kib(container.folder),
    )
    limit_mib = container.launch.resources.memory_limit_mib
    limits = Limits(memory_kib=limit_mib * 1024 if limit_mib is not None else None)
    return Stats(processes=len(found), rss_kib=rss_kib, cpu_ms=cpu_ms, usage=usage, limits=limits)


def disk_kib(folder: str, entries_max: int = DISK_ENTRIES_MAX) -> int:
    """What is in a folder; 0 where it is too much to count."""
    blocks = count = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > entries_max:
                        return 0
                    blocks += entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:
            continue  # it goes while we look
    return blocks // 2
