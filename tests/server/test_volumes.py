"""Volumes at the server: nothing that a version refers to is ever collected, and nothing is half, whatever happens."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitney.core.volumes import whole
from jitney.drivers.contents.localdir import LocalContents
from jitney.drivers.contents.memory import MemoryContents
from jitney.drivers.store.memory import MemoryStore
from jitney.drivers.store.sqlite import SqliteStore, ballast
from jitney.errors import (
    InvalidError,
    JitneyError,
    NotFoundError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
)
from jitney.ports.contents import Part
from jitney.server.api.volumes import VolumesApi
from jitney.server.objects import Objects
from jitney.server.volume_keeping import GRACE_MS, INCOMING_MS
from jitney.server.volumes import Volumes
from jitney.testing.conformance.contents import parts, sample
from jitney.values.objects import ObjectKind
from jitney.values.volumes import BLOCK_BYTES, WORKSPACE, Content, Entry
from jitney.wire.messages import volumes as vm
from jitney.wire.messages.objects import ObjectOpen


class World:
    """The server's volumes on a store and contents, with a clock of its own."""

    def __init__(self, store=None, contents=None, *, start_ms=10_000_000_000_000, entropy=os.urandom):
        self.now_ms = start_ms
        self.tasks = []
        self.store = store or MemoryStore()
        self.contents = contents or MemoryContents(lambda: self.now_ms)
        self.objects = Objects(self.store, lambda: self.now_ms, entropy)
        self.volumes = Volumes(
            objects=self.objects,
            store=self.store,
            contents=self.contents,
            now_ms=lambda: self.now_ms,
            run=lambda work: self.tasks.append(asyncio.ensure_future(work)),
        )
        self.api = VolumesApi(volumes=self.volumes, objects=self.objects)

    async def volume(self, name="v"):
        request = ObjectOpen(kind=ObjectKind.VOLUME, name=name, create_if_missing=True)
        return (await self.objects.open(request)).object_id

    async def put(self, volume_id, path, data, **options):
        """What a client does."""
        content = whole(data)
        missing = await self.volumes.missing([content])
        await self.contents.put(WORKSPACE, [parts(data, content)[n] for n in missing.get(content.digest, [])])
        return await self.volumes.commit(volume_id, None, [entry_of(path, content)], [], **options)

    async def read(self, volume_id, path, version=None):
        request = vm.VolumeRead(volume_id=volume_id, path=path, version=version)
        return (await self.api.read(None, request, None)).data


def entry_of(path, content: Content, **changes):
    return Entry(path=path, size=content.size, digest=content.digest, blocks=content.blocks, **changes)


# ---------------------------------------------------------------------------------------------------- commits


def test_a_commit_whose_contents_are_not_here_is_refused():
    async def story():
        world = World()
        volume_id = await world.volume()
        with pytest.raises(NotFoundError, match="'a/b'"):
            await world.volumes.commit(volume_id, None, [entry_of("a/b", whole(b"x"))], [])
        for wrong in (
            Entry(path="a", size=5, digest=whole(b"x").digest, blocks=whole(b"x").blocks),
            Entry(path="a", size=1, digest=whole(b"y").digest, blocks=whole(b"x").blocks),
        ):
            await world.contents.put(WORKSPACE, [Part(whole(b"x").digest, 0, b"x")])
            with pytest.raises(InvalidError):
                await world.volumes.commit(volume_id, None, [wrong], [])
        return (await world.volumes.head(volume_id)).version

    assert asyncio.run(story()) == 0


def test_blocks_of_stored_files_are_not_asked_for_again():
    async def story():
        world = World()
        volume_id = await world.volume()
        data, _ = sample(3 * BLOCK_BYTES)
        await world.contents.begin(WORKSPACE, whole(data), {})
        await world.put(volume_id, "one", data)
        changed = whole(data[:BLOCK_BYTES] + os.urandom(BLOCK_BYTES) + data[2 * BLOCK_BYTES :])
        again = await world.volumes.missing([whole(data), changed])
        entry = await world.volumes.stat(volume_id, 1, "one")
        return again, entry.content == whole(data), changed.digest

    again, is_known, digest = asyncio.run(story())
    assert again == {digest: [1]}
    assert is_known


