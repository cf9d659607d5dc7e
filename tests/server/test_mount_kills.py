"""A worker, and a container, are killed at each step of a commit: what was acknowledged is there, and all of it."""

import asyncio
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from jitney.drivers.contents.localdir import LocalContents
from jitney.drivers.store.sqlite import SqliteStore
from jitney.errors import JitneyError
from jitney.wire import codec, methods
from jitney.wire.home import Home
from tests.server.mounting_child import FILES, Worker
from tests.server.test_mounts import Served
from tests.server.test_volumes import World

CHILD = Path(__file__).with_name("mounting_child.py")
pytestmark = pytest.mark.chaos


class Server:
    """The server's part, on a disk; it lives."""

    def __init__(self, folder):
        self.home = Home(folder)
        folder.mkdir()
        store = SqliteStore(self.home.store, ballast_bytes=0)
        self.served = Served(World(store, LocalContents(self.home.volumes)))
        self.store = store

    async def answer(self, name, body):
        mounts = self.served.mounts
        handlers = {
            methods.VOLUME_HEADS: mounts.heads,
            methods.VOLUME_DIFF: mounts.diff,
            methods.VOLUME_COMMIT_WRITTEN: mounts.commit,
        }
        [(method, handle)] = [(method, handle) for method, handle in handlers.items() if method.name == name]
        return await handle(None, codec.decode(body, method.request), None)

    async def serve(self, connection):
        """Answer a worker until it has hung up."""
        reader, writer = await asyncio.open_connection(sock=connection)
        while line := await reader.readline():
            name, body = msgspec.json.decode(line, type=tuple[str, bytes])
            try:
                found = ["", codec.encode(await self.answer(name, body))]
            except JitneyError as error:
                found = [error.code, str(error).encode()]
            writer.write(msgspec.json.encode(found) + b"\n")
        writer.close()

    async def request(self, method, message):
        return codec.decode(codec.encode(await self.answer(method.name, codec.encode(message))), method.answer)

    async def versions(self, volume_id):
        """The files of each version, which are whole."""
        found = []
        newest = (await self.served.world.volumes.head(volume_id)).version
        for version in range(newest + 1):
            entries = await self.store.volumes.entries(volume_id, version, recursive=True)
            found.append(
                {
                    entry.path: bytes(await self.served.world.read(volume_id, entry.path, version)).decode()
                    for entry in entries
                    if entry.kind == "file"
                }
            )
        return found


async def run_worker(server, volume_id, stop_at):
    """A worker until its end: (its exit code, what it said)."""
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [str(CHILD), str(server.home.root), volume_id, str(theirs.fileno()), str(stop_at)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()]
        )
    await server.serve(ours)
    said, _ = await process.communicate()
    return process.returncode, said.decode().splitlines()


def numbers(files):
    """Of the files that are always written together; those that are there."""
    return {int(files[name]) for name in FILES if name in files}


async def killed_at(folder, stop_at):
    """Whether the worker died, what it said, and how many versions there are; all is as it should be."""
    server = Server(folder)
    try:
        volume_id = await server.served.world.volume()
        code, said = await run_worker(server, volume_id, stop_at)
        acknowledged = max([int(line.split()[1]) for line in said if line.startswith("commit")], default=0)
        versions = await server.versions(volume_id)
        assert all(len(numbers(files)) <= 1 for files in versions), versions
        assert max(numbers(versions[-1]), default=0) >= acknowledged
        await next_worker(server, volume_id, versions[-1])
        return code, said, len(versions)
    finally:
        await server.store.close()


async def next_worker(server, volume_id, newest):
    """It finds the newest version, and commits."""
    reports = []
    worker = Worker(server.home, server.request, reports.append)
    await worker.mounts.reap()
    assert worker.seen(await worker.start("ta-90", volume_id)) == newest
    worker.write("ta-90", 90)
    await worker.sync("ta-90")
    assert not reports[-1].code, reports
    assert worker.seen(await worker.start("ta-91", volume_id, read_only=True)) == newest | dict.fromkeys(FILES, "90")


def die_at_each_step(tmp_path, every):
    code, said, count = asyncio.run(killed_at(tmp_path / "count", 0))
    assert (code, count) == (0, 8)
    total = int(said[-1])
    assert total > 200

    async def some(first):
        found = []
        for stop_at in range(first, total + 1, 2 * every):
            code, _, count = await killed_at(tmp_path / f"at-{stop_at}", stop_at)
            assert code == -9
            found.append(count)
        return found

    async def all_of_them():
        return await asyncio.gather(some(1), some(1 + every))

    return set(chain(*asyncio.run(all_of_them())))


def test_a_worker_is_killed_at_some_steps_of_its_commits(tmp_path):
    assert len(die_at_each_step(tmp_path, 37)) > 4


@pytest.mark.slow
def test_a_worker_is_killed_at_each_step_of_its_commits(tmp_path):
    assert die_at_each_step(tmp_path, 1) == set(range(1, 9))
