"""What an error of SQLite means for the store.

An error of the disk is never retried as if it could succeed: a second fsync after one that failed may say yes though
the pages are lost. Only a full disk and a held lock can pass.
"""

from __future__ import annotations

import os
import sqlite3
from enum import Enum
from pathlib import Path

from jitney.errors import JitneyError, ResourceExhaustedError, StorageCorruptError, StorageError, StorageFullError

FREE_BYTES_MIN = 1024 * 1024  # an I/O error with less room than this is a full disk (quotas, shared memory of the WAL)


class Fault(Enum):
    """What went wrong."""

    FULL = "full"
    BUSY = "busy"
    DISK = "disk"
    CORRUPT = "corrupt"
    STATEMENT = "statement"  # this statement: a constraint, a wrong value; the database is fine


_BY_CODE = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_PROTOCOL: Fault.BUSY,
    sqlite3.SQLITE_IOERR: Fault.DISK,
    sqlite3.SQLITE_CANTOPEN: Fault.DISK,
    sqlite3.SQLITE_READONLY: Fault.DISK,
    sqlite3.SQLITE_PERM: Fault.DISK,
    sqlite3.SQLITE_NOMEM: Fault.DISK,
    sqlite3.SQLITE_CORRUPT: Fault.CORRUPT,
    sqlite3.SQLITE_NOTADB: Fault.CORRUPT,
}


def classify(error: sqlite3.Error, path: Path) -> Fault:
    """What kind of fault an error is."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return Fault.STATEMENT
    fault = _BY_CODE.get(code & 0xFF, Fault.STATEMENT)
    if fault is Fault.DISK and code & 0xFF == sqlite3.SQLITE_IOERR and free_bytes(path.parent) < FREE_BYTES_MIN:
        return Fault.FULL
    return fault


def free_bytes(folder: Path) -> int:
    """Room on the disk of `folder`; 0 when it cannot be known."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def describe(error: sqlite3.Error) -> str:
    """'disk I/O error (SQLITE_IOERR_FSYNC)'."""
    name = getattr(error, "sqlite_errorname", None)
    return f"{error} ({name})" if name else str(error)


def full(path: Path) -> JitneyError:
    """What callers are told when the disk is full."""
    return StorageFullError(
        f"the disk of {path} is full", hint="free some space: the server goes on by itself when there is room"
    )


def busy(path: Path) -> JitneyError:
    """What callers are told when somebody else holds the database."""
    return ResourceExhaustedError(
        f"another program holds {path} locked", hint="close it (a shell of sqlite3, a backup), then try again"
    )


def failed(path: Path, error: sqlite3.Error) -> JitneyError:
    """What callers are told from the first failure of the disk on."""
    return StorageError(
        f"the disk failed under {path}: {describe(error)}",
        hint="nothing more is recorded until the server is restarted; check the disk first (`jitney doctor`)",
    )


def corrupt(path: Path, what: str) -> JitneyError:
    """What callers are told of a damaged file."""
    return StorageCorruptError(
        f"{path} is damaged: {what}",
        hint=f"`jitney doctor` checks it; restore a backup, or move {path.name}* aside to begin anew, "
        "without what it knew",
    )
