"""Files that were shipped, put into a layer from outside: no program of the image is needed for it, or run.

Both sides are hostile. The tree is read with its links not followed, and only plain files and folders of it are taken.
Where a folder of the image is a link (`/lib` on most of today's), the files go where it leads in the image; the layer's
own folders are looked at, not trusted: nothing is written through a link.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from jitney.drivers.builder.local.union import Union
from jitney.errors import ImageBuildError

FILES_MAX = 200_000


class Target:
    """A layer that is being filled, on top of others.

    Args:
        folder: the layer; its owner is who everything in it belongs to.
        below: the layers under it, the lowest first.
    """

    def __init__(self, folder: Path, below: Sequence[str]) -> None:
        self._folder = folder
        self._below = tuple(below)
        status = os.lstat(folder)
        self._owner = status.st_uid, status.st_gid
        self._may_own = os.geteuid() == 0

    def make_folder(self, path: str) -> Path:
        """A folder of the image, with those above it; where it is in the layer.

        Raises:
            ImageBuildError: a file is in its way.
        """
        place, inside = self._folder, ""
        for part in _parts(path):
            inside = self._resolved(f"{inside}/{part}")
            place = self._folder
            for name in _parts(inside):
                place = place / name
                self._make_one(place, "/" + os.path.relpath(place, self._folder))
        return place

    def copy_tree(self, source: Path, target: str) -> int:
        """Everything in `source`, below the folder `target` of the image; how many files."""
        count = 0
        for where, folders, files in os.walk(source, followlinks=False):
            relative = os.path.relpath(where, source)
            inside = target if relative == "." else f"{target.rstrip('/')}/{relative}"
            place = self.make_folder(inside)
            folders[:] = [name for name in folders if stat.S_ISDIR(os.lstat(os.path.join(where, name)).st_mode)]
            for name in files:
                count += self._copy_file(Path(where, name), place / name)
                if count > FILES_MAX:
                    raise ImageBuildError(f"over {FILES_MAX:,} files are too many for one step")
        return count

    def write(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """One file of the image."""
        folder, _, name = path.rpartition("/")
        place = self.make_folder(folder) / name
        _make_way(place)
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        self._give(place, *self._owner)

    def _resolved(self, path: str) -> str:
        """`path` without links, as far as it is there: the last part is kept where there is nothing."""
        found = self._union().find(path)
        return found[0] if found else path

    def _union(self) -> Union:
        return Union((*self._below, self._folder))

    def _make_one(self, place: Path, inside: str) -> None:
        try:
            if stat.S_ISDIR(os.lstat(place).st_mode):
                return
        except FileNotFoundError:
            pass
        else:
            raise ImageBuildError(f"{inside} of the image is a file, and a folder has to be there")
        below = Union(self._below).find(inside)
        status = os.lstat(below[1]) if below else None
        if status and not stat.S_ISDIR(status.st_mode):
            raise ImageBuildError(f"{inside} of the image is a file, and a folder has to be there")
        place.mkdir()
        # A folder of this layer hides the attributes of the one below: it has to have the same.
        of_machine = self._below[:1] == ("/",) and below is not None and not self._is_in_layers(below[1])
        owner = (status.st_uid, status.st_gid) if status and not of_machine else self._owner
        self._give(place, *owner)
        place.chmod(stat.S_IMODE(status.st_mode) if status else 0o755)

    def _is_in_layers(self, place: Path) -> bool:
        return any(layer != "/" and place.is_relative_to(layer) for layer in self._below)

    def _copy_file(self, source: Path, place: Path) -> int:
        handle = (
            os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if _is_plain(source) else -1
        )
        if handle < 0:
            return 0  # a link or a device, which no shipped tree has
        with os.fdopen(handle, "rb") as reader:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return 0
            _make_way(place)
            mode = 0o755 if status.st_mode & 0o111 else 0o644
            written = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(written, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1024 * 1024)
                os.fchmod(written, mode)
        self._give(place, *self._owner)
        return 1

    def _give(self, place: Path, user: int, group: int) -> None:
        if self._may_own:
            os.chown(place, user, group, follow_symlinks=False)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _make_way(place: Path) -> None:
    """What this layer had there gives way, unless it is a folder."""
    try:
        place.unlink()
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        raise ImageBuildError(f"a folder is where the file {place.name!r} has to be") from None
