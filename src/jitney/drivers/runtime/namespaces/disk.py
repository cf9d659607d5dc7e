"""What containers write to their own file systems, looked at now and then, and ended when it is too much.

The writable layer of a container is a folder of the machine's file system. A quota of the kernel's would need project
quotas, which few file systems have switched on; so the folder is walked. A walk costs what it has files for, and the
next one comes no sooner than ten times as long after it: looking takes a tenth of one processor at most.

A file counts for one block at least, even an empty one: it has its entry in the disk's table of files, which can be
used up as the room can. (The limit of memory does not bound it: entries that are on the disk need no memory.)

A file that was removed while somebody has it open is in no folder, and takes as much room as before. So the descriptors
of whoever is in the container are looked at too. What is held otherwise (by a mapping only, or on its way through a
socket) is not seen.

What it has written to volumes is on the same disk until it has ended. It counts as long as it is not committed: then it
is the volume's, which has no limit of ours.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable

from jitney.drivers.runtime.forking import procfs
from jitney.ports.mounting import COMMITTED

DEFAULT_MIB = 512 * 1024  # without `ephemeral_disk`
LOOK_S = 1.0
SHARE = 10
FILE_BLOCKS_MIN = 8  # of 512 bytes, as `stat` counts them: the 4 KiB that a file system's own blocks have
DESCRIPTORS_MAX = 100_000  # of one container: more are not looked at


def used_kib(folder: str, enough_kib: int, since_ns: int = 0) -> int:
    """KiB on disk below `folder`, or some number above `enough_kib` as soon as that is passed. Blocks.

    `since_ns`: only of what has changed since.
    """
    blocks = 0
    waiting = [folder]
    seen: set[int] = set()
    while waiting and blocks // 2 <= enough_kib:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # it has gone, or is closed to us
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
            if status.st_ctime_ns >= since_ns:
                blocks += max(status.st_blocks, FILE_BLOCKS_MIN)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return blocks // 2


def uncommitted_kib(uppers: str, enough_kib: int) -> int:
    """KiB of what a container has written to its volumes since they were committed last; as `used_kib`. Blocks."""
    used = 0
    try:
        volumes = [entry.path for entry in os.scandir(uppers)]
    except OSError:
        return 0  # it has none that it may write to
    for volume in volumes:
        try:
            since_ns = os.stat(os.path.join(volume, COMMITTED)).st_mtime_ns
        except OSError:
            since_ns = 0  # nothing was ever committed
        used += used_kib(os.path.join(volume, "upper"), enough_kib - used, since_ns)
    return used


def removed_kib(pids: Iterable[int], in_memory: Collection[int]) -> int:
    """KiB on disk of files that were removed, and that these processes have open. Blocks.

    `in_memory`: the numbers of devices whose files are memory.
    """
    blocks, looked = 0, 0
    seen: set[tuple[int, int]] = set()
    for folder in (f"/proc/{pid}/fd" for pid in pids):
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # it has ended
        for name in names:
            looked += 1
            if looked > DESCRIPTORS_MAX:
                return blocks // 2
            try:
                status = os.stat(f"{folder}/{name}")
            except OSError:
                continue
            which = status.st_dev, status.st_ino
            if stat.S_ISREG(status.st_mode) and not status.st_nlink and status.st_dev not in in_memory:
                blocks += 0 if which in seen else status.st_blocks
                seen.add(which)
    return blocks // 2


def devices_in_memory(pid: int) -> frozenset[int]:
    """The devices of memfd files, and of what is mounted for shared memory, here and where process `pid` is."""
    found = set()
    for path in ("/dev/shm", f"/proc/{pid}/root/dev/shm"):
        try:
            found.add(os.stat(path).st_dev)
        except OSError:
            pass
    fd = os.memfd_create("jitney")
    found.add(os.fstat(fd).st_dev)
    os.close(fd)
    return frozenset(found)


def namespace_of(pid: int) -> int:
    """The number of a process's pid namespace; 0 when it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _by_namespace() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for pid in procfs.pids():
        found.setdefault(namespace_of(pid), []).append(pid)
    return found


class Watched:
    """A container: its folders, its limit, and where its processes are."""

    def __init__(self, folder: str, limit_kib: int, pid: int, uppers: str = "") -> None:
        self.folder = folder
        self.uppers = uppers
        self.uncommitted_kib = 0  # of what it used, as it was looked at last
        self.limit_kib = limit_kib
        self.namespace = namespace_of(pid) if pid else 0
        self.in_memory = devices_in_memory(pid) if self.namespace else frozenset()

    def used_kib(self, processes: dict[int, list[int]]) -> int:
        """On disk, by files that can be found and files that cannot. Blocks."""
        used = used_kib(self.folder, self.limit_kib)
        if used <= self.limit_kib and self.uppers:
            self.uncommitted_kib = uncommitted_kib(self.uppers, self.limit_kib - used)
            used += self.uncommitted_kib
        if used <= self.limit_kib and self.namespace:
            used += removed_kib(processes.get(self.namespace, ()), self.in_memory)
        return used


class DiskWatch:
    """Watches folders. `on_over(name, used_kib, uncommitted_kib)` is called once, on the loop, for one that has passed
    its limit; the second is what of it was written to volumes."""

    def __init__(self, on_over: Callable[[str, int, int], None]) -> None:
        self._on_over = on_over
        self._watched: dict[str, Watched] = {}
        self._used: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def watch(self, name: str, folder: str, limit_kib: int, pid: int = 0, uppers: str = "") -> None:
        """From now on; whoever is in the pid namespace of process `pid` is asked for open files. `uppers`: the folder
        with what it writes to volumes."""
        self._watched[name] = Watched(folder, limit_kib, pid, uppers)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look())

    def forget(self, name: str) -> int:
        """No more; what it had used when it was looked at last, in KiB."""
        self._watched.pop(name, None)
        return self._used.pop(name, 0)

    def used_kib(self, name: str) -> int:
        """As it was looked at last."""
        return self._used.get(name, 0)

    async def _look(self) -> None:
        pause_s = LOOK_S
        while self._watched:
            await asyncio.sleep(pause_s)
            started_s = time.monotonic()
            processes = await asyncio.to_thread(_by_namespace)
            for name, one in list(self._watched.items()):
                used = await asyncio.to_thread(one.used_kib, processes)
                if name in self._watched:
                    self._used[name] = used
                    if used > one.limit_kib:
                        del self._watched[name]
                        self._on_over(name, used, one.uncommitted_kib)
            pause_s = max(LOOK_S, SHARE * (time.monotonic() - started_s))
        self._task = None

    def close(self) -> None:
        """Look no more."""
        self._watched.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None
