"""Scratch folders of containers: given out, taken back, and used again while they are as new.

Making a folder costs 0.3 to 1 ms on a disk's file system, which is a quarter of a container's start; renaming one costs
0.05. So some are made beforehand, and one that a container leaves empty goes back to the spare ones. Only if it is as
it was made: same mode and owner, and no larger, as a folder that once had many entries stays slow to read.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

MODE = 0o700
SPARE_PREFIX = ".spare-"
TRASH_PREFIX = ".trash-"
SPARE_FIRST = 16  # made when the runtime starts
SPARE_MAX = 128


class ScratchFolders:
    """Those below `root`, one for each container, called after it."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._spare: list[str] = []
        self._fresh_size = 0
        self._count = 0

    def prepare(self) -> None:
        """Make the first spare ones, and remove what an earlier run left. Blocks; before any is taken."""
        root = Path(self._root)
        root.mkdir(parents=True, exist_ok=True, mode=MODE)
        for path in root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for _ in range(SPARE_FIRST):
            self._spare.append(self._new_name(SPARE_PREFIX))
            os.mkdir(self._spare[-1], MODE)
        self._fresh_size = os.stat(self._spare[-1]).st_size

    def take(self, container_id: str) -> str:
        """The empty folder of a container.

        Raises:
            OSError: it cannot be made; one of that name is an error too.
        """
        folder = os.path.join(self._root, container_id)
        if self._spare and not os.path.lexists(folder):
            try:
                os.rename(self._spare.pop(), folder)
            except OSError:
                pass  # somebody cleaned up behind our back
            else:
                return folder
        os.mkdir(folder, MODE)
        return folder

    def give_back(self, folder: str) -> None:
        """A container is gone. Its folder is kept if as new, otherwise removed in a thread, as it may be huge."""
        try:
            found = os.stat(folder, follow_symlinks=False)
            as_new = (
                len(self._spare) < SPARE_MAX
                and found.st_mode & 0o7777 == MODE
                and found.st_uid == os.getuid()
                and found.st_size <= self._fresh_size
                and not os.listdir(folder)
            )
            spare = self._new_name(SPARE_PREFIX if as_new else TRASH_PREFIX)
            os.rename(folder, spare)
        except OSError:
            return
        if as_new:
            self._spare.append(spare)
        else:
            asyncio.get_running_loop().run_in_executor(None, remove_tree, spare)

    def close(self) -> None:
        """Remove the spare ones."""
        for folder in self._spare:
            try:
                os.rmdir(folder)
            except OSError:
                pass
        self._spare.clear()

    def _new_name(self, prefix: str) -> str:
        self._count += 1
        return os.path.join(self._root, f"{prefix}{self._count}")


def remove_tree(path: str) -> None:
    """Remove a folder and what is in it, also where its owner forbade itself to look or to write."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):
        _open_up(path)
        for folder, names, _ in os.walk(path):
            for name in names:
                _open_up(os.path.join(folder, name))  # before it is walked
        shutil.rmtree(path, ignore_errors=True)


def _open_up(folder: str) -> None:
    if not os.path.islink(folder):
        try:
            os.chmod(folder, MODE)
        except OSError:
            pass
