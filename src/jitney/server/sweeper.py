"""What time does to objects: ephemeral ones end, entries and partitions expire, files go that no value is in."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from jitney.errors import JitneyError
from jitney.ports.store import Store
from jitney.server.dicts import Dicts
from jitney.server.objects import Objects
from jitney.server.ops import Ops
from jitney.server.queues import Queues
from jitney.values.dicts import owner_of

log = logging.getLogger("jitney.sweeper")

SWEEP_S = 60.0
STORED_EVERY = 60  # sweeps: what is in the store only is looked at once an hour
FILE_AGE_S = 3_600.0  # a file is written before its entry is put


class Sweeper:
    """Sweeps for as long as the server lives."""

    def __init__(
        self, *, store: Store, objects: Objects, dicts: Dicts, queues: Queues, ops: Ops, blobs: Path | None
    ) -> None:
        self._store = store
        self._objects = objects
        self._dicts = dicts
        self._queues = queues
        self._ops = ops
        self._blobs = blobs
        self._unnamed: set[str] = set()  # files that nothing named at the last look

    async def run(self) -> None:
        """Sweep every minute, until cancelled. A store that fails is asked again."""
        count = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            count += 1
            try:
                await self.sweep(stored=count % STORED_EVERY == 0)
            except JitneyError as error:
                log.error("objects were not swept: %s", error)

    async def sweep(self, *, stored: bool) -> None:
        """Once. `stored`: also what is in the store only, and files."""
        await self._objects.sweep()
        await self._dicts.sweep()
        await self._queues.sweep()
        await self._store.objects.forget_ops(self._ops.sweep())
        if stored:
            await self._dicts.sweep_stored()
            await self._queues.sweep_stored()
            if self._blobs is not None:
                await self._sweep_files(self._blobs)

    async def _sweep_files(self, blobs: Path) -> None:
        """Remove files that nothing has named at two looks: whoever was told of one has read it meanwhile."""
        there = await asyncio.to_thread(_old_files, blobs, time.time() - FILE_AGE_S)
        unnamed = there - await self._dicts.files()
        for name in unnamed & self._unnamed:
            await asyncio.to_thread((blobs / name).unlink, missing_ok=True)
        self._unnamed = unnamed


def _old_files(blobs: Path, before_s: float) -> set[str]:
    found = set()
    for path in blobs.glob("di-*"):
        try:
            if owner_of(path.name.removesuffix(".part")[:58]) and path.stat().st_mtime < before_s:
                found.add(path.name)
        except FileNotFoundError:
            pass
    return found
