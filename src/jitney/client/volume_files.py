"""Files of this machine on their way to a volume: found, read, hashed, copied. Blocking: on threads of their own."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from jitney.core import volumes
from jitney.errors import InvalidError
from jitney.values.volumes import BLOCK_BYTES, DIR_MODE, FILE_MODE, MODE_MAX, Content, Entry, Kind

HASHERS_MAX = 4
COPY_BYTES = 64 * 1024 * 1024  # at a time, between two looks at how far it is

Told = Callable[[int], None]  # so many bytes more are done


class Wanted(NamedTuple):
    """Something to put. `source` is None for folders, links, and files whose content is known already."""

    entry: Entry  # of a file without its content
    source: Path | None = None
    size: int = 0


# ------------------------------------------------------------------------------------------------ what there is


def look_at(local: Path, path: str, mode: int | None) -> Wanted:
    """One file; a link to one is followed, for it was named.

    Raises:
        InvalidError: it is no file, or cannot be read.
    """
    try:
        found = local.stat()
    except OSError as error:
        raise InvalidError(f"{local} cannot be put: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidError(f"{local} is not a file", hint="put_directory puts folders")
    return _file(local, path, found, mode)


def _file(local: Path, path: str, found: os.stat_result, mode: int | None = None) -> Wanted:
    permissions = (found.st_mode if mode is None else mode) & MODE_MAX
    entry = Entry(path=volumes.check_path(path), mode=permissions, mtime_ns=max(0, found.st_mtime_ns))
    return Wanted(entry, local, found.st_size)


def walk(local: Path, path: str, *, recursive: bool) -> Iterator[Wanted]:
    """A folder: folders before what is in them. Links stay links; sockets, pipes and devices are passed over.

    Raises:
        InvalidError: it is no folder, something cannot be read, or has a name that no volume holds.
    """
    try:
        found = local.stat()
    except OSError as error:
        raise InvalidError(f"{local} cannot be put: {error.strerror or error}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidError(f"{local} is not a folder", hint="put_file puts files")
    if path:
        yield Wanted(Entry(path=volumes.check_path(path), kind=Kind.DIR, mode=found.st_mode & MODE_MAX))
    yield from _walk(local, path, recursive)


def _walk(folder: Path, below: str, recursive: bool) -> Iterator[Wanted]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for one in found:
            path = f"{below}/{one.name}" if below else one.name
            seen = one.stat(follow_symlinks=False)
            if stat.S_ISREG(seen.st_mode):
                yield _file(Path(one.path), path, seen)
            elif stat.S_ISLNK(seen.st_mode):
                entry = Entry(path=path, kind=Kind.SYMLINK, target=os.readlink(one.path), mode=MODE_MAX)
                yield Wanted(volumes.check_entry(entry))
            elif stat.S_ISDIR(seen.st_mode) and recursive:
                mode = seen.st_mode & MODE_MAX
                yield Wanted(volumes.check_entry(Entry(path=path, kind=Kind.DIR, mode=mode or DIR_MODE)))
                yield from _walk(Path(one.path), path, recursive)
    except OSError as error:
        raise InvalidError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from None


def spool(source: IO[bytes], path: str, target: Path, *, mode: int | None, now_ns: int) -> Wanted:
    """What a file object holds, from where it stands, in a file of ours.

    Raises:
        InvalidError: it gives text.
    """
    size = 0
    with target.open("xb") as file:
        while data := source.read(BLOCK_BYTES):
            if not isinstance(data, bytes | bytearray | memoryview):
                raise InvalidError(f"the file object for {path!r} gives text, not bytes", hint="open it with 'rb'")
            size += file.write(data)
    permissions = (FILE_MODE if mode is None else mode) & MODE_MAX
    return Wanted(Entry(path=volumes.check_path(path), mode=permissions, mtime_ns=now_ns), target, size)


# ------------------------------------------------------------------------------------------------ contents


class Whole(NamedTuple):
    """A small file as it was read."""

    wanted: Wanted
    data: bytes
    content: Content


def read_wholes(batch: list[Wanted]) -> list[Whole]:
    """Small files, with their contents."""
    found = []
    for wanted in batch:
        assert wanted.source is not None
        try:
            data = wanted.source.read_bytes()
        except OSError as error:
            raise _unreadable(wanted.source, error) from None
        found.append(Whole(wanted, data, volumes.whole(data)))
    return found


def hash_file(source: Path, told: Told) -> Content:
    """The content of a large file.

    Raises:
        InvalidError: it cannot be read, or changes meanwhile.
    """
    try:
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(source, error) from None
    try:
        before = os.fstat(file)
        count = (before.st_size + BLOCK_BYTES - 1) // BLOCK_BYTES

        def digest(position: int) -> bytes:
            data = read_block(file, position)
            told(len(data))
            return volumes.block_digest(data)

        with ThreadPoolExecutor(min(HASHERS_MAX, os.cpu_count() or 1), thread_name_prefix="jitney-hash") as pool:
            blocks = b"".join(pool.map(digest, range(count)))
        after = os.fstat(file)
    finally:
        os.close(file)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise changed(source)
    return volumes.content_of(blocks, before.st_size)


def read_block(file: int, position: int) -> bytes:
    """A block of an open file."""
    data = os.pread(file, BLOCK_BYTES, position * BLOCK_BYTES)
    while len(data) < BLOCK_BYTES and (
        more := os.pread(file, BLOCK_BYTES - len(data), position * BLOCK_BYTES + len(data))
    ):
        data += more
    return data


def changed(source: Path) -> InvalidError:
    """What is said of a file that does not hold still."""
    return InvalidError(f"{source} changes while it is read", hint="put it when nobody writes to it")


def _unreadable(source: Path, error: OSError) -> InvalidError:
    return InvalidError(f"{source} cannot be read: {error.strerror or error}")


# ------------------------------------------------------------------------------------------------ the folder at hand


def incoming_of(folder: str) -> Path | None:
    """`incoming` of the contents' folder, if this process can put files there: same machine, same user."""
    if not folder:
        return None
    path = Path(folder) / "incoming"
    try:
        found = path.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return path if mine and os.access(path, os.W_OK | os.X_OK) else None


