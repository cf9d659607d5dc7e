"""Versions of volumes: rows with the versions of which they are. A commit ends rows and begins others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from jitney.core import volumes
from jitney.core.volumes import Delta, Row
from jitney.drivers.store.sqlite import queries
from jitney.drivers.store.sqlite.reader import Reader
from jitney.drivers.store.sqlite.writer import Write, Writer, one_by_one
from jitney.errors import NotFoundError
from jitney.ports.contents import Block
from jitney.ports.volumes import LIST_MAX, Commit, Diff, Restore
from jitney.values.volumes import (
    BLOCK_BYTES,
    CONFLICTS_MAX,
    WORKSPACE,
    Committed,
    Content,
    Entry,
    Head,
    Kind,
    Retention,
    Version,
)

SQL = queries.load("volumes")
INSERT_CONTENTS = queries.Insert("contents", ("workspace", "digest", "size", "blocks"), end="ON CONFLICT DO NOTHING")
INSERT_ENTRIES = queries.Insert(
    "volume_entries",
    ("volume", "folder", "name", "since", "kind", "size", "mode", "mtime_ns", "digest", "target"),
)
FIRST_FOLDER, LAST_FOLDER = "\x01", b""  # all folders but the top: to SQLite any text is less than any bytes
ALL = {"folder": "", "name": "", "limit": -1}  # the page that has everything
CHANGE_BYTES = 300  # of a row and its indexes, for how large a write is

_encode = msgspec.msgpack.Encoder().encode
_version = msgspec.msgpack.Decoder(Version).decode
_committed = msgspec.msgpack.Decoder(Committed).decode


class _Head(NamedTuple):
    """The row of a volume."""

    number: int
    version: int
    files: int
    size: int
    updated_at_ms: int


NEW = _Head(0, 0, 0, 0, 0)  # a volume without a version


class _Rows:
    """What `core.volumes.merge` asks, answered from the tables. Row numbers are kept for what is ended."""

    def __init__(self, db: sqlite3.Connection, volume: int) -> None:
        self._db = db
        self._volume = volume
        self.numbers: dict[str, int] = {}

    def newest(self, path: str) -> Row | None:
        if not self._volume:
            return None  # it has no version yet
        folder, _, name = path.rpartition("/")
        found = self._db.execute(SQL["newest"], (self._volume, folder, name)).fetchone()
        return self.read(found) if found else None

    def below(self, folder: str) -> Iterable[Row]:
        where = {"volume": self._volume, "folder": folder}
        return [self.read(row) for row in self._db.execute(SQL["below"], where).fetchall()]

    def read(self, row: Sequence[Any]) -> Row:
        """A row, its number noted."""
        found = _row(row)
        self.numbers[found.entry.path] = row[0]
        return found


def _row(row: Sequence[Any]) -> Row:
    _, folder, name, since, until, kind, size, mode, mtime_ns, digest, target = row
    entry = Entry(
        path=f"{folder}/{name}" if folder else name,
        kind=Kind(kind),
        size=size,
        mode=mode,
        mtime_ns=mtime_ns,
        digest=digest.hex(),
        target=target,
    )
    return Row(entry, since, until)


def _head(db: sqlite3.Connection, volume_id: str) -> _Head:
    row = db.execute(SQL["head"], {"volume_id": volume_id}).fetchone()
    return _Head(*row) if row else NEW


def _repeated(db: sqlite3.Connection, head: _Head, key: str) -> Committed | None:
    if not key or not head.number:
        return None
    row = db.execute(SQL["answer"], {"volume": head.number, "key": key}).fetchone()
    return _committed(row[0]) if row else None


def commit(db: sqlite3.Connection, request: Commit) -> Committed:
    """`VolumeStore.commit`."""
    head = _head(db, request.volume_id)
    repeated = _repeated(db, head, request.key)
    if repeated is not None:
        return repeated
    _check_version(request.volume_id, request.base, head.version)
    volumes.check_changes(request.puts, request.removes, request.changes_max)
    rows = _Rows(db, head.number)
    delta = volumes.merge(rows, request.base, request.puts, request.removes, new_only=request.new_only)
    if delta.is_empty:
        return Committed(version=head.version, changed=False)
    _add_contents(db, request.workspace, request.contents)
    return _apply(db, head, request, delta, rows, restored=None)


def restore(db: sqlite3.Connection, request: Restore) -> Committed:
    """`VolumeStore.restore`."""
    head = _head(db, request.volume_id)
    repeated = _repeated(db, head, request.key)
    if repeated is not None:
        return repeated
    _check_version(request.volume_id, request.version, head.version)
    where = {"volume_id": request.volume_id, "version": request.version}
    if request.version and not db.execute(SQL["version"], where).fetchone():
        raise NotFoundError(f"version {request.version} of volume {request.volume_id[:64]} is gone")
    rows = _Rows(db, head.number)
    where = {"volume": head.number, "old": request.version, "new": head.version, **ALL}
    begins = {row.entry.path: row.entry for row in map(_row, db.execute(SQL["ended"], where).fetchall())}
    ends = {row.entry.path: row for row in map(rows.read, db.execute(SQL["begun"], where).fetchall())}
    for path in [path for path, row in ends.items() if path in begins and volumes.same(row.entry, begins[path])]:
        del ends[path], begins[path]
    delta = Delta(ends, begins, [])
    if delta.is_empty:
        return Committed(version=head.version, changed=False)
    return _apply(db, head, request, delta, rows, restored=request.version)


def _check_version(volume_id: str, version: int, newest: int) -> None:
    if not 0 <= version <= newest:
        raise NotFoundError(f"volume {volume_id[:64]} has no version {version}", hint=f"its newest version is {newest}")


def _apply(
    db: sqlite3.Connection, head: _Head, request: Commit | Restore, delta: Delta, rows: _Rows, *, restored: int | None
) -> Committed:
    before = Version(version=head.version, parent=0, at_ms=0, files=head.files, size=head.size)
    version = volumes.next_version(before, delta, at_ms=request.at_ms, message=request.message, restored=restored)
    committed = Committed(
        version=version.version,
        puts=version.puts,
        removes=version.removes,
        conflicts=tuple(delta.conflicts[:CONFLICTS_MAX]),
        conflict_count=len(delta.conflicts),
    )
    row: dict[str, Any] = {"volume_id": request.volume_id, "version": version.version}
    row |= {"files": version.files, "size": version.size}
    row |= {"updated_at_ms": request.at_ms, "workspace": getattr(request, "workspace", WORKSPACE)}
    (number,) = db.execute(SQL["put_head"], row).fetchall()[0]
    numbers = rows.numbers
    db.executemany(SQL["end"], [(version.version, numbers[path]) for path in delta.ends])
    INSERT_ENTRIES(db, [_columns(number, version.version, entry) for entry in delta.begins.values()])
    record = {"version": version.version, "record": _encode(version), "answer": _encode(committed)}
    db.execute(SQL["add_version"], {**record, "volume": number, "key": request.key})
    return committed


def _columns(volume: int, since: int, entry: Entry) -> tuple[Any, ...]:
    folder, _, name = entry.path.rpartition("/")
    digest = bytes.fromhex(entry.digest)
    kind = entry.kind.value
    return volume, folder, name, since, kind, entry.size, entry.mode, entry.mtime_ns, digest, entry.target


def _add_contents(db: sqlite3.Connection, workspace: str, contents: Sequence[Content]) -> None:
    small = [content for content in contents if content.size < BLOCK_BYTES]
    INSERT_CONTENTS(db, [(workspace, bytes.fromhex(one.digest), one.size, one.blocks) for one in small])
    for content in contents:
        if content.size < BLOCK_BYTES:
            continue
        row = {"workspace": workspace, "digest": bytes.fromhex(content.digest), "size": content.size}
        added = db.execute(SQL["add_content"], {**row, "blocks": content.blocks}).fetchall()
        whole = content.size // BLOCK_BYTES
        if added and whole:
            ((number,),) = added
            db.executemany(SQL["add_block"], [(workspace, content.block(i), number, i) for i in range(whole)])


def prune(db: sqlite3.Connection, request: tuple[str, Sequence[int]]) -> int:
    """`VolumeStore.prune`."""
    volume_id, versions = request
    head = _head(db, volume_id)
    numbers = [(head.number, version) for version in versions if version != head.version]
    dropped = sum(db.execute(SQL["prune"], row).rowcount for row in numbers)
    if dropped:
        db.execute(SQL["note_pruned"], (head.number,))
    return dropped


def keep(db: sqlite3.Connection, request: tuple[str, Retention | None]) -> None:
    """`VolumeStore.keep`."""
    volume_id, retention = request
    if retention is None:
        db.execute(SQL["keep_as_all"], (volume_id,))
    else:
        db.execute(SQL["keep"], {"volume_id": volume_id, **msgspec.structs.asdict(retention)})


def delete(db: sqlite3.Connection, volume_id: str) -> bool:
    """`VolumeStore.delete`."""
    db.execute(SQL["keep_as_all"], (volume_id,))
    return db.execute(SQL["delete"], {"volume_id": volume_id}).rowcount > 0


def sweep(db: sqlite3.Connection, limit: int) -> int:
    """`VolumeStore.sweep`."""
    dropped = db.execute(SQL["sweep_entries"], {"limit": limit}).rowcount
    db.execute(SQL["sweep_versions"])
    while dropped < limit and (row := db.execute(SQL["pruned"]).fetchone()):
        where = {"volume": row[0], "limit": limit - dropped}
        count = db.execute(SQL["sweep_pruned"], where).rowcount
        if count < where["limit"]:
            db.execute(SQL["forget_pruned"], row)
        dropped += count
    return dropped


def forget_contents(db: sqlite3.Connection, request: tuple[str, Sequence[str]]) -> None:
    """`VolumeStore.forget_contents`."""
    workspace, digests = request
    for digest in map(bytes.fromhex, digests):
        row = db.execute(SQL["content"], (workspace, digest)).fetchone()
        if row and not db.execute(SQL["referenced"], (digest, workspace)).fetchone():
            db.execute(SQL["forget_blocks"], (row[0],))
            db.execute(SQL["forget_content"], (row[0],))


COMMIT = Write(one_by_one(commit), rank=40, grows=True)
RESTORE = Write(one_by_one(restore), rank=41, grows=True)
DELETE = Write(one_by_one(delete), rank=42)
KEEP = Write(one_by_one(keep), rank=43, grows=True)
PRUNE = Write(one_by_one(prune), rank=44)
SWEEP = Write(one_by_one(sweep), rank=60)
FORGET_CONTENTS = Write(one_by_one(forget_contents), rank=61)


class SqliteVolumes:
    """`ports.volumes.VolumeStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def commit(self, commit: Commit) -> Committed:
        size = CHANGE_BYTES * (len(commit.puts) + len(commit.removes)) + sum(len(c.blocks) for c in commit.contents)
        return await self._writer.submit(COMMIT, commit, size=size)

    async def restore(self, restore: Restore) -> Committed:
        return await self._writer.submit(RESTORE, restore)

    async def delete(self, volume_id: str) -> bool:
        return await self._writer.submit(DELETE, volume_id)

    async def prune(self, volume_id: str, versions: Sequence[int]) -> int:
        return await self._writer.submit(PRUNE, (volume_id, versions))

    async def retention(self, volume_id: str) -> Retention | None:
        row = await self._reader.ask(lambda db: db.execute(SQL["retention"], (volume_id,)).fetchone())
        return Retention(versions=row[0], days=row[1]) if row else None

    async def keep(self, volume_id: str, retention: Retention | None) -> None:
        await self._writer.submit(KEEP, (volume_id, retention))

    async def sweep(self, *, limit: int = 10_000) -> int:
        return await self._writer.submit(SWEEP, limit)

    async def forget_contents(self, workspace: str, digests: Sequence[str]) -> None:
        await self._writer.submit(FORGET_CONTENTS, (workspace, digests))

    async def heads(self, volume_ids: Sequence[str]) -> list[Head]:
        def read(db: sqlite3.Connection) -> list[Head]:
            found = [(volume_id, _head(db, volume_id)) for volume_id in volume_ids]
            return [
                Head(volume_id=id_, version=h.version, files=h.files, size=h.size, updated_at_ms=h.updated_at_ms)
                for id_, h in found
            ]

        return await self._reader.ask(read)

    async def version(self, volume_id: str, version: int) -> Version | None:
        if version == 0:
            return Version(version=0, parent=0, at_ms=0)
        where = {"volume_id": volume_id, "version": version}
        row = await self._reader.ask(lambda db: db.execute(SQL["version"], where).fetchone())
        return _version(row[0]) if row else None

    async def history(self, volume_id: str, *, before: int | None = None, limit: int = 100) -> list[Version]:
        where = {"volume_id": volume_id, "before": (1 << 62) if before is None else before, "limit": limit}
        rows = await self._reader.ask(lambda db: db.execute(SQL["history"], where).fetchall())
        return [_version(row[0]) for row in rows]

    async def entry(self, volume_id: str, version: int, path: str) -> Entry | None:
        folder, name = volumes.split(path)

        def read(db: sqlite3.Connection) -> Entry | None:
            volume = _head(db, volume_id).number
            where = {"volume": volume, "version": version, "folder": folder, "name": name}
            rows = db.execute(SQL["entry"], where).fetchall()
            return _row(rows[0]).entry if rows else None

        return await self._reader.ask(read)

    async def entries(
        self,
        volume_id: str,
        version: int,
        folder: str = "",
        *,
        recursive: bool = False,
        after: str = "",
        limit: int = 1_000,
    ) -> list[Entry]:
        request = (version, folder, recursive, after, limit)
        return await self._reader.ask(lambda db: _entries(db, _head(db, volume_id).number, *request))

    async def diff(self, volume_id: str, old: int, new: int, *, after: str = "", limit: int = LIST_MAX) -> Diff:
        return await self._reader.ask(lambda db: _diff(db, _head(db, volume_id).number, old, new, after, limit))

    async def known(self) -> list[str]:
        rows = await self._reader.ask(lambda db: db.execute(SQL["known"]).fetchall())
        return [row[0] for row in rows]

    async def contents(self, workspace: str, digests: Sequence[str]) -> list[Content]:
        def read(db: sqlite3.Connection) -> list[Content]:
            found = ((d, db.execute(SQL["content"], (workspace, bytes.fromhex(d))).fetchone()) for d in digests)
            return [Content(digest=digest, size=row[1], blocks=row[2]) for digest, row in found if row]

        return await self._reader.ask(read)

    async def blocks(self, workspace: str, blocks: Sequence[bytes]) -> dict[bytes, Block]:
        def read(db: sqlite3.Connection) -> dict[bytes, Block]:
            found = ((block, db.execute(SQL["block"], (workspace, block)).fetchone()) for block in blocks)
            return {block: Block(row[0].hex(), row[1]) for block, row in found if row}

        return await self._reader.ask(read)

    async def referenced(self, workspace: str, digests: Sequence[str]) -> set[str]:
        def read(db: sqlite3.Connection) -> set[str]:
            return {d for d in digests if db.execute(SQL["referenced"], (bytes.fromhex(d), workspace)).fetchone()}

        return await self._reader.ask(read)


def _diff(db: sqlite3.Connection, volume: int, old: int, new: int, after: str, limit: int) -> Diff:
    """A page of paths that began or ended. One that did both is in both lists, as both are in order."""
    folder, name = volumes.split(after)
    where: dict[str, Any] = {"volume": volume, "old": min(old, new), "new": max(old, new)}
    where |= {"folder": folder, "name": name, "limit": limit + 1}
    begun, ended = ([_row(row).entry for row in db.execute(SQL[query], where)] for query in ("begun", "ended"))
    before, there = (ended, begun) if old <= new else (begun, ended)
    earlier, later = ({entry.path: entry for entry in entries} for entries in (before, there))
    found = sorted({*earlier, *later}, key=volumes.split)
    paths = found[:limit]
    puts = [later[p] for p in paths if p in later and not (p in earlier and volumes.same(earlier[p], later[p]))]
    return Diff(puts, [path for path in paths if path not in later], paths[-1] if len(found) > limit else "")


def _entries(
    db: sqlite3.Connection, volume: int, version: int, folder: str, recursive: bool, after: str, limit: int
) -> list[Entry]:
    """First those of the folder itself, by name; then those of the folders below it, by folder and name."""
    after_folder, after_name = volumes.split(after)
    where = {"volume": volume, "version": version}
    found: list[Entry] = []
    if not after or after_folder == folder:
        here = {**where, "folder": folder, "name": after_name, "limit": limit}
        found = [_row(row).entry for row in db.execute(SQL["in_folder"], here).fetchall()]
        after_folder = after_name = ""
    if recursive and len(found) < limit:
        first, last = (f"{folder}/", f"{folder}0") if folder else (FIRST_FOLDER, LAST_FOLDER)
        below = {"first": first, "last": last, "folder": after_folder, "name": after_name}
        rows = db.execute(SQL["in_folders"], {**where, **below, "limit": limit - len(found)}).fetchall()
        found += [_row(row).entry for row in rows]
    return found
