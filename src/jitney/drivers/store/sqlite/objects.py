"""Objects, entries of dicts and items of queues: rows with numbers that the server gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from jitney.drivers.store.sqlite import queries
from jitney.drivers.store.sqlite.reader import Reader
from jitney.drivers.store.sqlite.writer import Write, Writer, one_by_one
from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.ports.objects import DictWrite, Op, QueueWrite
from jitney.values.dicts import DictEntry
from jitney.values.objects import ObjectKind, ObjectRecord
from jitney.values.queues import StoredItem

OBJECTS = queries.load("objects")
DICTS = queries.load("dicts")
QUEUES = queries.load("queues")


class DictBatch(NamedTuple):
    """One write to dicts."""

    writes: Sequence[DictWrite]
    ops: Sequence[Op]


class QueueBatch(NamedTuple):
    """One write to queues."""

    writes: Sequence[QueueWrite]
    ops: Sequence[Op]


def _record(row: tuple[str, str, str, int, int]) -> ObjectRecord:
    object_id, kind, name, created_at_ms, heartbeat_at_ms = row
    return ObjectRecord(
        object_id=object_id,
        kind=ObjectKind(kind),
        name=name,
        created_at_ms=created_at_ms,
        heartbeat_at_ms=heartbeat_at_ms,
    )


def create(db: sqlite3.Connection, record: ObjectRecord) -> ObjectRecord:
    """`ObjectStore.create`."""
    values = {
        "object_id": record.object_id,
        "kind": record.kind.value,
        "name": record.name,
        "created_at_ms": record.created_at_ms,
        "heartbeat_at_ms": record.heartbeat_at_ms,
    }
    row = db.execute(OBJECTS["by_name"], values).fetchone() or db.execute(OBJECTS["get"], values).fetchone()
    if row is None:
        db.execute(OBJECTS["add"], values)
        return record
    known = _record(row)
    if (known.kind, known.name) != (record.kind, record.name):
        raise AlreadyExistsError(f"{record.object_id} is the id of another object")
    return known


def heartbeat(db: sqlite3.Connection, request: tuple[Sequence[str], int]) -> None:
    """`ObjectStore.heartbeat`."""
    object_ids, now_ms = request
    for object_id in object_ids:
        db.execute(OBJECTS["heartbeat"], {"object_id": object_id, "now_ms": now_ms})


def rename(db: sqlite3.Connection, request: tuple[str, str]) -> ObjectRecord:
    """`ObjectStore.rename`."""
    object_id, name = request
    row = db.execute(OBJECTS["get"], {"object_id": object_id}).fetchone()
    if row is None or not _record(row).name:
        raise NotFoundError(f"no object {object_id!r} has a name")
    record = _record(row)
    taken = db.execute(OBJECTS["by_name"], {"kind": record.kind.value, "name": name}).fetchone()
    if taken is not None and taken[0] != object_id:
        raise AlreadyExistsError(f"there is a {record.kind} {name!r} already")
    db.execute(OBJECTS["rename"], {"object_id": object_id, "name": name})
    return msgspec.structs.replace(record, name=name)


def delete(db: sqlite3.Connection, object_ids: Sequence[str]) -> list[ObjectRecord]:
    """`ObjectStore.delete`."""
    found = []
    for object_id in object_ids:
        where = {"object_id": object_id}
        row = db.execute(OBJECTS["get"], where).fetchone()
        if row is not None:
            db.execute(OBJECTS["doom"], where)
            db.execute(OBJECTS["delete"], where)
            found.append(_record(row))
    return found


def tidy(db: sqlite3.Connection, limit: int) -> int:
    """`ObjectStore.tidy`."""
    dropped = 0
    for (number,) in db.execute(OBJECTS["doomed"]).fetchall():
        for sql in ("drop_entries", "drop_items"):
            if dropped < limit:
                dropped += db.execute(OBJECTS[sql], {"object": number, "limit": limit - dropped}).rowcount
        if dropped >= limit:
            break
        db.execute(OBJECTS["forget_deleted"], {"object": number})
    return dropped


def forget_ops(db: sqlite3.Connection, before_ms: int) -> None:
    """`ObjectStore.forget_ops`."""
    db.execute(OBJECTS["forget_ops"], {"before_ms": before_ms})


def _note(db: sqlite3.Connection, ops: Sequence[Op]) -> None:
    if ops:
        db.executemany(OBJECTS["add_op"], [(op.number, op.op, op.at_ms, op.answer) for op in ops])


def _number(db: sqlite3.Connection, object_id: str) -> int | None:
    row = db.execute(OBJECTS["number"], {"object_id": object_id}).fetchone()
    return int(row[0]) if row else None


def write_dicts(db: sqlite3.Connection, batch: DictBatch) -> None:
    """`DictStore.write`."""
    for write in batch.writes:
        number = _number(db, write.object_id)
        if number is None:
            continue
        if write.clear_before:
            db.execute(DICTS["clear"], {"object": number, "before": write.clear_before})
        if write.drops:
            db.executemany(DICTS["drop"], [(drop, number) for drop in write.drops])
        puts = [(e.number, number, e.used_at_ms, e.key, e.value) for e in write.entries if e.value is not None]
        if puts:
            db.executemany(DICTS["put"], puts)
        uses = [(e.used_at_ms, e.number, number) for e in write.entries if e.value is None]
        if uses:
            db.executemany(DICTS["use"], uses)
    _note(db, batch.ops)


def write_queues(db: sqlite3.Connection, batch: QueueBatch) -> None:
    """`QueueStore.write`."""
    for write in batch.writes:
        number = _number(db, write.object_id)
        if number is None:
            continue
        if write.drops:
            db.executemany(QUEUES["drop"], [(drop, number) for drop in write.drops])
        puts = [_item_row(item, number) for item in write.items if item.payload is not None]
        if puts:
            db.executemany(QUEUES["put"], puts)
        changes = [_item_row(item, number) for item in write.items if item.payload is None]
        if changes:
            db.executemany(QUEUES["change"], changes)
    _note(db, batch.ops)


def _item_row(item: StoredItem, number: int) -> dict[str, object]:
    return {
        "number": item.number,
        "object": number,
        "expires_at_ms": item.expires_at_ms,
        "deliveries": item.deliveries,
        "max_deliveries": item.max_deliveries,
        "leased_until_ms": item.leased_until_ms,
        "partition": item.partition,
        "payload": item.payload,
    }


CREATE = Write(one_by_one(create), rank=3, grows=True)
RENAME = Write(one_by_one(rename), rank=4)
HEARTBEAT = Write(one_by_one(heartbeat))
DELETE = Write(one_by_one(delete), rank=58)
TIDY = Write(one_by_one(tidy), rank=60)
FORGET_OPS = Write(one_by_one(forget_ops), rank=60)
GROW_DICTS = Write(one_by_one(write_dicts), grows=True)
WRITE_DICTS = Write(one_by_one(write_dicts), rank=51)
GROW_QUEUES = Write(one_by_one(write_queues), grows=True)
WRITE_QUEUES = Write(one_by_one(write_queues), rank=51)


class SqliteObjects:
    """`ports.objects.ObjectStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def create(self, record: ObjectRecord) -> ObjectRecord:
        return await self._writer.submit(CREATE, record)

    async def all(self) -> list[ObjectRecord]:
        rows = await self._reader.ask(lambda db: db.execute(OBJECTS["all"]).fetchall())
        return [_record(row) for row in rows]

    async def heartbeat(self, object_ids: Sequence[str], now_ms: int) -> None:
        await self._writer.submit(HEARTBEAT, (object_ids, now_ms))

    async def rename(self, object_id: str, name: str) -> ObjectRecord:
        return await self._writer.submit(RENAME, (object_id, name))

    async def delete(self, object_ids: Sequence[str]) -> list[ObjectRecord]:
        return await self._writer.submit(DELETE, object_ids)

    async def tidy(self, *, limit: int = 5_000) -> int:
        return await self._writer.submit(TIDY, limit)

    async def ops(self) -> list[Op]:
        rows = await self._reader.ask(lambda db: db.execute(OBJECTS["ops"]).fetchall())
        return [Op(*row) for row in rows]

    async def forget_ops(self, before_ms: int) -> None:
        await self._writer.submit(FORGET_OPS, before_ms)


class SqliteDicts:
    """`ports.objects.DictStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def write(self, writes: Sequence[DictWrite], ops: Sequence[Op] = ()) -> None:
        size = sum(len(entry.value or b"") for write in writes for entry in write.entries)
        kind = GROW_DICTS if any(write.grows for write in writes) else WRITE_DICTS
        await self._writer.submit(kind, DictBatch(writes, ops), size=size)

    async def load(
        self, object_id: str, *, after: int = 0, limit: int = 1_000, value_bytes_max: int = 1_024
    ) -> list[DictEntry]:
        where = {"object_id": object_id, "after": after, "limit": limit, "value_bytes_max": value_bytes_max}
        rows = await self._reader.ask(lambda db: db.execute(DICTS["load"], where).fetchall())
        return [DictEntry(*row) for row in rows]

    async def values(self, numbers: Sequence[int]) -> Mapping[int, bytes]:
        return await self._reader.ask(lambda db: _blobs(db, DICTS["value"], numbers))

    async def by_file(self) -> list[bytes]:
        rows = await self._reader.ask(lambda db: db.execute(DICTS["by_file"]).fetchall())
        return [row[0] for row in rows]

    async def stale(self, before_ms: int, *, limit: int = 1_000) -> list[str]:
        where = {"before_ms": before_ms, "limit": limit}
        rows = await self._reader.ask(lambda db: db.execute(DICTS["stale"], where).fetchall())
        return [row[0] for row in rows]


