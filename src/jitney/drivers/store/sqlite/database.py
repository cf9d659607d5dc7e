"""Opening a store: every doubt about what is on the disk is settled here, before anything is written.

In this order: nobody else has it open (a lock file, held while open); the file is there if it ever was; it is SQLite,
whole, and ours; its schema is not newer than this program; its migrations are those that were applied; it has every
commit that was acknowledged (see mark). Whatever does not fit is refused with what to do. Nothing is made anew unless
nothing was there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jitney.drivers.store.sqlite import faults, queries
from jitney.drivers.store.sqlite.ballast import Ballast
from jitney.drivers.store.sqlite.faults import Fault
from jitney.drivers.store.sqlite.mark import Mark
from jitney.errors import AlreadyExistsError, StorageCorruptError, StorageError, VersionError
from jitney.ports.store import StoreMeta

APPLICATION_ID = 0x4A49544E  # "JITN", in the header of the file
SQLITE_MIN = (3, 37, 0)  # STRICT tables
QUICK_CHECK_BYTES_MAX = 256 * 1024 * 1024  # a larger file is checked by `jitney doctor`, not at every start
BUSY_MS = 5_000
LOG_BYTES_MAX = 64 * 1024 * 1024  # the log is cut back to this when it begins anew
AUTOCHECKPOINT_PAGES = 10_000  # the writer does it earlier, between groups; this is for when it cannot
CACHE_KIB = 16 * 1024
STATEMENTS_CACHED = 256

COMMITS, SERVER_ID, BOOT = "commits", "server_id", "boot"  # keys of the table `meta`

_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One step of the schema. Never edited once released: its checksum is recorded where it was applied."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class Database:
    """An open store."""

    path: Path
    writing: sqlite3.Connection
    reading: sqlite3.Connection
    meta: StoreMeta
    mark: Mark
    ballast: Ballast
    lock: int

    def close(self) -> None:
        """Move the log into the file, and let go of everything. The threads have ended."""
        self.reading.close()
        try:
            self.writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            pass  # what is in the log is safe there
        self.writing.close()
        self.mark.close()
        os.close(self.lock)


def migrations() -> list[Migration]:
    """The steps that this program knows, in order."""
    found = []
    for file in resources.files(__package__).joinpath("migrations").iterdir():
        match = _MIGRATION.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def open_database(
    path: Path, *, ballast_bytes: int, connection: type[sqlite3.Connection] = sqlite3.Connection
) -> Database:
    """Open the store at `path`, or make it if nothing ever was there.

    Raises:
        AlreadyExistsError: another process has it open.
        StorageCorruptError: the file is damaged, not ours, gone, or lacks acknowledged commits.
        VersionError: a newer Jitney made it, or the system's SQLite is too old.
        StorageFullError: the disk is full even without the ballast.
        StorageError: the disk fails.
    """
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise VersionError(
            f"SQLite {sqlite3.sqlite_version} is too old: the store needs {'.'.join(map(str, SQLITE_MIN))}",
            hint="use a Python with a newer one: `uv python install 3.11` brings it",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(path)
    except OSError as error:
        raise StorageError(f"the folder of {path} cannot be used: {error}") from None
    mark = Mark(path.with_name(path.name + ".acked"))
    ballast = Ballast(path.with_name(path.name + ".ballast"), ballast_bytes)
    connections: list[sqlite3.Connection] = []
    try:
        _check_present(path, mark)
        try:
            return _open(path, lock, mark, ballast, connection, connections)
        except sqlite3.Error as error:
            if faults.classify(error, path) is not Fault.FULL:
                raise
            ballast.release()  # what was begun is undone by opening again
            _close(connections)
            return _open(path, lock, mark, ballast, connection, connections)
    except BaseException as error:
        _close(connections)
        mark.close()
        os.close(lock)
        if isinstance(error, sqlite3.Error):
            raise _explain(error, path) from None
        raise


def _open(
    path: Path,
    lock: int,
    mark: Mark,
    ballast: Ballast,
    connection: type[sqlite3.Connection],
    connections: list[sqlite3.Connection],
) -> Database:
    writing = _connect(path, connection)
    connections.append(writing)
    _check_ours(writing, path)
    _check_whole(writing, path)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"journal_size_limit = {LOG_BYTES_MAX}",
                   f"wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}"):  # fmt: skip
        writing.execute(f"PRAGMA {pragma}").fetchall()
    version = _migrate(writing, path)
    meta, commits = _begin_boot(writing, path, mark, version)
    reading = _connect(path, connection)
    connections.append(reading)
    reading.execute("PRAGMA query_only = ON")
    mark.open(meta.server_id, commits)
    if not ballast.held:
        ballast.hold()
    return Database(path, writing, reading, meta, mark, ballast, lock)


def inspect(path: Path) -> tuple[str, str]:
    """(what it is, what is wrong or '') of a store, read only and in full; it may be in use meanwhile."""
    if not path.exists():
        return f"{path}: not there", ""
    what = f"{path}: {path.stat().st_size:,} bytes"
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            _check_ours(db, path)
            found = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
            if found != ["ok"]:
                return what, "; ".join(found)
            version = max(_applied(db), default=0)
            (calls,) = db.execute("SELECT count(*) FROM calls").fetchone()
            return f"{what}, schema {version}, {calls:,} calls", ""
        finally:
            db.close()
    except sqlite3.Error as error:
        return what, faults.describe(error)
    except StorageCorruptError as error:
        return what, error.message


def key_ids(path: Path) -> set[str]:
    """The keys that secrets of a store are encrypted with; it may be in use meanwhile. What cannot be read has none:
    `inspect` says why."""
    if not path.exists():
        return set()
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return {row[0] for row in db.execute("SELECT DISTINCT key_id FROM secrets")}
    except sqlite3.Error:
        return set()


def _lock(path: Path) -> int:
    """A lock of our own: SQLite's are let go between transactions, and two servers would take turns."""
    name = path.with_name(path.name + ".lock")
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(file, 32, 0).decode("ascii", "replace").strip()
        os.close(file)
        raise AlreadyExistsError(
            f"another server (process {holder or 'unknown'}) uses {path}",
            hint="stop it, or set JITNEY_HOME to another folder",
        ) from None
    os.pwrite(file, f"{os.getpid()}".ljust(32).encode(), 0)
    return file


