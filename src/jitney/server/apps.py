"""Apps that run, and the pools of their functions.

What keeps an app alive: EPHEMERAL, a link of a client that works with it (one that went may come back within GRACE_MS);
DETACHED, calls that are not over; DEPLOYED, its name. Equal binds of a function give the same pool, so ids of bound
functions are derived from what was bound.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from difflib import get_close_matches

import msgspec

from jitney.core.metering import summarize
from jitney.errors import NotFoundError
from jitney.server.connected import CallLink
from jitney.server.fleet import Fleet
from jitney.server.router import Router
from jitney.server.state import Pool
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState, RunSummary
from jitney.values.containers import LogLine
from jitney.values.functions import Concurrency, FunctionSpec, Overrides, Scaling

GRACE_MS = 10_000
RESTART_GRACE_MS = 60_000
SUMMARIES_KEPT = 1_000
IDLE_DETACHED_MS = 5_000  # a detached app without work this long has done its work


class Running:
    """An app with its functions, the links that keep it, and who reads its logs."""

    def __init__(self, record: AppRecord, functions: dict[str, str], now_ms: int) -> None:
        self.record = record
        self.functions = functions  # name -> function id
        self.links: set[CallLink] = set()
        self.alone_since_ms = now_ms
        self.grace_ms = GRACE_MS
        self.busy_at_ms = now_ms
        self.failed_inputs = 0
        self.readers: set[Callable[[list[LogLine]], None]] = set()
        self.ended: set[Callable[[], None]] = set()


class Apps:
    """The apps that run on this server. Implements `connected.Pools`."""

    def __init__(self, router: Router, fleet: Fleet) -> None:
        self.running: dict[str, Running] = {}
        self._leaving: dict[str, Running] = {}  # stopped, with containers that still print
        self._summaries: OrderedDict[str, RunSummary] = OrderedDict()  # of apps that have stopped
        self._router = router
        self._fleet = fleet

    # ------------------------------------------------------------------------------------------- pools

    def pool(self, function_id: str) -> Pool:
        """The pool of a function.

        Raises:
            NotFoundError: there is none, or its app has stopped.
        """
        pool = self._router.pools.get(function_id)
        if pool is None or pool.stopped:
            raise NotFoundError(f"no function {function_id[:64]!r} runs here", hint="its app may have stopped")
        return pool

    def used_by(self, app_id: str, peer: CallLink) -> None:
        """A client works with the app: while its link is open an ephemeral app lives."""
        app = self.running.get(app_id)
        if app is not None:
            app.links.add(peer)

    def add(self, record: AppRecord, functions: dict[str, FunctionSpec], *, grace_ms: int = GRACE_MS) -> Running:
        """Run an app: a pool for each of its functions."""
        app = self.running.get(record.app_id)
        if app is None:
            app = self.running[record.app_id] = Running(record, {}, self._fleet.now_ms())
        app.record = record
        app.grace_ms = grace_ms
        app.functions = {spec.name: function_id for function_id, spec in functions.items()}
        gone = [pool.spec for pool in self.pools_of(record.app_id) if pool.function_id not in functions]
        for function_id, spec in functions.items():
            self.add_pool(record.app_id, function_id, spec)
        self._fleet.scaler.withdraw(gone, functions.values())
        self._prewarm(record, list(functions.values()))
        return app

    def _prewarm(self, record: AppRecord, specs: list[FunctionSpec]) -> None:
        """Make ahead what will be needed: for a deployed app everything, as nobody knows when; for one whose client
        is about to call something, the one template that all its functions have."""
        templates = {self._fleet.scaler.template(spec) for spec in specs}
        is_simple = len(templates) == 1 and all(template.snapshot is None for template in templates)
        if record.state is AppState.DEPLOYED or is_simple:
            self._fleet.scaler.prewarm(specs)

    def add_pool(self, app_id: str, function_id: str, spec: FunctionSpec) -> Pool:
        """The pool of a function, made if it is new."""
        pool = self._router.pools.get(function_id)
        if pool is None or pool.stopped:
            pool = self._router.pools[function_id] = Pool(function_id, app_id, spec)
            if spec.scaling.min_containers:
                self._fleet.wake(pool)
        return pool

    def find(self, app: str) -> Running:
        """A running app by id or deployed name.

        Raises:
            NotFoundError: with the nearest names.
        """
        found = self.running.get(app)
        if found is None:
            named = [a for a in self.running.values() if a.record.name == app]
            deployed = [a for a in named if a.record.state is AppState.DEPLOYED]
            found = next(iter(deployed or named), None)
        if found is None:
            names = [a.record.name for a in self.running.values() if a.record.name]
            raise NotFoundError(
                f"no app {app[:64]!r} runs here", hint=did_you_mean(app, names) or "see `jitney app list`"
            )
        return found

    def function(self, app: Running, name: str) -> Pool:
        """The pool of a function by name.

        Raises:
            NotFoundError: with the nearest names.
        """
        function_id = app.functions.get(name)
        if function_id is None:
            raise NotFoundError(
                f"app {app.record.name or app.record.app_id} has no function {name[:64]!r}",
                hint=did_you_mean(name, list(app.functions)) or f"it has: {', '.join(sorted(app.functions)) or 'none'}",
            )
        return self.pool(function_id)

    # ------------------------------------------------------------------------------------------- life

    def pools_of(self, app_id: str) -> list[Pool]:
        """All pools of an app, of bound functions too."""
        return [pool for pool in self._router.pools.values() if pool.app_id == app_id]

    def containers_of(self, app_id: str) -> int:
        """Containers of an app that live."""
        return sum(len(pool.containers) for pool in self.pools_of(app_id))

    def to_stop(self, now_ms: int) -> list[tuple[Running, str]]:
        """Apps that nothing keeps any more, with the reason."""
        over = []
        for app in self.running.values():
            app.links = {link for link in app.links if link.is_open}
            if app.links:
                app.alone_since_ms, app.grace_ms = now_ms, GRACE_MS
            state = app.record.state
            if state is AppState.EPHEMERAL and now_ms - app.alone_since_ms > app.grace_ms:
                over.append((app, "its client has gone"))
            elif state is AppState.DETACHED:
                if app.links or any(
                    pool.queue or pool.running or pool.waiting for pool in self.pools_of(app.record.app_id)
                ):
                    app.busy_at_ms = now_ms
                if now_ms - app.busy_at_ms > IDLE_DETACHED_MS:
                    over.append((app, "its work is done"))
        return over

    def forget(self, app: Running) -> None:
        """The app has stopped: its pools take nothing any more; those without containers go at once."""
        self._leaving[app.record.app_id] = app
        self.running.pop(app.record.app_id, None)
        for ended in list(app.ended):
            ended()
        others = [pool.spec for pool in self._router.pools.values() if not pool.stopped]
        self._fleet.scaler.withdraw([pool.spec for pool in self.pools_of(app.record.app_id)], others)
        self.tidy()

    def tidy(self) -> None:
        """Drop stopped apps that have no container any more, with their pools."""
        for app_id in [app_id for app_id in self._leaving if not self.containers_of(app_id)]:
            self._summaries[app_id] = self._summary(self._leaving.pop(app_id))
            if len(self._summaries) > SUMMARIES_KEPT:
                self._summaries.popitem(last=False)
            for pool in self.pools_of(app_id):
                del self._router.pools[pool.function_id]

    def summary(self, app: str) -> RunSummary:
        """What an app did so far, or did until it stopped.

        Raises:
            NotFoundError: no such app, or it stopped too long ago.
        """
        self.tidy()
        leaving = self._leaving.get(app)
        return self._summaries.get(app) or self._summary(leaving or self.find(app))

    def _summary(self, app: Running) -> RunSummary:
        app_id = app.record.app_id
        pools = self.pools_of(app_id)
        live = [container.record() for pool in pools for container in pool.containers.values()]
        return summarize(
            live + [record for record in self._fleet.ended if record.app_id == app_id],
            now_ms=self._fleet.wall_ms(),
            started_at_ms=app.record.created_at_ms,
            inputs=sum(pool.succeeded + pool.failed for pool in pools),
            failed=sum(pool.failed for pool in pools),
        )

    def readers(self, app_id: str) -> list[Callable[[list[LogLine]], None]]:
        """Who follows the logs of an app, until its last container is gone."""
        app = self.running.get(app_id) or self._leaving.get(app_id)
        return list(app.readers) if app else []


def bound_id(function_id: str, overrides: Overrides) -> str:
    """The id of a function with these overrides: the same for the same."""
    digest = hashlib.sha256(function_id.encode() + msgspec.msgpack.encode(overrides, order="sorted")).digest()
    return ids.make(ids.FUNCTION, digest)


def bind(spec: FunctionSpec, overrides: Overrides) -> FunctionSpec:
    """The function as `.with_options` and class parameters change it.

    Raises:
        InvalidError: a value out of its bounds.
    """
    scaling = spec.scaling
    bounds = {
        name: value
        for name in ("min_containers", "max_containers", "buffer_containers", "scaledown_window_ms")
        if (value := getattr(overrides, name)) is not None
    }
    if bounds:
        scaling = Scaling(**{**msgspec.structs.asdict(scaling), **bounds})
    changes: dict[str, object] = {"scaling": scaling}
    for name in ("retries", "timeout_ms", "resources", "batching", "parameters", "volumes", "buckets"):
        value = getattr(overrides, name)
        if value is not None:
            changes[name] = value
    if overrides.resources is not None:  # its disk is part of the declaration
        disk_mib = spec.resources.ephemeral_disk_mib
        changes["resources"] = msgspec.structs.replace(overrides.resources, ephemeral_disk_mib=disk_mib)
    if overrides.concurrency is not None:
        changes["concurrency"] = Concurrency(**msgspec.structs.asdict(overrides.concurrency))
    if overrides.env is not None:
        changes["env"] = {**spec.env, **overrides.env}
    if overrides.secrets:
        changes["secrets"] = overrides.secrets
    return FunctionSpec(**{**msgspec.structs.asdict(spec), **changes})


def did_you_mean(name: str, names: list[str]) -> str:
    """'did you mean 'square'?', or ''."""
    near = get_close_matches(name, names, n=2)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""
