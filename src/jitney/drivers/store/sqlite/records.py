"""Apps, functions and containers: records as msgpack, with columns for what is asked by."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from jitney.drivers.store.sqlite import queries
from jitney.drivers.store.sqlite.reader import Reader
from jitney.drivers.store.sqlite.writer import Write, Writer, one_by_one
from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.values.apps import AppRecord, AppState, DeploymentRecord, RunSummary
from jitney.values.containers import ContainerRecord
from jitney.values.functions import FunctionSpec

APPS = queries.load("apps")
FUNCTIONS = queries.load("functions")
CONTAINERS = queries.load("containers")

_encode = msgspec.msgpack.Encoder().encode
_app = msgspec.msgpack.Decoder(AppRecord).decode
_deployment = msgspec.msgpack.Decoder(DeploymentRecord).decode
_function = msgspec.msgpack.Decoder(FunctionSpec).decode
_container = msgspec.msgpack.Decoder(ContainerRecord).decode


class Publish(NamedTuple):
    """One request to publish."""

    app: AppRecord
    deployment: DeploymentRecord | None
    functions: Mapping[str, FunctionSpec]


class Bound(NamedTuple):
    """One request to record bound functions."""

    app_id: str
    functions: Mapping[str, FunctionSpec]


def _put_app(db: sqlite3.Connection, record: AppRecord) -> None:
    stopped = record.state is AppState.STOPPED
    db.execute(APPS["put"], {"app_id": record.app_id, "stopped": stopped, "record": _encode(record)})


def _get_app(db: sqlite3.Connection, app_id: str) -> AppRecord | None:
    row = db.execute(APPS["get"], {"app_id": app_id}).fetchone()
    return _app(row[0]) if row else None


def put_apps(db: sqlite3.Connection, records: Sequence[AppRecord]) -> None:
    """`AppStore.put`."""
    for record in records:
        _put_app(db, record)


def publish(db: sqlite3.Connection, request: Publish) -> None:
    """`AppStore.publish`."""
    app, deployment, functions = request
    _check_owner(db, app.app_id, functions)
    found = None
    if deployment:
        where = {"name": deployment.name, "version": deployment.version}
        found = db.execute(APPS["deployment"], where).fetchone()
        if found and _deployment(found[0]) != deployment:
            raise AlreadyExistsError(
                f"version {deployment.version} of {deployment.name!r} is deployed already",
                hint="somebody deployed at the same time; deploy again to go on top of it",
            )
    _put_app(db, app)
    if deployment and not found:
        row = {"name": deployment.name, "version": deployment.version, "app_id": deployment.app_id}
        db.execute(APPS["add_deployment"], {**row, "record": _encode(deployment)})
    db.execute(FUNCTIONS["unplace"], {"app_id": app.app_id})
    for position, (function_id, spec) in enumerate(functions.items()):
        row = {"function_id": function_id, "app_id": app.app_id, "position": position}
        db.execute(FUNCTIONS["place"], {**row, "spec": _encode(spec)})


def _check_owner(db: sqlite3.Connection, app_id: str, functions: Mapping[str, FunctionSpec]) -> None:
    function_ids = msgspec.json.encode(list(functions)).decode()
    row = db.execute(FUNCTIONS["of_other_app"], {"function_ids": function_ids, "app_id": app_id}).fetchone()
    if row:
        raise AlreadyExistsError(f"function {row[0]} is of another app")


def stop(db: sqlite3.Connection, request: tuple[str, int]) -> AppRecord:
    """`AppStore.stop`."""
    app_id, now_ms = request
    record = _get_app(db, app_id)
    if record is None:
        raise NotFoundError(f"no app {app_id[:64]!r}")
    if record.state is AppState.STOPPED:
        return record
    record = msgspec.structs.replace(record, state=AppState.STOPPED, stopped_at_ms=now_ms)
    _put_app(db, record)
    return record


def put_functions(db: sqlite3.Connection, request: Bound) -> None:
    """`FunctionStore.put`."""
    _check_owner(db, request.app_id, request.functions)
    for function_id, spec in request.functions.items():
        row = {"function_id": function_id, "app_id": request.app_id, "spec": _encode(spec)}
        db.execute(FUNCTIONS["put"], row)


def put_containers(db: sqlite3.Connection, records: Sequence[ContainerRecord]) -> None:
    """`ContainerStore.put`."""
    for record in records:
        row = {
            "container_id": record.container_id,
            "app_id": record.app_id,
            "created_at_ms": record.created_at_ms,
            "ready_at_ms": record.ready_at_ms,
            "ended_at_ms": record.ended_at_ms,
            "inputs_done": record.inputs_done,
            "busy_ms": record.busy_ms,
        }
        db.execute(CONTAINERS["put"], {**row, "record": _encode(record)})


def forget_containers(db: sqlite3.Connection, request: tuple[int, int]) -> int:
    """`ContainerStore.forget`."""
    before_ms, limit = request
    return db.execute(CONTAINERS["forget"], {"before_ms": before_ms, "limit": limit}).rowcount


PUT_APPS = Write(one_by_one(put_apps), rank=0, grows=True)
PUBLISH = Write(one_by_one(publish), rank=1, grows=True)
PUT_FUNCTIONS = Write(one_by_one(put_functions), rank=2, grows=True)
STOP = Write(one_by_one(stop))
PUT_CONTAINERS = Write(one_by_one(put_containers))
FORGET_CONTAINERS = Write(one_by_one(forget_containers), rank=60)


class SqliteApps:
    """`ports.store.AppStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, records: Sequence[AppRecord]) -> None:
        await self._writer.submit(PUT_APPS, records)

    async def publish(
        self, app: AppRecord, deployment: DeploymentRecord | None, functions: Mapping[str, FunctionSpec]
    ) -> None:
        size = sum(len(spec.pickled) for spec in functions.values())
        await self._writer.submit(PUBLISH, Publish(app, deployment, functions), size=size)

    async def get(self, app_id: str) -> AppRecord | None:
        return await self._reader.ask(lambda db: _get_app(db, app_id))

    async def by_name(self, name: str) -> AppRecord | None:
        row = await self._reader.ask(lambda db: db.execute(APPS["by_name"], {"name": name}).fetchone())
        return _app(row[0]) if row else None

    async def recent(self, *, include_stopped: bool = True, limit: int = 100) -> list[AppRecord]:
        sql = APPS["recent" if include_stopped else "recent_alive"]
        rows = await self._reader.ask(lambda db: db.execute(sql, {"limit": limit}).fetchall())
        return [_app(row[0]) for row in rows]

    async def history(self, name: str, *, limit: int = 100) -> list[DeploymentRecord]:
        where = {"name": name, "limit": limit}
        rows = await self._reader.ask(lambda db: db.execute(APPS["history"], where).fetchall())
        return [_deployment(row[0]) for row in rows]

    async def stop(self, app_id: str, now_ms: int) -> AppRecord:
        return await self._writer.submit(STOP, (app_id, now_ms))


class SqliteFunctions:
    """`ports.store.FunctionStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, app_id: str, functions: Mapping[str, FunctionSpec]) -> None:
        size = sum(len(spec.pickled) for spec in functions.values())
        await self._writer.submit(PUT_FUNCTIONS, Bound(app_id, functions), size=size)

    async def get(self, function_id: str) -> tuple[str, FunctionSpec] | None:
        where = {"function_id": function_id}
        row = await self._reader.ask(lambda db: db.execute(FUNCTIONS["get"], where).fetchone())
        return (row[0], _function(row[1])) if row else None

    async def of_app(self, app_id: str) -> dict[str, FunctionSpec]:
        rows = await self._reader.ask(lambda db: db.execute(FUNCTIONS["of_app"], {"app_id": app_id}).fetchall())
        return {function_id: _function(spec) for function_id, spec in rows}

    async def unlisted(self, app_id: str) -> dict[str, FunctionSpec]:
        rows = await self._reader.ask(lambda db: db.execute(FUNCTIONS["unlisted"], {"app_id": app_id}).fetchall())
        return {function_id: _function(spec) for function_id, spec in rows}


