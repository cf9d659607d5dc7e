"""Layers looked at as the one root file system that they are together, without mounting it.

What is in layers was written by strangers: a link is followed inside the root only, never more than a few dozen times,
and nothing is opened that is not a plain file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

LINKS_MAX = 40
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")  # on a folder that hides those below it
READ_BYTES_MAX = 1024 * 1024


class Union:
    """The root file system of some layers, the lowest first."""

    def __init__(self, layers: Sequence[str | Path]) -> None:
        self._roots = tuple(Path(layer) for layer in reversed(layers))

    def find(self, path: str) -> tuple[str, Path] | None:
        """(its path without links, where it is on the host) of what is at `path`; None if there is nothing."""
        rest = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        trail: list[tuple[str, tuple[Path, ...]]] = [("", self._roots)]  # names and folders from the root to here
        links = 0
        while rest:
            name = rest.pop()
            if name == "..":
                trail = trail[:-1] or trail
                continue
            if name == ".":
                continue
            found = _child(trail[-1][1], name)
            if found is None:
                return None
            mode, places = found
            if stat.S_ISLNK(mode):
                links += 1
                target = _read_link(places[0])
                if links > LINKS_MAX or target is None:
                    return None
                if target.startswith("/"):
                    trail = trail[:1]
                rest += [part for part in reversed(target.split("/")) if part]
                continue
            if stat.S_ISDIR(mode):
                trail.append((name, places))
                continue
            if rest:
                return None  # a file where a folder had to be
            return "/".join([*(name for name, _ in trail), name]), places[0]
        names = "/".join(name for name, _ in trail)
        return names or "/", trail[-1][1][0]

    def is_file(self, path: str) -> bool:
        """Whether there is a plain file, also by a link."""
        found = self.find(path)
        return found is not None and stat.S_ISREG(os.lstat(found[1]).st_mode)

    def is_program(self, path: str) -> bool:
        """Whether there is a plain file that somebody may execute."""
        found = self.find(path)
        if found is None:
            return False
        mode = os.lstat(found[1]).st_mode
        return stat.S_ISREG(mode) and bool(mode & 0o111)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder, also by a link."""
        found = self.find(path)
        return found is not None and stat.S_ISDIR(os.lstat(found[1]).st_mode)

    def read(self, path: str) -> bytes | None:
        """The begin of a plain file; None if there is none."""
        found = self.find(path)
        if found is None:
            return None
        try:
            handle = os.open(found[1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(handle, "rb") as file:
            return file.read(READ_BYTES_MAX) if stat.S_ISREG(os.fstat(handle).st_mode) else None

    def names(self, path: str) -> Iterator[str]:
        """What is in a folder, sorted; nothing for what is not one."""
        roots = self._merged(path)
        seen: set[str] = set()
        for root in roots:
            try:
                seen.update(os.listdir(root))
            except OSError:
                continue
        for name in sorted(seen):
            if _child(roots, name) is not None:
                yield name

    def _merged(self, path: str) -> tuple[Path, ...]:
        found = self.find(path)
        if found is None or not stat.S_ISDIR(os.lstat(found[1]).st_mode):
            return ()
        places = self._roots
        for name in filter(None, found[0].split("/")):
            child = _child(places, name)
            if child is None:
                return ()
            places = child[1]
        return places


def _child(folders: Sequence[Path], name: str) -> tuple[int, tuple[Path, ...]] | None:
    """Mode and places of a name in merged folders, the topmost first."""
    places: list[Path] = []
    for folder in folders:
        place = folder / name
        try:
            status = os.lstat(place)
        except OSError:
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            break  # taken away here
        if not stat.S_ISDIR(status.st_mode):
            if places:
                break  # hidden by a folder above
            return status.st_mode, (place,)
        places.append(place)
        if _is_opaque(place):
            break
    return (stat.S_IFDIR, tuple(places)) if places else None


def _is_opaque(folder: Path) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    for name in OPAQUE:
        try:
            if os.getxattr(folder, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def _read_link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
