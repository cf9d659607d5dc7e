"""What containers write to their own file systems, looked at now and then, and ended when it is too much.

The writable layer of a container is a folder of the machine's file system. A quota of the kernel's would need project
quotas, which few file systems have switched on; so the folder is walked. A walk costs what it has files for, and the
next one comes no sooner than ten times as long after it: looking takes a tenth of one processor at most.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

DEFAULT_MIB = 512 * 1024  # without `ephemeral_disk`
LOOK_S = 1.0
SHARE = 10


def used_kib(folder: str, enough_kib: int) -> int:
    """KiB on disk below `folder`, or some number above `enough_kib` as soon as that is passed. Blocks."""
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
            blocks += status.st_blocks
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return blocks // 2


class DiskWatch:
    """Watches folders. `on_over(name, used_kib)` is called once, on the loop, for one that has passed its limit."""

    def __init__(self, on_over: Callable[[str, int], None]) -> None:
        self._on_over = on_over
        self._watched: dict[str, tuple[str, int]] = {}
        self._used: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def watch(self, name: str, folder: str, limit_kib: int) -> None:
        """From now on."""
        self._watched[name] = folder, limit_kib
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
            for name, (folder, limit_kib) in list(self._watched.items()):
                used = await asyncio.to_thread(used_kib, folder, limit_kib)
                if name in self._watched:
                    self._used[name] = used
                    if used > limit_kib:
                        del self._watched[name]
                        self._on_over(name, used)
            pause_s = max(LOOK_S, SHARE * (time.monotonic() - started_s))
        self._task = None

    def close(self) -> None:
        """Look no more."""
        self._watched.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None
