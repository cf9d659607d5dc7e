"""A full disk: what grows is refused, what ends or frees something goes on, and nothing acknowledged is lost."""

import asyncio
import errno
import os
import subprocess

import pytest

from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.drivers.logs.files import LogFiles
from jitney.drivers.store.sqlite import SqliteStore, ballast, inspect
from jitney.errors import StorageFullError
from jitney.ports.store import Result
from jitney.testing.conformance.logs import APP, lines
from jitney.testing.conformance.store import call, call_id, inputs, result
from jitney.values.apps import AppRecord
from jitney.values.calls import Output


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 12 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_what_grows_and_goes_on_with_the_rest(small_disk, monkeypatch):
    monkeypatch.setattr(ballast, "RETRY_SECONDS", 0.0)
    path, filler = small_disk / "store.sqlite", small_disk / "filler"
    filler.write_bytes(bytes(4 * 1024 * 1024))

    async def fill(store, number):
        """Spawn until the disk is full: how many were acknowledged."""
        while True:
            try:
                await store.calls.spawn(call(number), inputs(number, 0, 4, b"P" * 15_000))
            except StorageFullError:
                return number
            number += 1

    async def story():
        store = SqliteStore(path, ballast_bytes=1024 * 1024)
        assert (small_disk / "store.sqlite.ballast").stat().st_size == 1024 * 1024
        acked = await fill(store, 0)
        assert acked > 10
        assert not (small_disk / "store.sqlite.ballast").exists()
        assert store.healthy()
        assert "full" in store.problem()
        # What ends or frees something goes on.
        assert await store.calls.finish([Result(call_id(0), Output(i, 1, b"Pr"), 5) for i in range(4)]) == [True] * 4
        assert await store.calls.cancel(call_id(1), 6) == [0, 1, 2, 3]
        assert (await store.calls.expire(6)).count == 4
        assert (await store.calls.forget(7)).count == 2
        with pytest.raises(StorageFullError):
            await store.apps.put([AppRecord(app_id="ap-1")])
        assert len(await store.calls.recent(limit=10_000)) == acked - 2
        # Room again: it goes on by itself.
        filler.unlink()
        await store.calls.spawn(call(acked), inputs(acked, 0, 1))
        assert store.problem() == ""
        assert (small_disk / "store.sqlite.ballast").exists()
        # Full again, and then killed.
        acked = await fill(store, acked + 1)
        await store.close()
        return acked

    acked = asyncio.run(story())

    async def after():
        store = SqliteStore(path, ballast_bytes=1024 * 1024)
        found = {record.call_id for record in await store.calls.recent(limit=10_000)}
        await store.close()
        return found

    assert asyncio.run(after()) == {call_id(number) for number in range(2, acked)}
    assert inspect(path)[1] == ""


def fill_disk(path):
    """Take all the room there is."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(file, bytes(4096)):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(file)


def test_a_store_opens_on_a_full_disk(small_disk):
    path = small_disk / "store.sqlite"

    async def story():
        store = SqliteStore(path, ballast_bytes=1024 * 1024)
        await store.calls.spawn(call(1), inputs(1, 0, 2))
        await store.close()
        fill_disk(small_disk / "filler")
        store = SqliteStore(path, ballast_bytes=1024 * 1024)
        assert await store.calls.finish([result(1, 0)]) == [True]
        with pytest.raises(StorageFullError):
            await store.calls.spawn(call(2), inputs(2, 0, 1))
        await store.close()

    asyncio.run(story())


def test_blobs_on_a_full_disk_are_whole_or_not_there(small_disk):
    async def story():
        blobs = LocalBlobs(small_disk / "blobs")
        kept = await blobs.put([b"kept"])
        with pytest.raises(StorageFullError):
            await blobs.put([bytes([n]) * 1024 * 1024 for n in range(20)])
        assert await blobs.missing(kept) == []
        assert [path.name for path in (small_disk / "blobs").iterdir()] == kept
        await blobs.put([b"room again"])

    asyncio.run(story())


def test_log_lines_on_a_full_disk_are_counted(small_disk):
    async def story():
        logs = LogFiles(small_disk / "logs")
        await logs.append(APP, lines(0, 10))
        fill_disk(small_disk / "filler")
        for first in range(10, 10_010, 1_000):
            await logs.append(APP, lines(first, 1_000))
        (small_disk / "filler").unlink()
        await logs.append(APP, lines(20_000, 1))
        found = (await logs.read(APP)).lines
        await logs.close()
        return found

    found = asyncio.run(story())
    kept = [line for line in found if line.fd]
    [note] = [line for line in found if not line.fd]
    assert kept == lines(0, len(kept) - 1) + lines(20_000, 1)
    assert f"{10_010 - (len(kept) - 1):,} lines were dropped here" in note.text
