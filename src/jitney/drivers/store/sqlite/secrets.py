"""Secrets, their versions, and the audit: see ports.secrets."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from jitney.drivers.store.sqlite import queries
from jitney.drivers.store.sqlite.reader import Reader
from jitney.drivers.store.sqlite.writer import Write, Writer, one_by_one
from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.ports.secrets import VERSIONS_MAX, Kept, Rewrapped
from jitney.values.secrets import Sealed, SecretRecord, SecretUse, SecretVersion, Wrapped

SQL = queries.load("secrets")
FOR_EVER_MS = (1 << 63) - 1

_encode = msgspec.msgpack.Encoder().encode
_keys = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_use = msgspec.msgpack.Decoder(SecretUse).decode


class Change(NamedTuple):
    """A request to create or update."""

    kept: Kept
    entries: Sequence[SecretUse]


def _kept(row: Sequence[Any]) -> Kept:
    (
        secret_id,
        name,
        app_id,
        version,
        keys,
        created_at_ms,
        updated_at_ms,
        used_at_ms,
        key_id,
        data_key,
        nonce,
        sealed,
    ) = row
    record = SecretRecord(
        secret_id=secret_id,
        name=name,
        app_id=app_id,
        version=version,
        keys=_keys(keys),
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
        used_at_ms=used_at_ms,
    )
    return Kept(record, Sealed(data_key=Wrapped(key_id=key_id, sealed=data_key), nonce=nonce, sealed=sealed))


def _fields(kept: Kept) -> dict[str, Any]:
    record, sealed = kept.record, kept.sealed
    return {
        **msgspec.structs.asdict(record),
        "keys": _encode(record.keys),
        "key_id": sealed.data_key.key_id,
        "data_key": sealed.data_key.sealed,
        "nonce": sealed.nonce,
        "sealed": sealed.sealed,
    }


def _find(db: sqlite3.Connection, query: str, **where: Any) -> list[Kept]:
    return [_kept(row) for row in db.execute(SQL[query], where).fetchall()]


def _by_id(db: sqlite3.Connection, secret_id: str) -> Kept | None:
    return next(iter(_find(db, "by_ids", ids=_json([secret_id]))), None)


def _json(texts: Sequence[str]) -> str:
    return msgspec.json.encode(list(texts)).decode()


def _add_use(db: sqlite3.Connection, entry: SecretUse) -> None:
    fields = {**msgspec.structs.asdict(entry), "entry": _encode(entry)}
    db.execute(SQL["add_use"], fields)


def create(db: sqlite3.Connection, request: Change) -> SecretRecord:
    """`SecretStore.create`."""
    record = request.kept.record
    known = _by_id(db, record.secret_id)
    if known is not None:
        return known.record
    _check_free(db, record)
    db.execute(SQL["create"], _fields(request.kept))
    _add_version(db, request)
    return record


def _check_free(db: sqlite3.Connection, record: SecretRecord) -> None:
    found = _find(db, "by_names", names=_json([record.name])) if record.name else []
    if any(kept.record.secret_id != record.secret_id for kept in found):
        raise AlreadyExistsError(f"there is a secret {record.name!r} already", hint="--force replaces it")


def update(db: sqlite3.Connection, request: Change) -> None:
    """`SecretStore.update`."""
    record = request.kept.record
    known = _by_id(db, record.secret_id)
    if known is None:
        raise NotFoundError(f"no secret {record.secret_id!r}")
    if (known.record.version, known.sealed) == (record.version, request.kept.sealed):
        return
    if record.version != known.record.version + 1:
        raise AlreadyExistsError(f"version {record.version} of the secret is there already", hint="try again")
    _check_free(db, record)
    db.execute(SQL["update"], _fields(request.kept))
    _add_version(db, request)


def _add_version(db: sqlite3.Connection, request: Change) -> None:
    record = request.kept.record
    fields = {"secret_id": record.secret_id, "version": record.version, "at_ms": record.updated_at_ms}
    db.execute(SQL["add_version"], fields)
    for entry in request.entries:
        _add_use(db, entry)


def delete(db: sqlite3.Connection, request: tuple[str, SecretUse]) -> bool:
    """`SecretStore.delete`."""
    secret_id, entry = request
    if not _remove(db, [secret_id]):
        return False
    _add_use(db, entry)
    return True


def _remove(db: sqlite3.Connection, secret_ids: Sequence[str]) -> int:
    count = 0
    for secret_id in secret_ids:
        count += db.execute(SQL["delete"], {"secret_id": secret_id}).rowcount
        db.execute(SQL["delete_versions"], {"secret_id": secret_id})
    return count


def drop(db: sqlite3.Connection, app_id: str) -> int:
    """`SecretStore.drop`."""
    return _remove(db, [row[0] for row in db.execute(SQL["ids_of_app"], {"app_id": app_id}).fetchall()])


def expire(db: sqlite3.Connection, request: tuple[int, int]) -> int:
    """`SecretStore.expire`."""
    before_ms, limit = request
    rows = db.execute(SQL["expired"], {"before_ms": before_ms, "limit": limit}).fetchall()
    return _remove(db, [row[0] for row in rows])


def used(db: sqlite3.Connection, entries: Sequence[SecretUse]) -> None:
    """`SecretStore.used`."""
    for entry in entries:
        _add_use(db, entry)
        db.execute(SQL["note_use"], {"secret_id": entry.secret_id, "at_ms": entry.at_ms})


def forget(db: sqlite3.Connection, request: tuple[int, int]) -> int:
    """`SecretStore.forget`."""
    before_ms, limit = request
    return db.execute(SQL["forget"], {"before_ms": before_ms, "limit": limit}).rowcount


def rewrap(db: sqlite3.Connection, changes: Sequence[Rewrapped]) -> int:
    """`SecretStore.rewrap`."""
    count = 0
    for change in changes:
        fields = {
            "secret_id": change.secret_id,
            "version": change.version,
            "before": change.before,
            "key_id": change.data_key.key_id,
            "data_key": change.data_key.sealed,
        }
        count += db.execute(SQL["rewrap"], fields).rowcount
    return count


CREATE = Write(one_by_one(create), rank=3, grows=True)
UPDATE = Write(one_by_one(update), rank=4, grows=True)
USED = Write(one_by_one(used), rank=5, grows=True)
DELETE = Write(one_by_one(delete))
DROP = Write(one_by_one(drop))
EXPIRE = Write(one_by_one(expire), rank=60)
FORGET = Write(one_by_one(forget), rank=60)
REWRAP = Write(one_by_one(rewrap))


class SqliteSecrets:
    """`ports.secrets.SecretStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def create(self, kept: Kept, entry: SecretUse) -> SecretRecord:
        return await self._writer.submit(CREATE, Change(kept, [entry]), size=len(kept.sealed.sealed))

    async def update(self, kept: Kept, *entries: SecretUse) -> None:
        await self._writer.submit(UPDATE, Change(kept, entries), size=len(kept.sealed.sealed))

    async def get(self, secret_ids: Sequence[str]) -> dict[str, Kept]:
        found = await self._reader.ask(lambda db: _find(db, "by_ids", ids=_json(secret_ids)))
        return {kept.record.secret_id: kept for kept in found}

    async def by_name(self, names: Sequence[str]) -> dict[str, Kept]:
        found = await self._reader.ask(lambda db: _find(db, "by_names", names=_json(names)))
        return {kept.record.name: kept for kept in found}

    async def of_app(self, app_id: str) -> list[Kept]:
        return await self._reader.ask(lambda db: _find(db, "of_app", app_id=app_id))

    async def names(self, *, limit: int = 10_000) -> list[str]:
        rows = await self._reader.ask(lambda db: db.execute(SQL["names"], {"limit": limit}).fetchall())
        return [row[0] for row in rows]

    async def recent(self, *, before_ms: int | None = None, limit: int = 100) -> list[SecretRecord]:
        before = FOR_EVER_MS if before_ms is None else before_ms
        found = await self._reader.ask(lambda db: _find(db, "recent", before_ms=before, limit=limit))
        return [kept.record for kept in found]

    async def versions(self, secret_id: str, *, limit: int = VERSIONS_MAX) -> list[SecretVersion]:
        where = {"secret_id": secret_id, "limit": limit}
        rows = await self._reader.ask(lambda db: db.execute(SQL["versions"], where).fetchall())
        return [SecretVersion(version=version, at_ms=at_ms) for version, at_ms in rows]

    async def delete(self, secret_id: str, entry: SecretUse) -> bool:
        return await self._writer.submit(DELETE, (secret_id, entry))

    async def drop(self, app_id: str) -> int:
        return await self._writer.submit(DROP, app_id)

    async def expire(self, before_ms: int, *, limit: int = 1_000) -> int:
        return await self._writer.submit(EXPIRE, (before_ms, limit))

    async def used(self, entries: Sequence[SecretUse]) -> None:
        await self._writer.submit(USED, entries)

    async def uses(self, *, name: str = "", secret_id: str = "", limit: int = 100) -> list[SecretUse]:
        query = "uses_of_name" if name else "uses_of_id" if secret_id else "uses"
        where = {"limit": limit, **({"name": name} if name else {"secret_id": secret_id} if secret_id else {})}
        rows = await self._reader.ask(lambda db: db.execute(SQL[query], where).fetchall())
        return [_use(row[0]) for row in rows]

    async def forget(self, before_ms: int, *, limit: int = 10_000) -> int:
        return await self._writer.submit(FORGET, (before_ms, limit))

    async def key_ids(self) -> list[str]:
        rows = await self._reader.ask(lambda db: db.execute(SQL["key_ids"]).fetchall())
        return [row[0] for row in rows]

    async def wrapped_by_others(self, key_id: str, *, limit: int = 100) -> list[Kept]:
        return await self._reader.ask(lambda db: _find(db, "wrapped_by_others", key_id=key_id, limit=limit))

    async def rewrap(self, changes: Sequence[Rewrapped]) -> int:
        return await self._writer.submit(REWRAP, changes)