class SqliteContainers:
    """`ports.store.ContainerStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, records: Sequence[ContainerRecord]) -> None:
        await self._writer.submit(PUT_CONTAINERS, records)

    async def get(self, container_id: str) -> ContainerRecord | None:
        where = {"container_id": container_id}
        row = await self._reader.ask(lambda db: db.execute(CONTAINERS["get"], where).fetchone())
        return _container(row[0]) if row else None

    async def recent(self, app_id: str = "", *, limit: int = 200) -> list[ContainerRecord]:
        sql = CONTAINERS["recent_of_app" if app_id else "recent"]
        where = {"app_id": app_id, "limit": limit} if app_id else {"limit": limit}
        rows = await self._reader.ask(lambda db: db.execute(sql, where).fetchall())
        return [_container(row[0]) for row in rows]

    async def summary(self, app_id: str) -> RunSummary:
        where = {"app_id": app_id}
        row = await self._reader.ask(lambda db: db.execute(CONTAINERS["summary"], where).fetchone())
        containers, cold_starts, inputs, busy_ms, idle_ms, wall_ms = row
        return RunSummary(
            containers=containers,
            cold_starts=cold_starts,
            inputs=inputs,
            busy_ms=busy_ms,
            idle_ms=idle_ms,
            wall_ms=wall_ms,
        )

    async def forget(self, before_ms: int, *, limit: int = 1_000) -> int:
        return await self._writer.submit(FORGET_CONTAINERS, (before_ms, limit))