def _check_present(path: Path, mark: Mark) -> None:
    """Make the file if nothing ever was there; SQLite itself would make it in any case."""
    if path.exists() and path.stat().st_size:
        return
    log = path.with_name(path.name + "-wal")
    if mark.read() or (log.exists() and log.stat().st_size):
        raise faults.corrupt(path, "the file is gone or empty, and its companions are still there")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, connection: type[sqlite3.Connection]) -> sqlite3.Connection:
    db = sqlite3.connect(
        path,
        isolation_level=None,  # transactions begin and end where we say so
        check_same_thread=False,  # opened here, used by one thread
        cached_statements=STATEMENTS_CACHED,
        factory=connection,
    )
    for pragma in (f"busy_timeout = {BUSY_MS}", f"cache_size = -{CACHE_KIB}", "temp_store = MEMORY",
                   "secure_delete = FAST", "trusted_schema = OFF"):  # fmt: skip
        db.execute(f"PRAGMA {pragma}").fetchall()
    return db


def _check_ours(db: sqlite3.Connection, path: Path) -> None:
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise faults.corrupt(path, "it is a database of another program")


def _check_whole(db: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size > QUICK_CHECK_BYTES_MAX:
        return
    found = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise faults.corrupt(path, "; ".join(found))


def _migrate(db: sqlite3.Connection, path: Path) -> int:
    """Apply what is missing, each step in a transaction: the version of the schema then."""
    known = migrations()
    applied = _applied(db)
    newest = max(applied, default=0)
    if newest > known[-1].version:
        raise VersionError(
            f"a newer Jitney made {path} (schema {newest}; this one knows {known[-1].version})",
            hint="install that version again, or set JITNEY_HOME to another folder",
        )
    for step in known:
        if step.version in applied:
            if applied[step.version] != step.checksum:
                raise faults.corrupt(path, f"its schema step {step.version} is not the one that this version has")
            continue
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(
                "CREATE TABLE IF NOT EXISTS migrations "
                "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT"
            )
            for statement in _statements(step.sql):
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, ?, ?)", (step.version, step.name, step.checksum))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    return known[-1].version


def _applied(db: sqlite3.Connection) -> dict[int, str]:
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone():
        return {}
    return dict(db.execute("SELECT version, checksum FROM migrations").fetchall())


def _statements(sql: str) -> Iterator[str]:
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _begin_boot(db: sqlite3.Connection, path: Path, mark: Mark, version: int) -> tuple[StoreMeta, int]:
    """Compare with the mark, then count this opening."""
    sql = queries.load("meta")
    row = db.execute(sql["get"], {"key": SERVER_ID}).fetchone()
    server_id = str(row[0]) if row else secrets.token_hex(16)
    row = db.execute(sql["get"], {"key": COMMITS}).fetchone()
    commits = int(row[0]) if row else 0
    noted = mark.read()
    if noted and noted[0] == server_id and noted[1] > commits:
        raise StorageCorruptError(
            f"{path} lacks its last {noted[1] - commits:,} acknowledged commits: its log ({path.name}-wal) was cut "
            "off or removed, or the file is an older copy",
            hint=f"bring the log back; or, to go on without them, remove {mark.path}",
        )
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(sql["put"], {"key": SERVER_ID, "value": server_id})
        (boot,) = db.execute(sql["grow"], {"key": BOOT}).fetchall()[0]
        (commits,) = db.execute(sql["grow"], {"key": COMMITS}).fetchall()[0]
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return StoreMeta(schema_version=version, server_id=server_id, boot=int(boot)), int(commits)


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


def _explain(error: sqlite3.Error, path: Path) -> Exception:
    match faults.classify(error, path):
        case Fault.FULL:
            return faults.full(path)
        case Fault.BUSY:
            return faults.busy(path)
        case Fault.DISK:
            return faults.failed(path, error)
        case _:
            return faults.corrupt(path, faults.describe(error))
