"""The checkpoints of a server folder, on its disk: a folder each, and a file in it that says of what.

    checkpoints/<key>/about.json
                      images/...       the checkpointer's own
    checkpoints/<key>.partial/         while it is made

All of this blocks: to be called in threads.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from jitney.core.checkpoints import Kept, doomed
from jitney.drivers.runtime.forking.loading import Loaded

ABOUT = "about.json"
IMAGES = "images"
PARTIAL = ".partial"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a checkpoint. `needs`: paths without which it is of no use."""

    loaded: Loaded
    needs: tuple[str, ...] = ()
    era: str = ""  # the boot of the machine, and what made it
    has_devices: bool = False
    size_bytes: int = 0


class Shelf:
    """See the module."""

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self._root = root
        self.budget_bytes = budget_bytes

    def images(self, key: str) -> Path:
        """Where the checkpointer wrote it."""
        return self._root / key / IMAGES

    def free_bytes(self) -> int:
        """What the disk has left."""
        return shutil.disk_usage(next(path for path in (self._root, *self._root.parents) if path.is_dir())).free

    def begin(self, key: str) -> Path:
        """A place for one that is to be made.

        Raises:
            OSError: there is none.
        """
        partial = self._root / f"{key}{PARTIAL}"
        self._root.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        return partial / IMAGES

    def commit(self, key: str, about: About) -> bool:
        """It was made: keep it, and remove what has no room beside it; False where it has no room itself.

        Raises:
            OSError: it cannot be kept.
        """
        partial = self._root / f"{key}{PARTIAL}"
        about = msgspec.structs.replace(about, size_bytes=size_bytes(partial))
        (partial / ABOUT).write_bytes(msgspec.json.encode(about))
        shutil.rmtree(self._root / key, ignore_errors=True)
        partial.rename(self._root / key)
        self.prune(about.era)
        return (self._root / key).exists()

    def abandon(self, key: str) -> None:
        """It was not made."""
        shutil.rmtree(self._root / f"{key}{PARTIAL}", ignore_errors=True)

    def find(self, key: str) -> About | None:
        """What is known of one; None where there is none."""
        return _read(self._root / key)

    def use(self, key: str) -> None:
        """It is used now."""
        try:
            os.utime(self._root / key / ABOUT)
        except OSError:
            pass

    def remove(self, key: str) -> None:
        """One that is of no use."""
        shutil.rmtree(self._root / key, ignore_errors=True)

    def prune(self, era: str, *, partial: bool = False) -> tuple[str, ...]:
        """Remove what is of no use, or over the budget; with `partial` also what was never finished."""
        kept = []
        for path in self._root.iterdir() if self._root.is_dir() else ():
            about = None if path.name.endswith(PARTIAL) else _read(path)
            if about is not None:
                kept.append(_kept(path, about, era))
            elif partial or not path.name.endswith(PARTIAL):
                shutil.rmtree(path, ignore_errors=True)
        going = doomed(kept, self.budget_bytes)
        for key in going:
            self.remove(key)
        return going


def _read(folder: Path) -> About | None:
    try:
        return msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError):
        return None


def _kept(path: Path, about: About, era: str) -> Kept:
    try:
        used_at_ms = (path / ABOUT).stat().st_mtime_ns // 1_000_000
    except OSError:
        used_at_ms = 0
    is_of_use = about.era == era and all(map(os.path.exists, about.needs))
    return Kept(key=path.name, size_bytes=about.size_bytes, used_at_ms=used_at_ms, is_of_use=is_of_use)


def size_bytes(folder: Path) -> int:
    """What a folder takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
