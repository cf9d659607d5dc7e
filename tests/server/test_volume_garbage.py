"""Nothing that is referred to is ever removed, and what is not goes: writers, containers, a collector that stops at any
of its steps, dies there and begins again, retention, and time that passes between any two steps."""

import asyncio
import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from jitney.core.retention import DAY_MS
from jitney.core.volumes import whole
from jitney.drivers.contents.localdir import LocalContents
from jitney.drivers.contents.memory import MemoryContents
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.contents import Part, Stored
from jitney.server.volume_keeping import GRACE_MS, INCOMING_MS, READ_MS
from jitney.testing.conformance.contents import parts
from jitney.values.objects import ObjectKind
from jitney.values.volumes import WORKSPACE, Entry, Retention
from tests.server.test_volumes import World

TEXTS = [b"zero", b"one", b"two"]
NAMES = ["v0", "v1"]
volumes = st.sampled_from(NAMES)
texts = st.sampled_from(TEXTS)
paths = st.sampled_from(["a", "b", "d/a"])


class Gate:
    """Stops whoever comes to a step, until it is let through. Everything between two steps happens at once."""

    def __init__(self):
        self.waiting = None
        self.arrived = asyncio.Event()

    async def __call__(self):
        self.waiting = asyncio.get_running_loop().create_future()
        self.arrived.set()
        await self.waiting

    def open(self):
        self.arrived.clear()
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class Gated:
    """Something whose methods wait at a gate before and after each is done, for the tasks that the gate is for."""

    def __init__(self, inner, gates):
        self._inner = inner
        self._gates = gates

    def __getattr__(self, name):
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*given, **options):
            gate = self._gates.get(asyncio.current_task())
            if gate is not None:
                await gate()
            answer = await found(*given, **options)
            if gate is not None:
                await gate()
            return answer

        return call


