"""The server as a whole: its parts, put together, and its life.

Order of a start: load what the store has, listen for runners and links, say that it is ready; HTTP comes last, for its
library takes longer to import than all the rest. What a restart must not lose is in the store before this begins.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from jitney.core import leases
from jitney.ports.contents import Contents
from jitney.ports.keys import KeyRing
from jitney.ports.logs import LogStore
from jitney.ports.sources import SourceStore
from jitney.ports.store import Store
from jitney.server.api.apps import AppsApi
from jitney.server.api.calls import CallsApi
from jitney.server.api.containers import ContainersApi
from jitney.server.api.exec import ExecApi
from jitney.server.api.functions import FunctionsApi
from jitney.server.api.images import Images
from jitney.server.api.secrets import SecretsApi
from jitney.server.api.server import ServerApi
from jitney.server.api.table import Table
from jitney.server.api.volumes import VolumesApi
from jitney.server.api.workers import WorkersApi
from jitney.server.apps import RESTART_GRACE_MS, Apps
from jitney.server.auth import Auth
from jitney.server.connected import Connected
from jitney.server.durable import Durable
from jitney.server.fleet import Fleet
from jitney.server.held import Held
from jitney.server.http import Http
from jitney.server.link import Link
from jitney.server.mounts import Mounts
from jitney.server.runner_link import RunnerLink
from jitney.server.scaling import RunnerPaths
from jitney.server.shared import Shared
from jitney.server.state import Container
from jitney.server.tidying import Tidying
from jitney.server.vault import Vault
from jitney.server.volumes import Volumes
from jitney.values.apps import AppState
from jitney.values.isolation import Isolation
from jitney.values.volumes import Retention
from jitney.wire.home import Home
from jitney.wire.messages import server as sm
from jitney.wire.messages import workers as wm

log = logging.getLogger("jitney.server")

CHECK_S = 0.05
HTTP_DELAY_S = 0.5  # somebody waits for the first result of a server that starts: not for HTTP
SHUTDOWN_WAIT_S = 5.0
SOCKET_BACKLOG = 512


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told at its start."""

    version: str
    http_port: int | None = 0  # None: no HTTP; 0: any free port
    http_port_may_change: bool = False  # where it is taken: any free port instead of no HTTP
    isolation: Isolation = Isolation.PROCESS  # the lowest tier that any container may run at
    retention: Retention = Retention()  # versions of volumes that stay
    idle_stop_s: float | None = None  # end after this long without work, clients and deployments; None: never


