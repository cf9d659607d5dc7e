"""Apps: create, publish, deploy, stop, list, history, logs, summary."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable

import msgspec

from jitney.errors import InvalidError, NotFoundError
from jitney.ports.logs import LogStore
from jitney.ports.store import Store
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps, Running
from jitney.server.fleet import Fleet
from jitney.server.link import Link
from jitney.server.router import Router
from jitney.server.vault import Vault
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState, DeploymentRecord, RunSummary
from jitney.values.containers import LogLine, lines_without
from jitney.values.functions import FunctionSpec
from jitney.wire import methods
from jitney.wire.messages import apps as am

STOP_WAIT_S = 10.0  # how long a stop waits for the last lines of its containers
LIST_MAX = 1_000
LINES_A_FRAME = 1_000


class AppsApi:
    """Handlers of the app.* methods."""

    def __init__(
        self,
        *,
        apps: Apps,
        router: Router,
        fleet: Fleet,
        store: Store,
        logs: LogStore,
        vault: Vault,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._apps = apps
        self._router = router
        self._fleet = fleet
        self._store = store
        self._logs = logs
        self._vault = vault
        self._entropy = entropy

    def register(self, table: Table) -> None:
        """Answer the app.* methods."""
        table.on(methods.APP_CREATE, self.create)
        table.on(methods.APP_PUBLISH, self.publish)
        table.on(methods.APP_GET, self.get)
        table.on(methods.APP_STOP, self.stop)
        table.on(methods.APP_LIST, self.listed)
        table.on(methods.APP_HISTORY, self.history)
        table.on(methods.APP_LOGS, self.logs)
        table.on(methods.APP_SUMMARY, self.summary)

    async def create(self, peer: Peer, request: am.AppCreate, emit: Emit) -> am.AppCreated:
        """An app without functions yet."""
        if request.state not in (AppState.EPHEMERAL, AppState.DETACHED):
            raise InvalidError(f"an app is not created as {request.state}", hint="deploy it instead")
        record = AppRecord(
            app_id=ids.make(ids.APP, self._entropy(ids.ENTROPY_BYTES)),
            name=request.name,
            state=request.state,
            tags=request.tags,
            created_at_ms=self._fleet.wall_ms(),
        )
        await self._store.apps.put([record])
        app = self._apps.add(record, {})
        if isinstance(peer, Link):
            app.links.add(peer)
        return am.AppCreated(app_id=record.app_id)

    async def publish(self, peer: Peer, request: am.AppPublish, emit: Emit) -> am.AppPublished:
        """Give an app its functions; with `deploy_as`, as a new version of that name."""
        names = [spec.name for spec in request.functions]
        if len(set(names)) < len(names):
            raise InvalidError(f"two functions of the app have one name: {sorted(names)}")
        if request.deploy_as:
            return await self._deploy(request)
        app = self._apps.find(request.app_id)
        specs = await self._vault.settle(app.record.app_id, request.functions, request.secrets)
        functions = {function_id_of(app.record.app_id, spec): spec for spec in specs}
        await self._store.apps.publish(app.record, None, functions)
        self._apps.add(app.record, functions)
        return am.AppPublished(
            app_id=app.record.app_id, function_ids={spec.name: fid for fid, spec in functions.items()}
        )

    async def _deploy(self, request: am.AppPublish) -> am.AppPublished:
        """Rolling: functions that did not change keep their containers; changed ones get new pools, and the old ones
        finish what they have."""
        name = request.deploy_as
        old = await self._store.apps.by_name(name)
        alive = old is not None and old.state is AppState.DEPLOYED
        now_ms = self._fleet.wall_ms()
        app_id = old.app_id if old and alive else ids.make(ids.APP, self._entropy(ids.ENTROPY_BYTES))
        specs = await self._vault.settle(app_id, request.functions, request.secrets)
        functions = {function_id_of(app_id, spec): spec for spec in specs}
        version = old.version if old else 0
        function_ids = {spec.name: function_id for function_id, spec in functions.items()}
        if alive and set(functions) == set(await self._store.functions.of_app(app_id)):
            return am.AppPublished(app_id=app_id, function_ids=function_ids, version=version, changed=False)
        record = AppRecord(
            app_id=app_id,
            name=name,
            state=AppState.DEPLOYED,
            version=version + 1,
            tags=request.tags,
            created_at_ms=old.created_at_ms if old and alive else now_ms,
        )
        deployment = DeploymentRecord(
            app_id=app_id,
            name=name,
            version=record.version,
            deployed_at_ms=now_ms,
            tag=request.tag,
            client_version=request.versions.jitney,
            functions=tuple(function_ids),
        )
        await self._store.apps.publish(record, deployment, functions)
        self._retire(app_id, set(functions))
        self._apps.add(record, functions)
        return am.AppPublished(app_id=app_id, function_ids=function_ids, version=record.version)

    def _retire(self, app_id: str, kept: set[str]) -> None:
        for pool in self._apps.pools_of(app_id):
            if pool.function_id not in kept:
                pool.scaling = msgspec.structs.replace(pool.scaling, min_containers=0, buffer_containers=0)
                for container in list(pool.containers.values()):
                    if container.is_idle:
                        self._fleet.drain(container, "a new version was deployed")

    async def get(self, peer: Peer, request: am.AppRef, emit: Emit) -> AppRecord:
        """An app that runs, by id or deployed name."""
        return self._shown(self._apps.find(request.app).record)

    async def stop(self, peer: Peer, request: am.AppStop, emit: Emit) -> am.AppStopped:
        """End an app: its queued inputs fail, its containers get two seconds."""
        app = self._apps.find(request.app)
        stopped = await self.stop_app(app, "the app was stopped")
        if request.wait_logs:
            until = asyncio.get_running_loop().time() + STOP_WAIT_S
            while self._apps.containers_of(app.record.app_id) and asyncio.get_running_loop().time() < until:
                await self._next_end()
        return am.AppStopped(app_id=app.record.app_id, containers_stopped=stopped)

    async def stop_app(self, app: Running, reason: str) -> int:
        """Stop every pool of an app and record it; gives the number of containers that are being ended."""
        app_id = app.record.app_id
        for call in [call for call in self._router.calls.values() if call.pool.app_id == app_id]:
            self._router.cancel(call, why=reason)
        stopped = sum(self._fleet.stop_pool(pool, reason) for pool in self._apps.pools_of(app_id))
        self._apps.forget(app)
        await self._store.apps.stop(app_id, self._fleet.wall_ms())
        await self._store.secrets.drop(app_id)
        return stopped

    async def listed(self, peer: Peer, request: am.AppList, emit: Emit) -> am.AppListed:
        """Apps, newest first."""
        limit = max(1, min(request.limit, LIST_MAX))
        records = await self._store.apps.recent(include_stopped=request.include_stopped, limit=limit)
        return am.AppListed(apps=tuple(self._shown(record) for record in records))

    async def history(self, peer: Peer, request: am.AppRef, emit: Emit) -> am.AppHistory:
        """Deployments of a name, newest first."""
        name = request.app
        if ids.is_id(name, ids.APP):
            record = await self._store.apps.get(name)
            name = record.name if record else name
        deployments = await self._store.apps.history(name)
        if not deployments:
            raise NotFoundError(f"no app {request.app[:64]!r} was ever deployed", hint="see `jitney app list`")
        return am.AppHistory(deployments=tuple(deployments))

    async def logs(self, peer: Peer, request: am.AppLogs, emit: Emit) -> am.Done:
        """What containers printed; with `follow`, until the app has stopped and its last line is out."""
        app_id = await self._app_of_logs(request)
        running = self._apps.running.get(app_id)
        live: list[LogLine] = []
        arrived = asyncio.Event()

        def read(lines: list[LogLine]) -> None:
            live.extend(line for line in lines if self._is_wanted(line, request))
            arrived.set()

        if request.follow and running is not None:
            running.readers.add(read)
            running.ended.add(arrived.set)
            if isinstance(peer, Link) and peer.role == "client":
                running.links.add(peer)
        try:
            seen = await self._past(app_id, request, emit)
            if not request.follow or running is None:
                return am.Done()
            live[:] = lines_without(live, seen)
            await self._follow(app_id, live, arrived, emit, peer)
            return am.Done()
        finally:
            if running is not None:
                running.readers.discard(read)
                running.ended.discard(arrived.set)

    async def _past(self, app_id: str, request: am.AppLogs, emit: Emit) -> Counter[LogLine]:
        """Send what is kept; gives the last page, for what came twice."""
        position = 0
        while True:
            page = await self._logs.read(
                app_id,
                container_id=request.container_id,
                function=request.function,
                since_ms=request.since_ms,
                tail=request.tail,
                position=position,
            )
            for start in range(0, len(page.lines), LINES_A_FRAME):
                emit(am.LogLines(lines=tuple(page.lines[start : start + LINES_A_FRAME])))
            if not page.more:
                return Counter(page.lines)
            position = page.position

    async def _follow(self, app_id: str, live: list[LogLine], arrived: asyncio.Event, emit: Emit, peer: Peer) -> None:
        dropped = 0
        while True:
            is_over = app_id not in self._apps.running and not self._apps.containers_of(app_id)
            if live and isinstance(peer, Link) and peer.is_clogged and not is_over:
                dropped += len(live)
                last = live[-1]
                live.clear()
            elif dropped and (live or is_over):
                text = f"{dropped:,} lines are missing here: they came faster than they were read"
                live.insert(0, LogLine(last.at_ms, last.container_id, 0, text))
                dropped = 0
            if live:
                emit(am.LogLines(lines=tuple(live)))
                live.clear()
            if is_over:
                return
            arrived.clear()
            if app_id in self._apps.running:
                await arrived.wait()
            else:
                await self._next_end()

    def _is_wanted(self, line: LogLine, request: am.AppLogs) -> bool:
        if request.container_id and line.container_id != request.container_id:
            return False
        if request.function:
            container = self._fleet.containers.get(line.container_id)
            return container is None or container.pool.spec.name == request.function
        return True

    async def _app_of_logs(self, request: am.AppLogs) -> str:
        if request.container_id and not request.app:
            container = self._fleet.containers.get(request.container_id)
            if container is not None:
                return container.app_id
            record = await self._store.containers.get(request.container_id)
            if record is None:
                raise NotFoundError(f"no container {request.container_id[:64]!r}", hint="see `jitney container list`")
            return record.app_id
        if ids.is_id(request.app, ids.APP) and await self._store.apps.get(request.app):
            return request.app
        deployed = await self._store.apps.by_name(request.app)
        return deployed.app_id if deployed else self._apps.find(request.app).record.app_id

    async def summary(self, peer: Peer, request: am.AppRef, emit: Emit) -> RunSummary:
        """What an app did so far, or did until it stopped."""
        return self._apps.summary(request.app)

    def _shown(self, record: AppRecord) -> AppRecord:
        return msgspec.structs.replace(record, containers=self._apps.containers_of(record.app_id))

    async def _next_end(self) -> None:
        """Wait for a container to end (at most a second: then the caller looks again)."""
        ended = asyncio.Event()

        def wake(_: object) -> None:
            ended.set()

        self._fleet.on_ended.append(wake)
        try:
            await asyncio.wait_for(ended.wait(), 1.0)
        except TimeoutError:
            pass
        finally:
            self._fleet.on_ended.remove(wake)


def function_id_of(app_id: str, spec: FunctionSpec) -> str:
    """The id of a function: of its app and of all that it is, so that what did not change keeps its containers."""
    digest = hashlib.sha256(app_id.encode() + msgspec.msgpack.encode(spec, order="sorted")).digest()
    return ids.make(ids.FUNCTION, digest)