def test_two_writers_merge_and_the_later_one_is_told_of_conflicts():
    async def story():
        world = World()
        volume_id = await world.volume()
        await world.put(volume_id, "shared", b"0")

        async def write(number):
            data = b"%d" % number
            await world.contents.put(WORKSPACE, parts(data, whole(data)))
            puts = [entry_of(f"own-{number}", whole(data)), entry_of("shared", whole(data))]
            return await world.volumes.commit(volume_id, 1, puts, [])

        done = await asyncio.gather(*(write(number) for number in range(1, 9)))
        last = 1 + max(range(8), key=lambda n: done[n].version)
        assert sorted(one.version for one in done) == list(range(2, 10))
        assert sorted(one.conflict_count for one in done) == [0] + [1] * 7
        assert await world.read(volume_id, "shared") == b"%d" % last
        assert [await world.read(volume_id, f"own-{n}") for n in range(1, 9)] == [b"%d" % n for n in range(1, 9)]

    asyncio.run(story())


class Peer:
    def __init__(self, role):
        self.role = role


def test_containers_see_no_folder_and_delete_no_volume():
    async def story():
        world = World(contents=None)
        world.contents.folder = lambda workspace: Path("/somewhere")
        volume_id = await world.volume()
        ref = vm.VolumeRef(volume_id=volume_id)
        assert (await world.api.info(Peer("client"), ref, None)).folder == "/somewhere"
        assert (await world.api.info(Peer("container"), ref, None)).folder == ""
        with pytest.raises(PermissionDeniedError):
            await world.api.delete(Peer("container"), ref, None)
        await world.api.delete(Peer("client"), ref, None)
        with pytest.raises(NotFoundError):
            await world.volumes.head(volume_id)

    asyncio.run(story())


# ---------------------------------------------------------------------------------------------------- collecting


def test_what_no_version_has_is_collected_after_its_grace():
    async def story():
        world = World()
        kept, gone = await world.volume("kept"), await world.volume("gone")
        await world.put(kept, "a", b"first")
        await world.put(kept, "a", b"second")
        await world.put(gone, "b", b"of the deleted")
        await world.contents.put(WORKSPACE, parts(b"given up", whole(b"given up")))
        begun, content = sample(2 * BLOCK_BYTES)
        await world.volumes.missing([content])
        await world.objects.delete([await world.objects.find(gone, ObjectKind.VOLUME)])
        await asyncio.gather(*world.tasks)
        assert await world.volumes.collect() == 0
        world.now_ms += GRACE_MS + 1
        assert await world.volumes.collect() == 2
        assert (await world.read(kept, "a", 1), await world.read(kept, "a")) == (b"first", b"second")
        assert await world.contents.absent(WORKSPACE, [whole(b"given up").digest]) == [whole(b"given up").digest]
        assert await world.contents.begin(WORKSPACE, content, {}) == [0, 1]
        world.now_ms += INCOMING_MS + 1
        await world.volumes.collect()
        with pytest.raises(NotFoundError):
            await world.contents.put(WORKSPACE, [parts(begun, content)[0]])
        return await world.store.volumes.known() == [kept]

    assert asyncio.run(story())


def test_a_volume_that_was_deleted_as_the_server_died_goes_at_the_next_collection():
    async def story():
        world = World()
        volume_id = await world.volume()
        await world.put(volume_id, "a", b"x")
        await world.store.objects.delete([volume_id])  # and no more
        after = World(world.store, world.contents, start_ms=world.now_ms + GRACE_MS + 1)
        assert await after.volumes.collect() == 1
        assert await world.store.volumes.known() == []
        assert await world.store.volumes.contents(WORKSPACE, [whole(b"x").digest]) == []

    asyncio.run(story())