class Garbage(RuleBasedStateMachine):
    """At most one collector and one committer are stopped between two of their steps at a time."""

    def contents(self, folder, now_ms):
        raise NotImplementedError

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="garbage-"))
        self.runner = asyncio.Runner()
        numbers = itertools.count(1)  # ids in order: what is done first must not depend on dice
        self.world = World(contents=MemoryContents(), entropy=lambda size: next(numbers).to_bytes(size, "big"))
        self.disk = self.contents(self.folder, lambda: self.world.now_ms)
        self.gates = {}
        self.collector = self.committer = None
        self.mounted = set()  # (volume id, version)
        self.runner.run(self.set_up())

    async def set_up(self):
        self.world.contents = self.disk
        self.world.volumes._contents = Gated(self.disk, self.gates)
        self.world.volumes._store = Gated(self.world.store.volumes, self.gates)
        self.world.volumes._retention = Retention(versions=2, days=0)
        self.world.volumes._used = lambda volume_id: {version for id_, version in self.mounted if id_ == volume_id}

    def teardown(self):
        async def end():
            for task in list(self.gates):
                task.cancel()
            await asyncio.gather(*self.gates, *self.world.tasks, return_exceptions=True)

        self.runner.run(end())
        self.runner.close()
        shutil.rmtree(self.folder)

    def do(self, work):
        """What a client does. What it is refused, as it is not there (any more), it does again some time."""

        async def attempt():
            try:
                return await work()
            except (NotFoundError, InvalidError):
                return None

        return self.runner.run(attempt())

    # ---------------------------------------------------------------------------------------- writers

    @rule(text=texts)
    def upload(self, text):
        self.do(lambda: self.disk.put(WORKSPACE, parts(text, whole(text))))

    @rule(text=texts)
    def ask(self, text):
        self.do(lambda: self.world.volumes.missing([whole(text)]))

    @rule(name=volumes, path=paths, text=texts)
    def commit(self, name, path, text):
        """Of what was uploaded some time ago, or never."""
        self.do(lambda: self._commit(name, path, text))

    @rule(name=volumes, path=paths, text=texts)
    def put(self, name, path, text):
        async def work():
            await self.disk.put(WORKSPACE, parts(text, whole(text)))
            await self._commit(name, path, text)

        self.do(work)

    async def _commit(self, name, path, text):
        volume_id = await self.world.volume(name)
        put = Entry(path=path, size=len(text), digest=whole(text).digest, blocks=whole(text).blocks)
        return await self.world.volumes.commit(volume_id, None, [put], [])

    @precondition(lambda self: self.committer is None)
    @rule(name=volumes, path=paths, text=texts)
    def begin_commit(self, name, path, text):
        self.committer = self.start(lambda: self._commit(name, path, text))

    @precondition(lambda self: self.committer is not None)
    @rule()
    def step_commit(self):
        self.committer = self.step(self.committer)

    @rule(name=volumes, path=paths)
    def remove(self, name, path):
        async def work():
            await self.world.volumes.remove(await self.world.volume(name), path, recursive=True)

        self.do(work)

    @rule(name=volumes, path=paths, other=paths)
    def copy(self, name, path, other):
        async def work():
            await self.world.volumes.copy(await self.world.volume(name), [path], f"copy-{other}", recursive=True)

        self.do(work)

    @rule(name=volumes, back=st.integers(0, 4))
    def restore(self, name, back):
        async def work():
            volume_id = await self.world.volume(name)
            newest = (await self.world.volumes.head(volume_id)).version
            await self.world.volumes.restore(volume_id, max(0, newest - back))

        self.do(work)

    @rule(name=volumes)
    def delete(self, name):
        async def work():
            volume_id = await self.world.volume(name)
            self.mounted = {one for one in self.mounted if one[0] != volume_id}
            await self.world.objects.delete([await self.world.objects.find(volume_id, ObjectKind.VOLUME)])
            await asyncio.gather(*self.world.tasks)

        self.do(work)

    # ---------------------------------------------------------------------------------------- containers

    @rule(name=volumes, back=st.integers(0, 3))
    def mount(self, name, back):
        async def work():
            volume_id = await self.world.volume(name)
            newest = (await self.world.volumes.head(volume_id)).version
            self.mounted.add((volume_id, await self.world.volumes.version(volume_id, max(0, newest - back))))

        self.do(work)

    @precondition(lambda self: self.mounted)
    @rule()
    def unmount(self):
        self.mounted.remove(min(self.mounted))

    # ---------------------------------------------------------------------------------------- time, and the collector

    @rule(ms=st.sampled_from([1, 59_000, GRACE_MS // 2, GRACE_MS + 60_001, 2 * GRACE_MS, INCOMING_MS + 1]))
    def wait(self, ms):
        self.world.now_ms += ms

    @precondition(lambda self: self.collector is None)
    @rule()
    def begin_collection(self):
        async def work():
            await self.world.volumes.prune()
            await self.world.volumes.collect()

        self.collector = self.start(work)

    @precondition(lambda self: self.collector is not None)
    @rule(steps=st.integers(1, 4))
    def step_collection(self, steps):
        for _ in range(steps):
            self.collector = self.collector and self.step(self.collector)

    @precondition(lambda self: self.collector is not None)
    @rule()
    def kill_collection(self):
        """The server dies between two steps of it; another one comes up on what is there."""

        async def die():
            self.collector.cancel()
            await asyncio.gather(self.collector, return_exceptions=True)
            self.world.volumes._going = set()

        self.runner.run(die())
        self.gates.pop(self.collector)
        self.collector = None

    def start(self, work):
        """A task that stops at each step."""

        async def attempt():
            try:
                await work()
            except NotFoundError:
                pass

        async def begin():
            task = asyncio.ensure_future(attempt())
            self.gates[task] = Gate()
            await asyncio.sleep(0)
            return task

        return self.runner.run(begin())

    def step(self, task):
        """Up to the next gate, or the end: the task, as long as it is not over."""
        gate = self.gates[task]

        async def go_on():
            gate.open()
            arrived = asyncio.ensure_future(gate.arrived.wait())
            await asyncio.wait([task, arrived], return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
            if task.done():
                await task

        self.runner.run(go_on())
        if task.done():
            del self.gates[task]
            return None
        return task

    # ---------------------------------------------------------------------------------------- what holds

    @invariant()
    def what_is_referred_to_is_there(self):
        async def look():
            store = self.world.store.volumes
            for volume_id in await store.known():
                versions = [one.version for one in await store.history(volume_id)]
                gone = {version for id_, version in self.mounted if id_ == volume_id} - {0, *versions}
                assert not gone, "a version was dropped that a container has"
                for version in versions:
                    for entry in await store.entries(volume_id, version, recursive=True):
                        if entry.digest:
                            data = await self.disk.read(WORKSPACE, entry.digest, 0, 100)
                            assert whole(data).digest == entry.digest
                            assert await store.contents(WORKSPACE, [entry.digest])

        self.runner.run(look())

    @precondition(lambda self: self.committer is None and self.collector is None)
    @rule()
    def what_nobody_refers_to_goes(self):
        async def collect():
            self.world.now_ms += 2 * GRACE_MS
            await self.world.volumes.prune()
            await self.world.volumes.collect()
            left = {one.digest for one in await self.disk.old(self.world.now_ms + GRACE_MS)}
            assert left == await self.world.store.volumes.referenced(WORKSPACE, sorted(left))
            digests = [whole(text).digest for text in TEXTS]
            known = {one.digest for one in await self.world.store.volumes.contents(WORKSPACE, digests)}
            assert known == left

        self.runner.run(collect())


class InMemory(Garbage):
    def contents(self, folder, now_ms):
        return MemoryContents(now_ms)


class OnDisk(Garbage):
    def contents(self, folder, now_ms):
        return LocalContents(folder, now_ms=now_ms)


checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
quick = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=checks)


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_what_is_referred_to_stays_and_the_rest_goes(kind):
    run_state_machine_as_test(kind, settings=quick)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_what_is_referred_to_stays_and_the_rest_goes_for_long(kind):
    run_state_machine_as_test(kind, settings=settings(quick, max_examples=500, stateful_step_count=60))


@pytest.mark.parametrize(
    "make", [lambda folder, now: MemoryContents(now), lambda folder, now: LocalContents(folder, now_ms=now)]
)
def test_what_another_workspace_has_is_no_secret_that_time_tells(make, tmp_path):
    """Neither asking for a content, nor seeing it stay or go, nor asking for its blocks tells one workspace that
    another one has it too."""

    async def story(others_have_it):
        world = World(contents=MemoryContents())
        contents = make(tmp_path / str(others_have_it), lambda: world.now_ms)
        world.contents = world.volumes._contents = contents
        text, seen = b"the same", []
        content = whole(text)
        if others_have_it:
            await contents.put("others", [Part(content.digest, 0, text)])
            entry = Entry(path="x", size=content.size, digest=content.digest)
            await world.store.volumes.commit(theirs("vo-theirs", entry, content))
        seen.append(await world.volumes.missing([content]))
        await contents.put(WORKSPACE, [Part(content.digest, 0, text)])
        seen.append(await world.volumes.missing([content]))
        world.now_ms += 2 * GRACE_MS
        await collect_without_deleting_unknown(world)
        seen.append(await world.volumes.missing([content]))
        seen.append(await world.store.volumes.contents(WORKSPACE, [content.digest]))
        if others_have_it:
            assert await contents.read("others", content.digest, 0, 100) == text
        return seen

    assert asyncio.run(story(True)) == asyncio.run(story(False))


def theirs(volume_id, entry, content):
    from jitney.ports.volumes import Commit

    return Commit(volume_id, 0, [entry], (), [content], workspace="others")


async def collect_without_deleting_unknown(world):
    """The collector, of which the first step would drop a volume that is no object here."""

    async def known():
        return []

    world.volumes._store = Gated(world.store.volumes, {})
    world.volumes._store.known = known
    await world.volumes.collect()


def test_a_content_that_is_read_from_is_still_one_of_its_workspace(tmp_path):
    async def story():
        contents = LocalContents(tmp_path)
        await contents.put("others", [Part(whole(b"x").digest, 0, b"x")])
        assert await contents.remove(WORKSPACE, [whole(b"x").digest], 1 << 60) == [whole(b"x").digest]
        assert Stored("others", whole(b"x").digest) in await contents.old(1 << 60)

    asyncio.run(story())


# ---------------------------------------------------------------------------------------------------- some cases


def test_a_commit_that_takes_longer_than_the_grace_loses_nothing(tmp_path):
    """The contents were looked at, and then the store took its time."""

    async def story():
        world = World(contents=MemoryContents())
        world.contents = world.volumes._contents = LocalContents(tmp_path, now_ms=lambda: world.now_ms)
        volume_id = await world.volume()
        text = b"slow"
        await world.contents.put(WORKSPACE, parts(text, whole(text)))
        commit, asked, go_on = world.store.volumes.commit, asyncio.Event(), asyncio.Event()

        async def slow(request):
            asked.set()
            await go_on.wait()
            return await commit(request)

        world.store.volumes.commit = slow
        put = Entry(path="a", size=len(text), digest=whole(text).digest, blocks=whole(text).blocks)
        committing = asyncio.create_task(world.volumes.commit(volume_id, None, [put], []))
        await asked.wait()
        world.now_ms += 2 * GRACE_MS
        assert await world.volumes.collect() == 0
        go_on.set()
        await committing
        assert await world.read(volume_id, "a") == text
        assert not world.volumes._holds._held

    asyncio.run(story())


def test_old_versions_go_and_say_so():
    async def story():
        world = World()
        volume_id = await world.volume()
        for number in range(1, 6):
            await world.put(volume_id, "a", b"%d" % number)
            world.now_ms += DAY_MS
        await world.volumes.keep(volume_id, 1, 0)
        world.volumes._used = lambda volume_id: {3}
        await world.read(volume_id, "a", 2)
        assert await world.volumes.prune() == 2
        history = await world.volumes.history(volume_id, before=None, limit=100)
        assert [one.version for one in history] == [5, 3, 2]
        for gone in (1, 4):
            with pytest.raises(NotFoundError, match=f"version {gone} of the volume is gone: .* is {gone + 1}"):
                await world.read(volume_id, "a", gone)
            with pytest.raises(NotFoundError):
                await world.volumes.restore(volume_id, gone)
        assert await world.read(volume_id, "a", 3) == b"3"
        world.volumes._used = lambda volume_id: None  # a container has it, and which version is not known
        world.now_ms += READ_MS + 1
        assert await world.volumes.prune() == 0
        world.volumes._used = lambda volume_id: ()
        assert await world.volumes.prune() == 2
        world.now_ms += 2 * GRACE_MS
        assert await world.volumes.collect() == 4
        assert await world.read(volume_id, "a") == b"5"

    asyncio.run(story())
