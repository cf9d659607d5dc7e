"""The store on one machine: a file of SQLite, written by group commit.

What the files beside it are: `-wal` and `-shm` belong to SQLite and to the data; `.lock` is held while open; `.acked`
tells how far writes were acknowledged; `.ballast` is room for when the disk is full.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from jitney.drivers.store.sqlite import faults
from jitney.drivers.store.sqlite.ballast import BALLAST_BYTES
from jitney.drivers.store.sqlite.calls import SqliteCalls
from jitney.drivers.store.sqlite.database import inspect as inspect
from jitney.drivers.store.sqlite.database import key_ids as key_ids
from jitney.drivers.store.sqlite.database import open_database
from jitney.drivers.store.sqlite.objects import SqliteDicts, SqliteObjects, SqliteQueues
from jitney.drivers.store.sqlite.reader import Reader
from jitney.drivers.store.sqlite.records import SqliteApps, SqliteContainers, SqliteFunctions
from jitney.drivers.store.sqlite.secrets import SqliteSecrets
from jitney.drivers.store.sqlite.volumes import SqliteVolumes
from jitney.drivers.store.sqlite.writer import Writer
from jitney.ports.store import StoreMeta


class SqliteStore:
    """`ports.store.Store` in one file. Opening checks it (see database.open_database for what that raises)."""

    def __init__(
        self,
        path: Path,
        *,
        ballast_bytes: int = BALLAST_BYTES,
        connection: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self._database = open_database(path, ballast_bytes=ballast_bytes, connection=connection)
        self._writer = Writer(self._database)
        self._reader = Reader(path, self._database.reading, self._writer.fail)
        self._closed = False
        self.apps = SqliteApps(self._writer, self._reader)
        self.functions = SqliteFunctions(self._writer, self._reader)
        self.calls = SqliteCalls(self._writer, self._reader)
        self.containers = SqliteContainers(self._writer, self._reader)
        self.volumes = SqliteVolumes(self._writer, self._reader)
        self.objects = SqliteObjects(self._writer, self._reader)
        self.dicts = SqliteDicts(self._writer, self._reader)
        self.queues = SqliteQueues(self._writer, self._reader)
        self.secrets = SqliteSecrets(self._writer, self._reader)

    async def meta(self) -> StoreMeta:
        return self._database.meta

    def healthy(self) -> bool:
        return self._writer.failure is None

    def problem(self) -> str:
        if self._writer.failure is not None:
            return str(self._writer.failure)
        return str(faults.full(self._database.path)) if self._writer.is_full else ""

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._reader.close()
        self._database.close()
