"""What is done to files here: read and hashed in parallel, copied without passing through us, and synced.

Many small files are synced by one `syncfs`: one fsync each takes a commit of the file system's journal each, which is
minutes for tens of thousands.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from jitney.drivers.disk import reserve
from jitney.errors import StorageError, StorageFullError
from jitney.values.volumes import BLOCK_BYTES

SYNC_ONE_BY_ONE_MAX = 8
PIECE_BYTES = 128 * 1024  # of larger ones the kernel looks long for memory in one piece
BEGIN_BYTES_MIN = 1024 * 1024  # less is not worth a call

_FICLONE = 0x40049409
_RANGE_WRITE = 2  # SYNC_FILE_RANGE_WRITE

try:
    _libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
except OSError:
    _libc = None


# ------------------------------------------------------------------------------------------------ reading


def read(file: int, offset: int, length: int) -> bytes:
    """A part of a file: less than `length` only at its end."""
    data = os.pread(file, length, offset)
    while data and len(data) < length and (more := os.pread(file, length - len(data), offset + len(data))):
        data += more
    return data


def blocks_with_data(file: int, size: int) -> set[int]:
    """The blocks of a file in which anything was ever written: the rest are holes."""
    found: set[int] = set()
    at = 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        found.update(range(start // BLOCK_BYTES, (end + BLOCK_BYTES - 1) // BLOCK_BYTES))
        at = end
    return found


# ------------------------------------------------------------------------------------------------ writing


def write_at(file: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of `data` at a place of a file, and have the system begin to put it on the disk."""
    view, done, is_large = memoryview(data), 0, len(data) >= BEGIN_BYTES_MIN
    if is_large:
        reserve(file, offset, len(view))
    while done < len(view):
        done += os.pwrite(file, view[done : done + PIECE_BYTES], offset + done)
    if is_large:
        begin_writing(file, offset, len(view))


def copy_block(source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
    """Copy a part of a file inside the kernel: shared, where the file system can share."""
    done = 0
    while done < length:
        try:
            count = os.copy_file_range(source, target, length - done, source_offset + done, target_offset + done)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            data = os.pread(source, min(BLOCK_BYTES, length - done), source_offset + done)
            write_at(target, target_offset + done, data)
            count = len(data)
        if not count:
            return
        done += count


def clone(source: int, target: int) -> bool:
    """Have `target` share all of `source`: whether the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def begin_writing(file: int, offset: int, length: int) -> None:
    """Have the system begin to put this on the disk: then less is left to do when it is synced."""
    if _libc is not None and hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(file, ctypes.c_longlong(offset), ctypes.c_longlong(length), _RANGE_WRITE)


# ------------------------------------------------------------------------------------------------ syncing


def sync_files(paths: Sequence[str]) -> None:
    """Return when what is in these files is on the disk. They are on one file system."""
    if len(paths) > SYNC_ONE_BY_ONE_MAX and _sync_system(os.path.dirname(paths[0])):
        return
    for path in paths:
        _sync(path, os.O_RDONLY)


def sync_folders(folders: Iterable[str]) -> None:
    """Return when the names in these folders are on the disk. They are on one file system."""
    wanted = list(folders)
    if len(wanted) > SYNC_ONE_BY_ONE_MAX and _sync_system(wanted[0]):
        return
    for folder in wanted:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: str, flags: int) -> None:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_system(folder: str) -> bool:
    """Sync the whole file system of a folder: whether that can be done here."""
    if _libc is None or not hasattr(_libc, "syncfs"):
        return False
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(file) == 0:
            return True
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(file)


def explain(error: OSError, path: Path) -> StorageError:
    """What callers are told of an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"the disk of {path} is full", hint="free some space, then try again")
    return StorageError(f"{path}: {error.strerror or error}", hint="check the disk and the folder's permissions")
