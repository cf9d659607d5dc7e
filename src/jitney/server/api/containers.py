"""Containers: list, show, stop, open, stats."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from jitney.errors import NotFoundError, UnsupportedError
from jitney.ports.store import Store
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps, did_you_mean
from jitney.server.fleet import STOP_GRACE_MS, Fleet
from jitney.server.held import Held
from jitney.server.link import Link
from jitney.server.scaling import Node
from jitney.server.state import Container
from jitney.server.vault import Vault
from jitney.values import ids
from jitney.values.containers import ContainerRecord, Measured
from jitney.wire import methods
from jitney.wire.messages import containers as cm
from jitney.wire.messages import workers as wm
from jitney.wire.messages.apps import Done

LIST_MAX = 1_000
STATS_WAIT_S = 2.0  # for a worker to measure its containers


class ContainersApi:
    """Handlers of the container.* methods."""

    def __init__(
        self, *, fleet: Fleet, apps: Apps, store: Store, held: Held, vault: Vault, entropy: Callable[[int], bytes]
    ) -> None:
        self._fleet = fleet
        self._apps = apps
        self._store = store
        self._held = held
        self._vault = vault
        self._entropy = entropy
        self._numbers = itertools.count()
        self._asked: dict[str, asyncio.Future[tuple[Measured, ...]]] = {}  # workers that are to measure

    def register(self, table: Table) -> None:
        """Answer the container.* methods."""
        table.on(methods.CONTAINER_LIST, self.listed)
        table.on(methods.CONTAINER_GET, self.get)
        table.on(methods.CONTAINER_STOP, self.stop)
        table.on(methods.CONTAINER_OPEN, self.open)
        table.on(methods.CONTAINER_STATS, self.stats)

    async def listed(self, peer: Peer, request: cm.ContainerList, emit: Emit) -> cm.ContainerListed:
        """Living containers; with `include_ended` also the recorded ones. Newest first."""
        app_id = ""
        if request.app:
            app_id = request.app if ids.is_id(request.app, ids.APP) else self._apps.find(request.app).record.app_id
        limit = max(1, min(request.limit, LIST_MAX))
        records = [c.record() for c in self._fleet.containers.values() if not app_id or c.app_id == app_id]
        if request.include_ended:
            records += await self._store.containers.recent(app_id, limit=limit)
        records.sort(key=lambda record: (record.created_at_ms, record.container_id), reverse=True)
        return cm.ContainerListed(containers=tuple(records[:limit]))

    async def get(self, peer: Peer, request: cm.ContainerRef, emit: Emit) -> ContainerRecord:
        """One container, living or ended."""
        container = self._fleet.containers.get(request.container_id)
        if container is not None:
            return container.record()
        record = await self._store.containers.get(request.container_id)
        if record is None:
            raise NotFoundError(f"no container {request.container_id[:64]!r}", hint="see `jitney container list`")
        return record

    async def stop(self, peer: Peer, request: cm.ContainerStop, emit: Emit) -> Done:
        """End a container. Its inputs finish (`graceful`), or run again elsewhere."""
        container = self._fleet.containers.get(request.container_id)
        if container is None:
            raise NotFoundError(f"no container {request.container_id[:64]!r} lives", hint="see `jitney container list`")
        if request.graceful:
            self._fleet.drain(container, "it was asked to stop")
        else:
            self._fleet.stop(container, "it was asked to stop", grace_ms=STOP_GRACE_MS)
        return Done()

    async def open(self, peer: Peer, request: cm.ContainerOpen, emit: Emit) -> cm.ContainerClosed:
        """A container for commands, which lives as long as this stream is wanted."""
        if not isinstance(peer, Link):
            raise UnsupportedError(
                "the container would live as long as the link over which it was asked for, and HTTP has none",
                hint="use `jitney shell`, or the SDK",
            )

        def ready(container: Container) -> None:
            emit(cm.ContainerOpened(container_id=container.id))

        if request.spec is None:
            pool = self._apps.pool(request.function_id)
            ended = await self._held.open(pool.spec, ready, app_id=pool.app_id)
            return cm.ContainerClosed(container=ended.record())
        app_id = ids.make(ids.APP, self._entropy(ids.ENTROPY_BYTES))  # of its own, for as long as it lives
        (spec,) = await self._vault.settle(app_id, [request.spec], request.secrets)
        try:
            ended = await self._held.open(spec, ready, app_id=app_id)
        finally:
            if request.secrets:
                await self._store.secrets.drop(app_id)
        return cm.ContainerClosed(container=ended.record())

    async def stats(self, peer: Peer, request: cm.ContainerStats, emit: Emit) -> cm.ContainerStatsAnswer:
        """What containers use now; those of a worker that does not answer are left out."""
        name = request.container_id
        if name and name not in self._fleet.containers:
            near = did_you_mean(name[:64], list(self._fleet.containers))
            raise NotFoundError(f"no container {name[:64]!r} lives", hint=near or "see `jitney container list`")
        nodes = [node for node in self._fleet.nodes.values() if node.connected]
        if name:
            nodes = [node for node in nodes if name in node.containers]
        answers = await asyncio.gather(*(self._measure(node, (name,) if name else ()) for node in nodes))
        found = [one for answer in answers for one in answer if one.container_id in self._fleet.containers]
        found.sort(key=lambda one: one.container_id)
        records = tuple(self._fleet.containers[one.container_id].record() for one in found)
        return cm.ContainerStatsAnswer(measured=tuple(found), containers=records)

    async def _measure(self, node: Node, names: tuple[str, ...]) -> tuple[Measured, ...]:
        request_id = str(next(self._numbers))
        answer: asyncio.Future[tuple[Measured, ...]] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = answer
        try:
            node.send(wm.StatsContainers(request_id=request_id, container_ids=names))
            async with asyncio.timeout(STATS_WAIT_S):
                return await answer
        except TimeoutError:
            return ()
        finally:
            del self._asked[request_id]

    def measured(self, report: wm.ContainersMeasured) -> None:
        """A worker has measured its containers."""
        answer = self._asked.get(report.request_id)
        if answer is not None and not answer.done():
            answer.set_result(report.measured)
