"""What is on the disk is doubted before anything is written: what does not fit is refused, and left as it is."""

import asyncio
import fcntl
import os
import sqlite3
import subprocess
import sys

import pytest

from jitney.drivers.store.sqlite import SqliteStore, database, inspect
from jitney.errors import AlreadyExistsError, StorageCorruptError, StorageError, VersionError
from jitney.testing.conformance.store import call, call_id, inputs

# Released migrations are never edited: an installed store has them, and a change would not reach it.
CHECKSUMS = {
    1: "2efc1ec433e17251b61ca40bebdec037d85a56afa77d459d854c13d4415fd3dc",
    2: "9de7288d7830e5647698d27dae2390e0ff8424ba8fefc26db831911044b4d3dd",
    3: "d0da15044baafc391269dbb6c5e6bb55ebcc84122b5f53780beccd240dcedffa",
    4: "3744e165f9c04dba8303129b4ca4e2d069d245086e74a362f3985be3f550b243",
    5: "e110fc73c94a5d5c5a789fb16330d2abe4feaeecfb7804f3e9aef03c572f2f19",
}


def open_store(path):
    return SqliteStore(path, ballast_bytes=0)


@pytest.fixture
def path(tmp_path):
    """A store with 50 calls of 3 inputs, closed."""
    path = tmp_path / "store.sqlite"

    async def fill():
        store = open_store(path)
        for number in range(50):
            await store.calls.spawn(call(number), inputs(number, 0, 3, b"P" * 500))
        await store.close()

    asyncio.run(fill())
    return path


@pytest.fixture
def killed(path, tmp_path):
    """The same store as a kill leaves it: 20 more calls, which are in the log only."""
    copy = tmp_path / "killed"
    copy.mkdir()

    async def copy_while_open():
        store = open_store(path)
        for number in range(50, 70):
            await store.calls.spawn(call(number), inputs(number, 0, 3, b"P" * 500))
        for name in ("", "-wal", ".acked"):
            file = path.with_name(path.name + name)
            (copy / file.name).write_bytes(file.read_bytes())
        await store.close()

    asyncio.run(copy_while_open())
    return copy / path.name


def refused(path, kind=StorageCorruptError, says=None):
    """Opening raises, with a way out, and changes nothing."""
    ours = [file for file in path.parent.glob(path.name + "*") if not file.name.endswith((".lock", "-shm"))]
    before = {file: file.read_bytes() for file in ours}
    with pytest.raises(kind, match=says) as caught:
        open_store(path)
    assert caught.value.hint
    assert {file: file.read_bytes() for file in before} == before
    return caught.value


def test_a_closed_store_opens_again_with_its_identity(path):
    async def story():
        first = open_store(path)
        meta = await first.meta()
        await first.close()
        second = open_store(path)
        again = await second.meta()
        assert (await second.calls.get(call_id(49))).inputs == 3
        await second.close()
        return meta, again

    meta, again = asyncio.run(story())
    assert (again.server_id, again.schema_version) == (meta.server_id, meta.schema_version)
    assert (meta.boot, again.boot) == (2, 3)
    assert inspect(path) == (f"{path}: {path.stat().st_size:,} bytes, schema {meta.schema_version}, 50 calls", "")


def test_a_store_that_was_killed_opens_with_all_that_was_acknowledged(killed):
    async def story():
        store = open_store(killed)
        found = len(await store.calls.recent(limit=100))
        await store.close()
        return found

    assert asyncio.run(story()) == 70


@pytest.mark.parametrize("where", [0, 16, 4_100, 40_000])
def test_a_damaged_file_is_refused_with_what_to_do(path, where):
    with path.open("r+b") as file:
        file.seek(where)
        file.write(os.urandom(3_000))
    error = refused(path)
    assert str(path) in error.message
    assert "jitney doctor" in error.hint
    assert "aside" in error.hint
    assert inspect(path)[1]


def test_a_cut_off_file_is_refused(path):
    os.truncate(path, path.stat().st_size // 2)
    refused(path)


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("hello\n" * 1_000)
    refused(path, says="not a database")


def test_a_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE cookies (a)")
    other.commit()
    other.close()
    refused(path, says="another program")


@pytest.mark.parametrize("harm", ["removed", "emptied"])
def test_a_store_that_is_gone_is_not_made_anew(path, harm):
    path.unlink()
    if harm == "emptied":
        path.touch()
    with pytest.raises(StorageCorruptError, match="gone"):
        open_store(path)
    assert not path.exists() or path.stat().st_size == 0


@pytest.mark.parametrize("kept", [0, 0.3, 0.8])
def test_a_log_that_was_cut_off_is_refused(killed, kept):
    """SQLite itself takes what is whole and goes on, without a word."""
    log = killed.with_name(killed.name + "-wal")
    os.truncate(log, int(log.stat().st_size * kept))
    with pytest.raises(StorageCorruptError, match="lacks its last") as caught:
        open_store(killed)
    assert ".acked" in caught.value.hint


def test_a_log_that_was_removed_is_refused_until_somebody_decides(killed):
    killed.with_name(killed.name + "-wal").unlink()
    with pytest.raises(StorageCorruptError, match="lacks its last 21 acknowledged"):
        open_store(killed)
    killed.with_name(killed.name + ".acked").unlink()
    asyncio.run(open_store(killed).close())


def test_a_newer_schema_is_refused(path):
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO migrations VALUES (9999, 'future', 'x')")
    db.close()
    refused(path, VersionError, "newer Jitney")


def test_a_migration_that_was_edited_is_refused(path):
    with sqlite3.connect(path) as db:
        db.execute("UPDATE migrations SET checksum = 'x'")
    db.close()
    refused(path, says="schema step 1")


def test_released_migrations_are_as_they_were():
    assert {step.version: step.checksum for step in database.migrations()} == CHECKSUMS


def test_a_second_opener_is_refused_and_the_first_goes_on(path):
    async def story():
        first = open_store(path)
        with pytest.raises(AlreadyExistsError, match=f"process {os.getpid()}"):
            open_store(path)
        script = (
            "import sys; from pathlib import Path; from jitney.drivers.store.sqlite import SqliteStore\n"
            "try: SqliteStore(Path(sys.argv[1]))\n"
            "except Exception as error: print(type(error).__name__)"
        )
        other = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        )
        await first.calls.spawn(call(99), [])
        await first.close()
        await open_store(path).close()
        return other.stdout.strip()

    assert asyncio.run(story()) == "AlreadyExistsError"


def test_a_folder_that_cannot_be_used_is_said_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be used"):
        open_store(tmp_path / "file" / "store.sqlite")


def test_files_are_private(path):
    async def story():
        store = open_store(path)
        await store.calls.spawn(call(99), [])
        modes = {file.name: file.stat().st_mode & 0o077 for file in path.parent.glob("store*")}
        await store.close()
        return modes

    modes = asyncio.run(story())
    assert len(modes) >= 5
    assert set(modes.values()) == {0}


def test_a_failed_opening_lets_go_of_the_lock(path):
    path.write_text("hello\n" * 1_000)
    refused(path)
    with path.with_name(path.name + ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
