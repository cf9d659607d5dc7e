"""Files of the local disk: new ones, and what their errors mean."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

from jitney.errors import StorageError, StorageFullError

CHUNK_BYTES = 1024 * 1024

try:
    _libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
except OSError:
    _libc = None


def copy_new(source: BinaryIO, target: Path, mode: int) -> str:
    """Copy to a file that is not there yet, also not as a link: the digest of what was copied.

    Raises:
        StorageError: that cannot be; nothing is left of it.
    """
    found = hashlib.sha256()
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        raise explain(error, target) from None
    try:
        with os.fdopen(file, "wb") as copy:
            while chunk := source.read(CHUNK_BYTES):
                found.update(chunk)
                copy.write(chunk)
            os.fchmod(copy.fileno(), mode)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise explain(error, target) from None
    return found.hexdigest()


def reserve(file: int, offset: int, length: int) -> None:
    """Have the file system find room for this at once, where it can: that takes less than in pieces."""
    if _libc is not None and hasattr(_libc, "fallocate"):  # if there is no room, the writing says so
        _libc.fallocate(file, 0, ctypes.c_longlong(offset), ctypes.c_longlong(length))


def explain(error: OSError, path: Path) -> StorageError:
    """What callers are told of an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"the disk of {path} is full", hint="free some space, then try again")
    return StorageError(f"{path}: {error.strerror or error}", hint="check the disk and the folder's permissions")


def boot_id() -> str:
    """Of the time since this machine was started. What is from before has another clock, and may not be on the disk."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(time.time() - time.monotonic()))
