"""What functions share, put together: objects with their names, dicts, queues, and what time does to them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

from jitney.core import leases
from jitney.ports.store import Store
from jitney.server.api.dicts import DictsApi
from jitney.server.api.objects import ObjectsApi
from jitney.server.api.queues import QueuesApi
from jitney.server.dicts import Dicts
from jitney.server.journal import Run
from jitney.server.objects import Objects
from jitney.server.ops import Ops
from jitney.server.queues import Queues
from jitney.server.sweeper import Sweeper

log = logging.getLogger("jitney.shared")

DRAIN_S = 5.0


class Shared:
    """The parts of a server that have to do with dicts and queues."""

    def __init__(
        self,
        *,
        store: Store,
        boot: int,
        now_ms: Callable[[], int],
        run: Run,
        blobs: Path | None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        numbers = leases.tokens(boot)
        self._store = store
        self.objects = Objects(store, now_ms, entropy)
        self._ops = Ops(numbers, now_ms)
        self.dicts = Dicts(store=store, objects=self.objects, numbers=numbers, now_ms=now_ms, run=run)
        self.queues = Queues(store=store, objects=self.objects, ops=self._ops, numbers=numbers, now_ms=now_ms, run=run)
        self.sweeper = Sweeper(
            store=store, objects=self.objects, dicts=self.dicts, queues=self.queues, ops=self._ops, blobs=blobs
        )
        self.apis = (ObjectsApi(self.objects), DictsApi(self.dicts, self._ops), QueuesApi(self.queues))

    async def load(self) -> None:
        """Know which operations were done lately."""
        self._ops.load(await self._store.objects.ops())

    async def end(self) -> None:
        """Have everything on disk: also that items were taken, for which nobody waits."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.dicts.drained()
                await self.queues.drained()
        except TimeoutError:
            log.error("dicts and queues were not written in %g s", DRAIN_S)