step = st.tuples(
    st.sampled_from(["put", "send", "blind", "ask", "remove", "restore", "delete", "collect", "collect"]),
    st.integers(0, 1),  # volume
    st.integers(0, 2),  # content
    st.integers(0, 8),  # turns of the loop before it begins
)
rounds = st.lists(st.lists(step, min_size=1, max_size=6), min_size=2, max_size=7)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds)
def test_nothing_that_a_version_has_is_ever_collected(story):
    """Writers and collectors at the same time, then the grace passes, and again: whatever was committed can be read, in
    every version. Writers send and commit, or send and give up, or commit what they believe to be there."""

    class Slow(MemoryContents):
        """Others get their turn around each step, as with a disk."""

        async def absent(self, *given):
            await asyncio.sleep(0)
            found = await super().absent(*given)
            await asyncio.sleep(0)
            return found

        async def old(self, *given, **options):
            found = await super().old(*given, **options)
            await asyncio.sleep(0)
            return found

        async def remove(self, *given):
            for _ in range(15):
                await asyncio.sleep(0)
            found = await super().remove(*given)
            await asyncio.sleep(0)
            return found

    async def run():
        world = World()
        world.contents = world.volumes._contents = Slow(lambda: world.now_ms)

        async def step(kind, number, content, turns):
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                volume_id = await world.volume(f"v{number}")
                data = b"%d" % content
                if kind == "put":
                    await world.put(volume_id, f"f{content % 2}", data)
                elif kind == "send":
                    await world.contents.put(WORKSPACE, parts(data, whole(data)))
                elif kind == "blind":
                    await world.volumes.commit(volume_id, None, [entry_of("blind", whole(data))], [])
                elif kind == "ask":
                    await world.volumes.missing([whole(data)])
                elif kind == "remove":
                    await world.volumes.remove(volume_id, f"f{content % 2}", recursive=False)
                elif kind == "restore":
                    await world.volumes.restore(volume_id, content)
                elif kind == "delete":
                    await world.objects.delete([await world.objects.find(volume_id, ObjectKind.VOLUME)])
                else:
                    await world.volumes.collect()
            except NotFoundError:
                pass  # a content that went before it was committed: its client sends it again

        for together in story:
            await asyncio.gather(*(step(*one) for one in together))
            await asyncio.gather(*world.tasks)
            world.now_ms += GRACE_MS + 1
        await world.volumes.collect()
        for number in range(2):
            volume_id = await world.volume(f"v{number}")
            newest = (await world.volumes.head(volume_id)).version
            for version in range(newest + 1):
                for entry in await world.store.volumes.entries(volume_id, version):
                    assert whole(await world.read(volume_id, entry.path, version)).digest == entry.digest
        left = await world.contents.old(world.now_ms + 1, limit=1_000)
        assert {one.digest for one in left} == await world.store.volumes.referenced(
            WORKSPACE, [one.digest for one in left]
        )

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("applied", [False, True])
def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_done_twice(applied):
    async def story():
        world = World()
        volume_id = await world.volume()
        await world.put(volume_id, "a", b"1")
        data = b"2"
        await world.contents.put(WORKSPACE, parts(data, whole(data)))
        failed = 0
        for nth in range(1, 10):
            key = f"key-{nth}"
            puts = [entry_of(f"f{nth}", whole(data))]
            world.store.fail(nth, StorageError("told so"), applied=applied)
            try:
                first = await world.volumes.commit(volume_id, None, puts, [], key=key)
            except StorageError:
                failed += 1
                first = await world.volumes.commit(volume_id, None, puts, [], key=key)
            world.store._faults.planned.clear()
            again = await world.volumes.commit(volume_id, None, puts, [], key=key)
            assert again == first
            assert first.version == nth + 1
        return failed

    assert asyncio.run(story()) >= 2


