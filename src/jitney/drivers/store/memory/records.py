"""Apps, functions and containers, in dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from jitney.drivers.store.memory.faults import Faults
from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.values.apps import AppRecord, AppState, DeploymentRecord, RunSummary
from jitney.values.containers import ContainerRecord
from jitney.values.functions import FunctionSpec


class MemoryApps:
    """`ports.store.AppStore`."""

    def __init__(self, faults: Faults, functions: MemoryFunctions) -> None:
        self._step = faults.step
        self._functions = functions
        self._apps: dict[str, AppRecord] = {}
        self._deployments: dict[tuple[str, int], DeploymentRecord] = {}

    def is_alive(self, app_id: str) -> bool:
        """Whether there is such an app, and it has not stopped."""
        app = self._apps.get(app_id)
        return app is not None and app.state is not AppState.STOPPED

    async def put(self, records: Sequence[AppRecord]) -> None:
        await self._step(lambda: self._apps.update({record.app_id: record for record in records}))

    async def publish(
        self, app: AppRecord, deployment: DeploymentRecord | None, functions: Mapping[str, FunctionSpec]
    ) -> None:
        def operation() -> None:
            self._functions.check(app.app_id, functions)
            if deployment:
                key = (deployment.name, deployment.version)
                if self._deployments.setdefault(key, deployment) != deployment:
                    raise AlreadyExistsError(f"version {deployment.version} of {deployment.name!r} is there already")
            self._apps[app.app_id] = app
            self._functions.place(app.app_id, functions)

        await self._step(operation)

    async def get(self, app_id: str) -> AppRecord | None:
        return await self._step(lambda: self._apps.get(app_id))

    async def by_name(self, name: str) -> AppRecord | None:
        def operation() -> AppRecord | None:
            known = [d for d in self._deployments.values() if d.name == name and d.app_id in self._apps]
            return self._apps[max(known, key=lambda d: d.version).app_id] if known else None

        return await self._step(operation)

    async def recent(self, *, include_stopped: bool = True, limit: int = 100) -> list[AppRecord]:
        def operation() -> list[AppRecord]:
            apps = [a for a in self._apps.values() if include_stopped or a.state is not AppState.STOPPED]
            return apps[::-1][:limit]

        return await self._step(operation)

    async def history(self, name: str, *, limit: int = 100) -> list[DeploymentRecord]:
        def operation() -> list[DeploymentRecord]:
            known = [d for d in self._deployments.values() if d.name == name]
            return sorted(known, key=lambda d: -d.version)[:limit]

        return await self._step(operation)

    async def stop(self, app_id: str, now_ms: int) -> AppRecord:
        def operation() -> AppRecord:
            app = self._apps.get(app_id)
            if app is None:
                raise NotFoundError(f"no app {app_id[:64]!r}")
            if app.state is not AppState.STOPPED:
                app = self._apps[app_id] = replace(app, state=AppState.STOPPED, stopped_at_ms=now_ms)
            return app

        return await self._step(operation)


class MemoryFunctions:
    """`ports.store.FunctionStore`."""

    def __init__(self, faults: Faults) -> None:
        self._step = faults.step
        self._functions: dict[str, tuple[str, FunctionSpec]] = {}
        self._published: dict[str, list[str]] = {}

    def check(self, app_id: str, functions: Mapping[str, FunctionSpec]) -> None:
        """Raise if one of them is of another app."""
        for function_id in functions:
            if self._functions.get(function_id, (app_id,))[0] != app_id:
                raise AlreadyExistsError(f"function {function_id} is of another app")

    def place(self, app_id: str, functions: Mapping[str, FunctionSpec]) -> None:
        """Make them those of the app."""
        self._functions.update({function_id: (app_id, spec) for function_id, spec in functions.items()})
        self._published[app_id] = list(functions)

    async def put(self, app_id: str, functions: Mapping[str, FunctionSpec]) -> None:
        def operation() -> None:
            self.check(app_id, functions)
            self._functions.update({function_id: (app_id, spec) for function_id, spec in functions.items()})

        await self._step(operation)

    async def get(self, function_id: str) -> tuple[str, FunctionSpec] | None:
        return await self._step(lambda: self._functions.get(function_id))

    async def of_app(self, app_id: str) -> dict[str, FunctionSpec]:
        return await self._step(lambda: {f: self._functions[f][1] for f in self._published.get(app_id, [])})

    async def unlisted(self, app_id: str) -> dict[str, FunctionSpec]:
        def operation() -> dict[str, FunctionSpec]:
            listed = self._published.get(app_id, [])
            its = {f: spec for f, (app, spec) in sorted(self._functions.items()) if app == app_id}
            return {f: spec for f, spec in its.items() if f not in listed}

        return await self._step(operation)


class MemoryContainers:
    """`ports.store.ContainerStore`."""

    def __init__(self, faults: Faults) -> None:
        self._step = faults.step
        self._containers: dict[str, ContainerRecord] = {}

    async def put(self, records: Sequence[ContainerRecord]) -> None:
        await self._step(lambda: self._containers.update({record.container_id: record for record in records}))

    async def get(self, container_id: str) -> ContainerRecord | None:
        return await self._step(lambda: self._containers.get(container_id))

    async def recent(self, app_id: str = "", *, limit: int = 200) -> list[ContainerRecord]:
        def operation() -> list[ContainerRecord]:
            records = [record for record in self._containers.values() if app_id in ("", record.app_id)]
            return sorted(records, key=lambda r: (r.created_at_ms, r.container_id), reverse=True)[:limit]

        return await self._step(operation)

    async def summary(self, app_id: str) -> RunSummary:
        def operation() -> RunSummary:
            mine = [record for record in self._containers.values() if record.app_id == app_id]
            ends = [record.ended_at_ms for record in mine if record.ended_at_ms is not None]
            idle_ms = sum(
                max(0, record.ended_at_ms - record.ready_at_ms - record.busy_ms)
                for record in mine
                if record.ended_at_ms is not None and record.ready_at_ms is not None
            )
            return RunSummary(
                containers=len(mine),
                cold_starts=sum(record.ready_at_ms is not None for record in mine),
                inputs=sum(record.inputs_done for record in mine),
                busy_ms=sum(record.busy_ms for record in mine),
                idle_ms=idle_ms,
                wall_ms=max(0, max(ends) - min(record.created_at_ms for record in mine)) if ends else 0,
            )

        return await self._step(operation)

    async def forget(self, before_ms: int, *, limit: int = 1_000) -> int:
        def operation() -> int:
            old = sorted(
                (record.ended_at_ms, record.container_id)
                for record in self._containers.values()
                if record.ended_at_ms is not None and record.ended_at_ms < before_ms
            )[:limit]
            for _, container_id in old:
                del self._containers[container_id]
            return len(old)

        return await self._step(operation)
