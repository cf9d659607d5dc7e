"""Room set aside for a full disk.

When the disk is full, SQLite's DELETE and its checkpoint fail too: both write before they free anything. So a file of
some MiB is kept, and removed at the first sign of a full disk; what ends or frees something then has room to work.
It is made again when there is room for twice its size, so that the store does not flap at the edge.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from jitney.drivers.store.sqlite.faults import free_bytes

BALLAST_BYTES = 64 * 1024 * 1024
RETRY_SECONDS = 1.0
_CHUNK = 1024 * 1024


class Ballast:
    """A file that takes room until the room is needed."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self.size = size
        self._next_try = 0.0
        self.held = False

    def hold(self) -> bool:
        """Take the room, if there is twice as much (or it is held already): whether it is held now."""
        if self.size == 0 or self._is_whole():
            self.held = True
        elif free_bytes(self._path.parent) >= 2 * self.size:
            self.held = self._allocate()
        return self.held

    def try_again(self) -> bool:
        """The same, at most once a second: asking costs a system call, and callers ask before each write."""
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + RETRY_SECONDS
        return self.hold()

    def release(self) -> None:
        """Give the room up."""
        self.held = False
        self._next_try = time.monotonic() + RETRY_SECONDS
        self._path.unlink(missing_ok=True)

    def _is_whole(self) -> bool:
        try:
            return self._path.stat().st_size == self.size
        except OSError:
            return False

    def _allocate(self) -> bool:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file, 0, self.size)
                else:  # macOS: only written bytes take room
                    for _ in range(0, self.size, _CHUNK):
                        os.write(file, bytes(_CHUNK))
                    os.ftruncate(file, self.size)
            finally:
                os.close(file)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        return True