class Server:
    """One server on one folder. `run` is its whole life; it may run once."""

    def __init__(
        self,
        *,
        home: Home,
        secret: str,
        store: Store,
        sources: SourceStore,
        contents: Contents,
        keys: KeyRing,
        logs: LogStore,
        options: ServerOptions,
    ) -> None:
        self._home = home
        self._store = store
        self._logs = logs
        self._sources = sources
        self._contents = contents
        self._keys = keys
        self._options = options
        self.boot_id = secrets.token_hex(8)
        self.http_address = ""
        self.http_problem = ""
        self.http_settled = asyncio.Event()  # the address or the problem is known
        self._auth = Auth(secret, options.version, self.boot_id)
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._keep_containers = self._is_over = False
        self._started_at_ms = time.time_ns() // 1_000_000
        self._used_at = time.monotonic()

    async def run(self, on_ready: Callable[[Server], None]) -> None:
        """Serve until stopped. `on_ready` is called when links are accepted."""
        meta = await self._store.meta()
        self._build(meta.boot)
        await self._load()
        servers = await self._listen()
        on_ready(self)
        self._spawn(self._serve_http())
        self._spawn(self._watch())
        self._spawn(self._tidying.run())
        self._spawn(self.shared.sweeper.run())
        self._spawn(self.volumes.keep_tidy())
        self._spawn(self.vault.keep_tidy())
        try:
            await self._stopping.wait()
        finally:
            await self._end(servers)

    def stop(self, keep_containers: bool = False) -> None:
        """End `run`, soon."""
        self._keep_containers = keep_containers
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping.is_set()

    @property
    def keeps_containers(self) -> bool:
        """Whether the containers are to outlive this server: it is being restarted."""
        return self._keep_containers

    # ------------------------------------------------------------------------------------------- start

    def _build(self, boot: int) -> None:
        paths = RunnerPaths(
            runner_socket=str(self._home.socket("runner.sock")),
            link_socket=str(self._home.socket()),
            segments=str(self._home.segments),
            blobs=str(self._home.blobs),
            home=str(self._home.root),
        )
        self.fleet = Fleet(
            tokens=leases.tokens(boot),
            paths=paths,
            container_token=self._auth.container_token,
            entropy=secrets.token_bytes,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            isolation=self._options.isolation,
        )
        self.vault = Vault(store=self._store, keys=self._keys, entropy=secrets.token_bytes, wall_ms=self.fleet.wall_ms)
        self.fleet.scaler.use_secrets(self.vault, self._spawn)
        self.router = self.fleet.router
        self.apps = Apps(self.router, self.fleet)
        self._connected = Connected(self.router, self.apps)
        self._durable = Durable(self._store, self.router, self.apps, self._spawn)
        self._tidying = Tidying(
            home=self._home, store=self._store, logs=self._logs, sources=self._sources, fleet=self.fleet, apps=self.apps
        )
        self.fleet.on_ended.append(self._record_ended)
        self._build_apis(boot)

    def _build_apis(self, boot: int) -> None:
        self.table = Table()
        mounts = self._build_state(boot)
        images = Images(
            fleet=self.fleet, sources=self._sources, entropy=secrets.token_bytes, vault=self.vault, volumes=self.volumes
        )
        self._apps_api = AppsApi(
            apps=self.apps,
            router=self.router,
            fleet=self.fleet,
            store=self._store,
            logs=self._logs,
            vault=self.vault,
            entropy=secrets.token_bytes,
        )
        held = Held(fleet=self.fleet, entropy=secrets.token_bytes)
        containers = ContainersApi(
            fleet=self.fleet,
            apps=self.apps,
            store=self._store,
            held=held,
            vault=self.vault,
            entropy=secrets.token_bytes,
        )
        execs = ExecApi(fleet=self.fleet, store=self._store)
        workers = WorkersApi(
            fleet=self.fleet,
            apps=self.apps,
            images=images,
            containers=containers,
            execs=execs,
            mounts=mounts,
            logs=self._logs,
            run=self._spawn,
        )
        for api in (
            self._apps_api,
            images,
            workers,
            FunctionsApi(apps=self.apps, fleet=self.fleet, store=self._store, images=images, vault=self.vault),
            SecretsApi(vault=self.vault, store=self._store),
            CallsApi(router=self.router, durable=self._durable, store=self._store, apps=self.apps, fleet=self.fleet),
            containers,
            execs,
            mounts,
            ServerApi(self.status, self.stop),
            *self.shared.apis,
            VolumesApi(volumes=self.volumes, objects=self.shared.objects),
        ):
            api.register(self.table)
        assert not self.table.missing(), self.table.missing()

    def _build_state(self, boot: int) -> Mounts:
        self.shared = Shared(
            store=self._store, boot=boot, now_ms=self.fleet.wall_ms, run=self._spawn, blobs=self._home.blobs
        )
        mounts = Mounts(
            fleet=self.fleet,
            store=self._store.volumes,
            contents=self._contents,
            wall_ms=self.fleet.wall_ms,
            entropy=secrets.token_bytes,
            objects=self.shared.objects,
        )
        self.volumes = Volumes(
            objects=self.shared.objects,
            store=self._store,
            contents=self._contents,
            now_ms=self.fleet.wall_ms,
            run=self._spawn,
            retention=self._options.retention,
            used=mounts.used,
            holds=mounts.holds,
        )
        return mounts

    async def _load(self) -> None:
        """Apps that ran when the last server ended, and the durable calls that are not over."""
        for record in await self._store.apps.recent(include_stopped=False, limit=10_000):
            if record.state is not AppState.STOPPED:
                functions = await self._store.functions.of_app(record.app_id)
                self.apps.add(record, functions, grace_ms=RESTART_GRACE_MS)
                for function_id, spec in (await self._store.functions.unlisted(record.app_id)).items():
                    pool = self.apps.add_pool(record.app_id, function_id, spec)
                    pool.scaling = msgspec.structs.replace(pool.scaling, min_containers=0, buffer_containers=0)
        await self.shared.load()
        loaded = await self._durable.load()
        if loaded:
            log.info("%d durable inputs are queued again", loaded)

    async def _listen(self) -> list[asyncio.AbstractServer]:
        runners, links = self._home.socket("runner.sock"), self._home.socket()
        return [
            await listen(runners, lambda: RunnerLink(self.fleet, self.router, self._auth.is_container_token)),
            await listen(links, lambda: Link(self.table, self._connected, self._auth.admit, self._links)),
        ]

    async def _serve_http(self) -> None:
        if self._options.http_port is None:
            return
        await asyncio.sleep(HTTP_DELAY_S)
        await asyncio.to_thread(importlib.import_module, "aiohttp.web")
        self._http = Http(self.table, self._auth, self._store.problem, self._options.version)
        try:
            self.http_address = await self._http.start(
                self._options.http_port, or_any=self._options.http_port_may_change
            )
            log.info("HTTP on %s", self.http_address)
        except OSError as error:
            self.http_problem = (
                f"port {self._options.http_port} cannot be had ({error.strerror or error}): HTTP is off; "
                "another program uses it: choose one with `jitney up --port` or set `http_port`"
            )
            log.error(self.http_problem)
        self.http_settled.set()

    # ------------------------------------------------------------------------------------------- life

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            self.fleet.check()
            for app, reason in self.apps.to_stop(self.fleet.now_ms()):
                log.info("app %s stops: %s", app.record.app_id, reason)
                self._spawn(self._stop_app(app, reason))
            self.apps.tidy()
            self._stop_if_unused()

    async def _stop_app(self, app: Any, reason: str) -> None:
        await self._apps_api.stop_app(app, reason)

    def _stop_if_unused(self) -> None:
        idle_s = self._options.idle_stop_s
        clients = any(link.role != "worker" for link in self._links)
        if clients or self.apps.running or self.router.calls or idle_s is None:
            self._used_at = time.monotonic()
        elif time.monotonic() - self._used_at > idle_s:
            log.info("unused for %g s and nothing is deployed: stopping", idle_s)
            self.stop()

    def _record_ended(self, container: Container) -> None:
        self._spawn(self._store.containers.put([container.record()]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside; a failure is logged, never silent. At the very end nothing begins any more."""
        if self._is_over:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())

    async def _end(self, servers: list[asyncio.AbstractServer]) -> None:
        for server in servers:
            server.close()
        if not self._keep_containers:
            for node in self.fleet.nodes.values():
                if node.connected:
                    node.send(wm.Shutdown())
            until = time.monotonic() + SHUTDOWN_WAIT_S
            while time.monotonic() < until:  # its link breaks when it has ended its containers
                if not any(link.role == "worker" for link in self._links):
                    break
                await asyncio.sleep(CHECK_S)
            for app in list(self.apps.running.values()):
                if app.record.state is not AppState.DEPLOYED:
                    await self._store.apps.stop(app.record.app_id, self.fleet.wall_ms())
                    await self._store.secrets.drop(app.record.app_id)
        for link in list(self._links):
            link.close()
        if hasattr(self, "_http"):
            await self._http.stop()
        await self.shared.end()
        self._is_over = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    # ------------------------------------------------------------------------------------------- status

    def status(self) -> sm.ServerStatus:
        """What runs here."""
        return sm.ServerStatus(
            version=self._options.version,
            boot_id=self.boot_id,
            pid=os.getpid(),
            started_at_ms=self._started_at_ms,
            nodes=tuple(node.info for node in self.fleet.nodes.values() if node.connected),
            apps=len(self.apps.running),
            containers=len(self.fleet.containers),
            queued_inputs=sum(len(pool.queue) for pool in self.router.pools.values()),
            running_inputs=sum(pool.running for pool in self.router.pools.values()),
            stale_results=self.router.stale_results,
            http=self.http_address,
            http_problem=self.http_problem,
        )


async def listen(path: Path, make: Callable[[], asyncio.BaseProtocol]) -> asyncio.AbstractServer:
    """Listen on a Unix socket."""
    _make_room(path)
    mask = os.umask(0o111)  # whoever can enter its folder may connect: this user, and containers
    try:
        return await asyncio.get_running_loop().create_unix_server(make, str(path), backlog=SOCKET_BACKLOG)
    finally:
        os.umask(mask)


def _make_room(socket: Path) -> None:
    private_folder(socket.parent)
    socket.unlink(missing_ok=True)


def private_folder(path: Path) -> None:
    """Make the folder for this user alone.

    Raises:
        PermissionError: it belongs to somebody else (a folder in a shared temporary folder may be anyone's).
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{path} belongs to another user")