def test_a_full_disk_refuses_a_commit_at_each_step_and_keeps_what_was(small_disk, monkeypatch):
    """The disk is full as contents come, as they are named, and as the version is recorded."""
    monkeypatch.setattr(ballast, "RETRY_SECONDS", 0.0)

    async def story():
        store = SqliteStore(small_disk / "store.sqlite", ballast_bytes=256 * 1024)
        contents = LocalContents(small_disk / "volumes")
        world = World(store, contents)
        volume_id = await world.volume()
        kept = os.urandom(100_000)
        await world.put(volume_id, "kept", kept)
        refused = set()
        for room in (0, 3, 8, 20, 60, 200, 600, 2_000):  # KiB
            filler = small_disk / "filler"
            fill_disk(filler)
            with filler.open("r+b") as file:
                file.truncate(max(0, filler.stat().st_size - room * 1024))
            before = (await world.volumes.head(volume_id)).version
            try:
                data, content = sample(300_000)
                await contents.put(WORKSPACE, [Part(content.digest, 0, data)])
                many = [sample(500 + n) for n in range(40)]
                await contents.put(WORKSPACE, [Part(content.digest, 0, data) for data, content in many])
                refused.add("contents taken")
                puts = [entry_of(f"{room}/{n}", content) for n, (_, content) in enumerate(many)]
                await world.volumes.commit(volume_id, None, puts, [])
                refused.add("commit taken")
                assert (await world.volumes.head(volume_id)).version == before + 1
            except StorageFullError:
                refused.add("refused")
                assert (await world.volumes.head(volume_id)).version == before
            assert await world.read(volume_id, "kept") == kept
            assert os.listdir(small_disk / "volumes" / "main" / "incoming") == []
            filler.unlink()
        done = await world.put(volume_id, "room again", b"x")
        await store.close()
        return refused, done.version

    refused, version = asyncio.run(story())
    assert {"refused", "commit taken"} <= refused
    assert version >= 3


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 6 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(path):
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 1 << 12):
            try:
                while os.write(file, bytes(size)):
                    pass
            except OSError:
                pass
    finally:
        os.close(file)


CHILD = Path(__file__).with_name("committing_child.py")


def run_child(folder, stop_at):
    done = subprocess.run(
        [sys.executable, str(CHILD), str(folder), str(stop_at)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout.split()


def die_at_each_step(tmp_path, every):
    """The child dies (as by SIGKILL) at its nth step on the disk. What it acknowledged is there; the rest, not."""
    code, said = run_child(tmp_path / "count", 0)
    assert code == 0
    total = int(said[-1])
    assert total > 20
    outcomes = set()
    for stop_at in {*range(1, total + 1, every), total}:
        folder = tmp_path / f"at-{stop_at}"
        code, said = run_child(folder, stop_at)
        assert code == -9
        outcomes.add(asyncio.run(look_after(folder, said)))
    assert outcomes == {"before", "after"}


@pytest.mark.chaos
def test_killed_at_some_steps_of_a_commit_nothing_is_half(tmp_path):
    die_at_each_step(tmp_path, 8)


@pytest.mark.chaos
@pytest.mark.slow
def test_killed_at_each_step_of_a_commit_nothing_is_half(tmp_path):
    die_at_each_step(tmp_path, 1)


async def look_after(folder, said):
    """Whether the version is there, which is then whole."""
    store = SqliteStore(folder / "store.sqlite", ballast_bytes=0)
    contents = LocalContents(folder / "volumes")
    world = World(store, contents)
    [record] = await store.objects.all() or [None]
    if record is None:
        await store.close()
        assert "acked" not in said
        return "before"
    volume_id = record.object_id
    newest = (await world.volumes.head(volume_id)).version
    assert newest >= said.count("acked")
    found = await store.volumes.entries(volume_id, newest, recursive=True)
    if newest:
        assert [entry.path for entry in found] == ["large", "small", *(f"small/{n}" for n in range(3))]
    for entry in found:
        if entry.kind == "file":
            [content] = await store.volumes.contents(WORKSPACE, [entry.digest])
            data = await contents.read(WORKSPACE, entry.digest, 0, entry.size)
            assert whole(data) == content
    for stored in await contents.old(1 << 60):  # no name stands for less than all of its content
        data = await contents.read(stored.workspace, stored.digest, 0, 1 << 30)
        assert whole(data).digest == stored.digest
    await store.close()
    return "after" if newest else "before"


def test_errors_of_the_disk_are_told_as_such(tmp_path):
    async def story():
        contents = LocalContents(tmp_path / "volumes")
        (tmp_path / "volumes" / "main").mkdir()
        (tmp_path / "volumes" / "main" / "files").write_text("no folder")
        with pytest.raises(JitneyError):
            await contents.put(WORKSPACE, [Part(whole(b"x").digest, 0, b"x")])

    asyncio.run(story())
