"""Containers: list, show, stop."""

from __future__ import annotations

from jitney.errors import NotFoundError
from jitney.ports.store import Store
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps
from jitney.server.fleet import STOP_GRACE_MS, Fleet
from jitney.values import ids
from jitney.values.containers import ContainerRecord
from jitney.wire import methods
from jitney.wire.messages import containers as cm
from jitney.wire.messages.apps import Done

LIST_MAX = 1_000


class ContainersApi:
    """Handlers of the container.* methods."""

    def __init__(self, *, fleet: Fleet, apps: Apps, store: Store) -> None:
        self._fleet = fleet
        self._apps = apps
        self._store = store

    def register(self, table: Table) -> None:
        """Answer the container.* methods."""
        table.on(methods.CONTAINER_LIST, self.listed)
        table.on(methods.CONTAINER_GET, self.get)
        table.on(methods.CONTAINER_STOP, self.stop)

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