class SqliteQueues:
    """`ports.objects.QueueStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def write(self, writes: Sequence[QueueWrite], ops: Sequence[Op] = ()) -> None:
        size = sum(len(item.payload or b"") for write in writes for item in write.items)
        kind = GROW_QUEUES if any(write.grows for write in writes) else WRITE_QUEUES
        await self._writer.submit(kind, QueueBatch(writes, ops), size=size)

    async def load(
        self, object_id: str, *, after: int = 0, limit: int = 1_000, payload_bytes_max: int = 1_024
    ) -> list[StoredItem]:
        where = {"object_id": object_id, "after": after, "limit": limit, "payload_bytes_max": payload_bytes_max}
        rows = await self._reader.ask(lambda db: db.execute(QUEUES["load"], where).fetchall())
        return [StoredItem(*row) for row in rows]

    async def payloads(self, numbers: Sequence[int]) -> Mapping[int, bytes]:
        return await self._reader.ask(lambda db: _blobs(db, QUEUES["payload"], numbers))

    async def stale(self, now_ms: int, *, limit: int = 1_000) -> list[str]:
        where = {"now_ms": now_ms, "limit": limit}
        rows = await self._reader.ask(lambda db: db.execute(QUEUES["stale"], where).fetchall())
        return [row[0] for row in rows]


def _blobs(db: sqlite3.Connection, sql: str, numbers: Sequence[int]) -> dict[int, bytes]:
    found = ((number, db.execute(sql, (number,)).fetchone()) for number in numbers)
    return {number: row[0] for number, row in found if row is not None}
