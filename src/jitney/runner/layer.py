"""A layer of an image, as a folder that an overlay file system takes: filled entry by entry, by hand over hand.

Nothing is looked up by path. Each folder on the way is opened from the one above it and never through a link; files
are created and never opened. So whatever the names say, only what is below the root can change.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from jitney.runner import tarstream
from jitney.runner.tarstream import Entry, Refused, Stream

FILES_MAX = 3_000_000
GONE = b".wh."
META = b".wh..wh."
OPAQUE = b".wh..wh..opq"
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER_MODE = 0o755  # of folders that the archive does not mention


class Layer:
    """A layer that is being filled.

    Args:
        root: descriptor of its folder.
        files_max: how many entries it may have.
        owner: the owner to give for an owner in the archive; None = none can be given.
    """

    def __init__(self, root: int, *, files_max: int = FILES_MAX, owner: Callable[[int], int | None]) -> None:
        self._way: list[tuple[bytes, int]] = [(b"", root)]  # open folders, from the root to the current one
        self._files_max = files_max
        self._owner = owner
        self._folders: dict[tuple[bytes, ...], Entry] = {}  # what is written to them last
        self._gone: set[tuple[bytes, ...]] = set()
        self.files = 0
        self.unowned = 0  # whose owner could not be given
        self.left_out = 0
        self.hides_all = False  # what is below this layer, whole

    def add(self, entry: Entry, stream: Stream) -> None:
        """One member of the archive.

        Raises:
            Refused: it is not a thing that a layer may have.
        """
        self.files += 1
        if self.files > self._files_max:
            raise Refused(f"it has more than {self._files_max:,} files")
        if any(part.startswith(GONE) for part in entry.path[:-1]):
            raise Refused(f"{entry.name} is below a marker of something that is gone")
        if entry.path and entry.path[-1].startswith(GONE):
            stream.skip(entry.size)
            self._mark(entry)
        elif entry.kind == tarstream.FOLDER:
            self._enter(entry.path)
            self._folders[entry.path] = entry
        elif not entry.path:
            raise Refused("the root is not a folder")
        elif entry.kind in (tarstream.CHARACTER, tarstream.BLOCK):
            if entry.path[0] != b"dev":
                raise Refused(f"{entry.name} is a device")
            self.left_out += 1
        else:
            self._make(entry, stream)

    def finish(self) -> None:
        """Modes and times of folders: last, so that none is closed to what goes into it."""
        for path in sorted(self._folders, reverse=True):
            entry = self._folders[path]
            folder = self._enter(path)
            self._own(entry, folder)
            os.fchmod(folder, entry.mode)
            os.utime(folder, ns=(entry.mtime_ns, entry.mtime_ns))
        self._leave(1)

    # ---------------------------------------------------------------------------------------------- kinds

    def _make(self, entry: Entry, stream: Stream) -> None:
        folder, name = self._enter(entry.path[:-1]), entry.path[-1]
        if entry.path in self._gone:
            self._gone.discard(entry.path)
            self._unmark(folder, name)
        try:
            if entry.kind == tarstream.FILE:
                self._file(entry, folder, name, stream)
            elif entry.kind == tarstream.LINK:
                self._link(entry, name)
            elif entry.kind == tarstream.SYMLINK:
                if not entry.target or b"\0" in entry.target or len(entry.target) >= tarstream.PATH_BYTES_MAX:
                    raise Refused(f"{entry.name} is a symbolic link without a usable target")
                os.symlink(entry.target, name, dir_fd=folder)
                self._finish_name(entry, folder, name)
            else:
                os.mkfifo(name, entry.mode, dir_fd=folder)
                self._finish_name(entry, folder, name)
        except FileExistsError:
            raise Refused(f"{entry.name} is there twice") from None
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
                raise Refused(f"{entry.name}: {error.strerror}") from None
            raise

    def _file(self, entry: Entry, folder: int, name: bytes, stream: Stream) -> None:
        file = os.open(name, FILE_FLAGS, 0o600, dir_fd=folder)
        try:
            left = entry.size
            while left:
                chunk = stream.read(min(left, tarstream.CHUNK_BYTES))
                if not chunk:
                    raise Refused("it ends in the middle of a file")
                left -= len(chunk)
                while chunk:
                    chunk = chunk[os.write(file, chunk) :]
            self._own(entry, file)
            os.fchmod(file, entry.mode)  # after the owner: changing that takes setuid away
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _link(self, entry: Entry, name: bytes) -> None:
        path = tarstream.split(entry.target)
        if not path or any(part.startswith(GONE) for part in path):
            raise Refused(f"{entry.name} is a hard link to something that is no file")
        source = os.dup(self._enter(path[:-1], make=False))
        try:
            kind = stat.S_IFMT(os.stat(path[-1], dir_fd=source, follow_symlinks=False).st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):  # never a marker
                raise Refused(f"{entry.name} is a hard link to something that is no file")
            folder = self._enter(entry.path[:-1])
            os.link(path[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise Refused(f"{entry.name} is a hard link to a file that is not in this layer") from None
        finally:
            os.close(source)

    def _finish_name(self, entry: Entry, folder: int, name: bytes) -> None:
        """Owner and time of what is not opened."""
        owners = self._owners(entry)
        if owners:
            os.chown(name, *owners, dir_fd=folder, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _own(self, entry: Entry, file: int) -> None:
        owners = self._owners(entry)
        if owners:
            os.fchown(file, *owners)

    def _owners(self, entry: Entry) -> tuple[int, int] | None:
        uid, gid = self._owner(entry.uid), self._owner(entry.gid)
        if uid is None or gid is None:
            self.unowned += 1
            root = self._owner(0)
            return None if root is None else (root if uid is None else uid, root if gid is None else gid)
        return uid, gid

    # ---------------------------------------------------------------------------------------------- what is gone

    def _mark(self, entry: Entry) -> None:
        folder, name = self._enter(entry.path[:-1]), entry.path[-1]
        if name == OPAQUE:
            self.hides_all |= len(entry.path) == 1
            self._hide_below(folder)
            return
        if name.startswith(META):
            self.left_out += 1  # the books of a file system that some tools leave behind
            return
        gone = name[len(GONE) :]
        if gone in (b"", b".", b".."):
            raise Refused(f"{entry.name} marks no file")
        path = (*entry.path[:-1], gone)
        try:
            found = os.stat(gone, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            self._mark_name(folder, gone)
            self._gone.add(path)
            return
        if stat.S_ISDIR(found.st_mode):  # gone below, and new here
            self._hide_below(self._enter(path))

    def _mark_name(self, folder: int, name: bytes) -> None:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=folder)
        except PermissionError:
            # The other form: an empty file with an attribute, in a folder that says that it has such.
            file = os.open(name, FILE_FLAGS, 0o600, dir_fd=folder)
            try:
                os.setxattr(file, "user.overlay.whiteout", b"y")
            finally:
                os.close(file)
            if b"user.overlay.opaque" not in [os.fsencode(attribute) for attribute in os.listxattr(folder)]:
                os.setxattr(folder, "user.overlay.opaque", b"x")

    def _hide_below(self, folder: int) -> None:
        os.setxattr(folder, "user.overlay.opaque", b"y")

    def _unmark(self, folder: int, name: bytes) -> None:
        os.unlink(name, dir_fd=folder)

    # ---------------------------------------------------------------------------------------------- the way down

    def _enter(self, path: tuple[bytes, ...], *, make: bool = True) -> int:
        """A descriptor of the folder, which stays ours; made where it is not there."""
        same = 0
        while same < min(len(path), len(self._way) - 1) and self._way[same + 1][0] == path[same]:
            same += 1
        self._leave(same + 1)
        for depth in range(same, len(path)):
            name, above = path[depth], self._way[-1][1]
            try:
                folder = os.open(name, FOLDER_FLAGS, dir_fd=above)
            except FileNotFoundError:
                if not make:
                    raise Refused(f"a hard link leads to {b'/'.join(path)!r}, which is not in this layer") from None
                folder = self._make_folder(name, above)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                if path[: depth + 1] not in self._gone:
                    raise Refused(f"{b'/'.join(path)[:200]!r} leads through something that is no folder") from None
                self._gone.discard(path[: depth + 1])
                self._unmark(above, name)
                folder = self._make_folder(name, above)
                self._hide_below(folder)
            self._way.append((name, folder))
        return self._way[-1][1]

    def _make_folder(self, name: bytes, above: int) -> int:
        os.mkdir(name, 0o700, dir_fd=above)
        folder = os.open(name, FOLDER_FLAGS, dir_fd=above)
        os.fchmod(folder, FOLDER_MODE)
        root = self._owner(0)
        if root is not None:
            os.fchown(folder, root, root)
        return folder

    def _leave(self, depth: int) -> None:
        while len(self._way) > depth:
            os.close(self._way.pop()[1])