def new_name() -> str:
    """A name for a file in `incoming`."""
    return secrets.token_hex(16)


def place(source: Path, target: Path, told: Told) -> int:
    """Copy a file into `incoming`: how many bytes. Shared with the original, where the file system can.

    Raises:
        InvalidError: it cannot be read. StorageFullError: there is no room for a copy.
    """
    try:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(source, error) from None
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            return copy(reading, writing, told, begin_writing)
        finally:
            os.close(writing)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise no_room(target, error) from None
    finally:
        os.close(reading)


def begin_writing(file: int, offset: int, length: int) -> None:
    """Have the system begin to put this on the disk: then less is left to do when it is synced."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "sync_file_range"):
        libc.sync_file_range(file, ctypes.c_longlong(offset), ctypes.c_longlong(length), 2)  # SYNC_FILE_RANGE_WRITE


def copy(reading: int, writing: int, told: Told, copied: Callable[[int, int, int], None] | None = None) -> int:
    """Copy an open file to another, inside the kernel where it can: how many bytes.

    `copied(writing, offset, length)` is called now and then.
    """
    import fcntl

    size = os.fstat(reading).st_size
    try:
        fcntl.ioctl(writing, 0x40049409, reading)  # FICLONE
    except OSError:
        pass
    else:
        told(size)
        return size
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(reading, writing, min(COPY_BYTES, size - done))
        except OSError as error:
            if done or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            return _copy_through(reading, writing, told)
        if not count:
            break
        if copied:
            copied(writing, done, count)
        done += count
        told(count)
    return done


def _copy_through(reading: int, writing: int, told: Told) -> int:
    done = 0
    while data := os.read(reading, BLOCK_BYTES):
        view = memoryview(data)
        while view:
            view = view[os.write(writing, view) :]
        done += len(data)
        told(len(data))
    return done


def no_room(path: Path, error: OSError) -> Exception:
    """What is said of a disk that takes no more."""
    from jitney.errors import StorageError, StorageFullError

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return StorageFullError(f"the disk of {path.parent} is full ({free:,} bytes are free)", hint="free some space")
    return StorageError(f"{path}: {error.strerror or error}", hint="check the disk and the folder's permissions")
