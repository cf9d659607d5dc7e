"""Leases: who uses which folders, so that nobody removes them meanwhile.

A lease is a file with a line for each folder, locked by whoever holds it as long as that process lives: no lease is
left by a process that was killed. Lines are added under a shared lock that excludes a collection which is deciding;
whoever adds one looks afterwards whether the folder is still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from jitney.drivers.builder.local import disk


class Lease:
    """Folders that stay as they are until `release`, or until this process ends."""

    def __init__(self, images: Path) -> None:
        self._lock = images / disk.COLLECT_LOCK
        folder = images / disk.LEASES
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / secrets.token_hex(8)
        self._held: set[str] = set()
        with disk.locked(self._lock, shared=True):
            self._handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    @property
    def fd(self) -> int:
        """The lock itself: whoever is given this descriptor keeps the lease too."""
        return self._handle

    def add(self, *folders: Path | str) -> None:
        """Keep these too. Look afterwards whether they are there."""
        fresh = [os.fspath(folder) for folder in folders if os.fspath(folder) not in self._held]
        if not fresh:
            return
        with disk.locked(self._lock, shared=True):
            os.write(self._handle, b"".join(os.fsencode(folder) + b"\n" for folder in fresh))
        self._held.update(fresh)

    def release(self) -> None:
        """They may be removed. Twice is as good as once."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._handle)
            self._handle = -1


def held(images: Path) -> set[str]:
    """What living processes hold; leases of dead ones are removed. Under the collection's lock."""
    found: set[str] = set()
    folder = images / disk.LEASES
    for path in folder.glob("*") if folder.is_dir() else ():
        if disk.is_locked(path):
            with contextlib.suppress(OSError):
                found.update(os.fsdecode(line) for line in path.read_bytes().split(b"\n") if line)
        else:
            path.unlink(missing_ok=True)
    return found
