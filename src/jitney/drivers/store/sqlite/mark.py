"""How far the store was acknowledged: a number beside it that only grows.

SQLite accepts a log (`-wal`) that was cut off, or that is gone: it takes what is whole, and acknowledged writes are
missing without a word. So each commit counts itself in the database, and after it this file gets the number. It is
not synced: it may lag behind the database, and it can never be ahead of it, unless the database lost something.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

_LENGTH = 96


class Mark:
    """The number of the last acknowledged commit of one store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._server_id = ""

    def read(self) -> tuple[str, int] | None:
        """(server id, commits) as noted; None if nothing readable is there."""
        try:
            line = self.path.read_bytes().split(b"\n", 1)[0]
            server_id, commits, check = line.decode("ascii").split(" ")
            if int(check) == zlib.crc32(f"{server_id} {commits}".encode()):
                return server_id, int(commits)
        except (OSError, ValueError):
            pass
        return None

    def open(self, server_id: str, commits: int) -> None:
        """Begin to note."""
        self._server_id = server_id
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.note(commits)

    def note(self, commits: int) -> None:
        """Commit number `commits` was synced."""
        text = f"{self._server_id} {commits}"
        line = f"{text} {zlib.crc32(text.encode())}\n".encode()
        try:
            os.pwrite(self._file, line.ljust(_LENGTH, b" "), 0)
        except OSError:
            pass  # it lags behind, which is safe; the disk shows its state in the next commit

    def close(self) -> None:
        """Stop noting."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
