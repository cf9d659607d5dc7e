"""One layer of a volume as a folder, as overlay mounts read them; and what a mount has written into one.

A removed path is a character device 0:0, which any user may make. A file is a hard link to its content: layers cost
names, not bytes. Content that is executable in one place and not in another is copied for one of them, as a file has
one mode; so is content that has as many names as the file system allows. Times of modification are those of the
content: what a volume's own listing says of a file is kept apart from it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from jitney.errors import NotFoundError
from jitney.ports.trees import Changes, Stamp
from jitney.values.volumes import DIR_MODE, FILE_MODE, MODE_MAX, Entry, Kind

EXECUTABLE = 0o111
DEPTH_MAX = 128  # folders in folders; what is deeper is passed over
OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")  # a folder that hides what is below it


class Builder:
    """Fills a folder with entries. `owner`: who owns what is made, as containers must; None: as it is."""

    def __init__(self, root: Path, content: Callable[[str], Path], owner: int | None) -> None:
        self._root = str(root)
        self._content = content
        self._owner = owner
        self._folders: set[str] = set()
        self._hidden: dict[str, bool] = {}

    def fill(self, puts: Iterable[Entry], removes: Iterable[str]) -> None:
        """Make the layer.

        Raises:
            NotFoundError: a content is not here.
            OSError: the disk is full, or fails.
        """
        self._make_root()
        for entry in puts:
            path = self._path(entry.path)
            if entry.kind is Kind.DIR:
                self._folder(entry.path, entry.mode)
            elif entry.kind is Kind.SYMLINK:
                os.symlink(entry.target, path)
                self._own(path)
            else:
                self._file(entry, path)
        for removed in sorted(removes):  # a folder before what was in it
            if self._is_hidden(removed.rpartition("/")[0]):
                continue
            path = self._path(removed)
            if not os.path.lexists(path):  # else something new is there, which hides the old
                os.mknod(path, stat.S_IFCHR | 0o000, 0)

    def _is_hidden(self, folder: str) -> bool:
        """Whether this layer has something else where that folder was, or one above it: a link must not be followed."""
        if not folder or folder in self._folders:
            return False
        if folder not in self._hidden:
            above = folder.rpartition("/")[0]
            full = f"{self._root}/{folder}"
            self._hidden[folder] = self._is_hidden(above) or (os.path.lexists(full) and not _is_folder(full))
        return self._hidden[folder]

    def _make_root(self) -> None:
        os.makedirs(self._root, exist_ok=True)
        os.chmod(self._root, 0o777 if self._owner is None else DIR_MODE)
        self._own(self._root)
        self._folders.add("")

    def _path(self, path: str) -> str:
        parent = path.rpartition("/")[0]
        if parent not in self._folders:
            self._folder(parent, DIR_MODE)
        return f"{self._root}/{path}"

    def _folder(self, path: str, mode: int) -> None:
        full = self._path(path)
        if not _is_folder(full):
            os.mkdir(full)
            self._own(full)
        os.chmod(full, mode)
        self._folders.add(path)

    def _file(self, entry: Entry, path: str) -> None:
        source = self._content(entry.digest)
        try:
            os.link(source, path)
        except FileNotFoundError:
            raise NotFoundError(f"the content of {entry.path!r} is not on this machine") from None
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                raise
            shutil.copyfile(source, path)
        seen = os.lstat(path)
        if seen.st_nlink > 2 and bool(seen.st_mode & EXECUTABLE) != bool(entry.mode & EXECUTABLE):
            os.unlink(path)
            shutil.copyfile(source, path)
            seen = os.lstat(path)
        wanted = FILE_MODE | (EXECUTABLE if entry.mode & EXECUTABLE else 0)
        if stat.S_IMODE(seen.st_mode) != wanted:
            os.chmod(path, wanted)
        if self._owner is not None and seen.st_uid != self._owner:
            os.chown(path, self._owner, self._owner)

    def _own(self, path: str) -> None:
        if self._owner is not None:
            os.chown(path, self._owner, self._owner, follow_symlinks=False)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def read_changes(upper: Path, known: Mapping[str, Stamp]) -> Changes:
    """See ports.trees.Trees.changes.

    What is no file, folder or link (sockets, devices) is passed over, and so is what no volume can hold: names and
    links that are not UTF-8, and what is too deep.
    """
    puts: list[Entry] = []
    removes: list[str] = []
    files: set[str] = set()
    stamps: dict[str, Stamp] = {}
    for path, folder, name, seen in _walk(upper):
        stamp = stamps[path] = Stamp.of(seen)
        kind = stat.S_IFMT(seen.st_mode)
        if kind == stat.S_IFDIR:
            stamp = stamps[path] = Stamp(seen.st_ino, 0, 0, 0)  # its times change with what is in it
        if known.get(path) == stamp:
            continue
        mode = seen.st_mode & MODE_MAX
        if kind == stat.S_IFDIR:
            if _is_opaque(folder, name):
                removes.append(path)
            puts.append(Entry(path=path, kind=Kind.DIR, mode=mode))
        elif kind == stat.S_IFLNK:
            target = _target(folder, name)
            if target:
                puts.append(Entry(path=path, kind=Kind.SYMLINK, target=target, mtime_ns=seen.st_mtime_ns))
        elif kind == stat.S_IFREG:
            files.add(path)
            puts.append(Entry(path=path, size=seen.st_size, mode=mode, mtime_ns=seen.st_mtime_ns))
        elif kind == stat.S_IFCHR and seen.st_rdev == 0:
            removes.append(path)
    removes += [path for path in known if path not in stamps]  # made since the last reading, and removed again
    return Changes(puts, removes, files, stamps)


def open_below(upper: Path, path: str) -> int:
    """A descriptor of a file for reading. Others change what is there meanwhile: no link is followed on the way.

    Raises:
        OSError: there is no file at that path (any more).
    """
    *folders, name = path.split("/")
    if {"", ".", ".."} & {*folders, name}:
        raise OSError(errno.EINVAL, f"{path!r} is no path in a volume")
    folder = os.open(upper, _FOLDER)
    try:
        for one in folders:
            folder, above = os.open(one, _FOLDER, dir_fd=folder), folder
            os.close(above)
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EINVAL, f"{path!r} is no file")
    return found


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Found = tuple[str, int, str, os.stat_result]  # path, descriptor of its folder, name, how it looks


def _walk(root: Path) -> Iterator[Found]:
    """Everything below a folder that others change meanwhile; folders before what is in them."""
    try:
        folder = os.open(root, _FOLDER)
    except OSError:
        return  # nothing was written yet
    yield from _below(folder, "", DEPTH_MAX)


def _below(folder: int, prefix: str, depth: int) -> Iterator[Found]:
    """As `_walk`; by descriptors, so that no link put in a folder's place is followed. Closes `folder`."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in filter(_is_text, names):
            path = f"{prefix}{name}"
            try:
                seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
                inner = os.open(name, _FOLDER, dir_fd=folder) if stat.S_ISDIR(seen.st_mode) and depth > 1 else -1
            except OSError:
                continue  # it has gone, or is something else by now
            try:
                yield path, folder, name, seen
            except BaseException:
                if inner >= 0:
                    os.close(inner)
                raise
            if inner >= 0:
                yield from _below(inner, f"{path}/", depth - 1)
    finally:
        os.close(folder)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _target(folder: int, name: str) -> str:
    """Of a link; "" where it has gone, or is not UTF-8."""
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError:
        return ""
    return target if _is_text(target) else ""


def _is_opaque(folder: int, name: str) -> bool:
    try:
        found = os.open(name, _FOLDER, dir_fd=folder)
    except OSError:
        return False
    try:
        return any(_has_attribute(found, attribute) for attribute in OPAQUE)
    finally:
        os.close(found)


def _has_attribute(descriptor: int, attribute: str) -> bool:
    try:
        return os.getxattr(descriptor, attribute) == b"y"
    except OSError:
        return False
