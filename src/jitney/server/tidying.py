"""What time does to calls, containers, logs and files: what nobody lists or fetches any more goes."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from jitney.errors import JitneyError
from jitney.ports.logs import LogStore
from jitney.ports.sources import SourceStore
from jitney.ports.store import Store
from jitney.runner import segments
from jitney.server.apps import Apps
from jitney.server.fleet import Fleet
from jitney.values.calls import OUTPUT_TTL_MS
from jitney.wire.home import Home

log = logging.getLogger("jitney.tidying")

SWEEP_S = 60.0
FORGET_MS = 30 * 24 * 3_600_000  # ended calls and containers are listed this long
VALUES_KEPT_S = 24 * 3_600  # a value in flight that did not fit into shared memory, and that nobody fetched


class Tidying:
    """Sweeps for as long as the server lives."""

    def __init__(
        self, *, home: Home, store: Store, logs: LogStore, sources: SourceStore, fleet: Fleet, apps: Apps
    ) -> None:
        self._home = home
        self._store = store
        self._logs = logs
        self._sources = sources
        self._fleet = fleet
        self._apps = apps

    async def run(self) -> None:
        """Sweep every minute, until cancelled. A store, disk or bucket that fails is asked again."""
        while True:
            try:
                await self._sweep(self._fleet.wall_ms())
            except (JitneyError, OSError) as error:
                log.error("not all was swept: %s", error)
            await asyncio.sleep(SWEEP_S)

    async def _sweep(self, now_ms: int) -> None:
        dropped = await self._store.calls.expire(now_ms - OUTPUT_TTL_MS)
        forgotten = await self._store.calls.forget(now_ms - FORGET_MS)
        await self._store.containers.forget(now_ms - FORGET_MS)
        for name in [*dropped.files, *forgotten.files]:
            if "/" not in name and not name.startswith("."):
                (self._home.blobs / name).unlink(missing_ok=True)
        segments.sweep(str(self._home.segments), time.time())
        await self._sweep_files(now_ms - FORGET_MS)

    async def _sweep_files(self, before_ms: int) -> None:
        """Sources and logs of apps that nobody lists any more."""
        apps = {record.app_id for record in await self._store.apps.recent(limit=100_000)}
        await self._logs.sweep(apps | set(self._apps.running), before_ms)
        used = {pool.spec.source_id for pool in self._fleet.router.pools.values()}
        await asyncio.to_thread(_drop_old, self._home.blobs, time.time() - VALUES_KEPT_S)
        await self._sources.sweep(used, before_ms)  # last: a bucket may fail


def _drop_old(blobs: Path, before_s: float) -> None:
    """Remove the files of connected calls (payloads of durable ones are the store's to know)."""
    for path in blobs.glob("v-*"):
        try:
            if path.stat().st_mtime < before_s:
                path.unlink()
        except FileNotFoundError:  # fetched at this moment
            pass
