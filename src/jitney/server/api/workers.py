"""Workers: attach, and what they report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from jitney.ports.logs import LogStore
from jitney.server.api.containers import ContainersApi
from jitney.server.api.exec import ExecApi
from jitney.server.api.images import Images
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps
from jitney.server.fleet import Fleet
from jitney.server.mounts import Mounts
from jitney.server.scaling import Node
from jitney.values.containers import LogLine
from jitney.wire import methods
from jitney.wire.messages import workers as wm
from jitney.wire.messages.apps import Done


class WorkersApi:
    """Handlers of the worker.* methods."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        apps: Apps,
        images: Images,
        containers: ContainersApi,
        execs: ExecApi,
        mounts: Mounts,
        logs: LogStore,
        run: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._fleet = fleet
        self._apps = apps
        self._images = images
        self._containers = containers
        self._execs = execs
        self._mounts = mounts
        self._logs = logs
        self._run = run

    def register(self, table: Table) -> None:
        """Answer the worker.* methods."""
        table.on(methods.WORKER_ATTACH, self.attach)
        table.on(methods.WORKER_REPORT, self.report)

    async def attach(self, peer: Peer, request: wm.WorkerAttach, emit: Emit) -> Done:
        """A worker is there as long as this stream is open."""
        node = Node(request.node, emit)
        self._fleet.attach(request.node, request.containers, node)

        def gone() -> None:
            self._fleet.detach(node)
            self._images.worker_lost(node)
            self._execs.worker_lost(node)

        peer.on_gone(gone)
        await asyncio.get_running_loop().create_future()
        return Done()

    async def report(self, peer: Peer, request: wm.WorkerReports, emit: Emit) -> Done:
        """Apply reports in their order."""
        for report in request.reports:
            if isinstance(report, wm.ContainerLogs):
                self._lines(list(report.lines))
            elif isinstance(report, wm.ContainerStarted):
                self._fleet.spawned(report)
            elif isinstance(report, wm.ContainerExited):
                self._fleet.exited(report)
            elif isinstance(report, wm.ExecOutput | wm.ExecTook | wm.ExecEnded):
                self._execs.report(report)
            elif isinstance(report, wm.MountSynced):
                self._mounts.synced(report)
            elif isinstance(report, wm.ContainersMeasured):
                self._containers.measured(report)
            elif isinstance(report, wm.BuildLine):
                self._images.line(report)
            elif isinstance(report, wm.ImagesAnswer):
                self._images.answered(report)
            elif isinstance(report, wm.BuildEnded):
                self._images.ended(report)
            elif isinstance(report, wm.CollectionDue):
                self._run(self._images.collect_due(report))
        return Done()

    def _lines(self, lines: list[LogLine]) -> None:
        by_app: dict[str, list[LogLine]] = {}
        for line in lines:
            container = self._fleet.containers.get(line.container_id)
            if container is not None:
                by_app.setdefault(container.app_id, []).append(line)
        for app_id, its in by_app.items():
            functions = {line.container_id: self._fleet.containers[line.container_id].pool.spec.name for line in its}
            self._run(self._logs.append(app_id, its, functions=functions))
            for read in self._apps.readers(app_id):
                read(its)
