"""What workers ask about volumes: pages, commits in parts, and which versions are in use."""

import asyncio
from types import SimpleNamespace

import pytest

from jitney.core.volumes import whole
from jitney.drivers.contents.memory import MemoryContents
from jitney.errors import ConnectionError, NotFoundError
from jitney.server import mounts as module
from jitney.server.mounts import Mounts
from jitney.values.volumes import WORKSPACE, Entry, VolumeMount
from jitney.wire.messages import mounts as mm
from jitney.wire.messages import workers as wm
from tests.server.test_volumes import World


class Served:
    """Mounts of a fleet that is only a list of pools."""

    def __init__(self, world=None):
        self.world = world or World(contents=MemoryContents())
        self.pools = {}
        self.containers = {}
        self.mounts = Mounts(
            fleet=SimpleNamespace(containers=self.containers, router=SimpleNamespace(pools=self.pools)),
            store=self.world.store.volumes,
            contents=self.world.contents,
            wall_ms=lambda: self.world.now_ms,
            entropy=lambda count: b"0" * count,
            objects=self.world.objects,
        )
        self.holds = self.mounts.holds
        self.left = 0

    def put(self, path, text):
        self.left += 1
        name = f"{self.left:032x}"
        self.world.contents.place(WORKSPACE, name, text)
        return mm.MountedPut(entry=Entry(path=path, size=len(text)), incoming=name)

    async def commit(self, volume_id, key, part, more, puts=(), removes=(), base=0):
        request = mm.MountCommit(
            container_id="ta-1", volume_id=volume_id, base=base, puts=tuple(puts), removes=tuple(removes), key=key,
            part=part, more=more,
        )  # fmt: skip
        return await self.mounts.commit(None, request, None)


def test_parts_of_a_commit_are_one_version():
    async def story():
        served = Served()
        volume_id = await served.world.volume()
        await served.commit(volume_id, "k", 0, True, [served.put("a", b"1"), served.put("b", b"1")])
        assert whole(b"1").digest in served.holds
        assert (await served.world.volumes.head(volume_id)).version == 0
        await served.commit(volume_id, "k", 1, True, [served.put("c", b"2")])
        done = await served.commit(volume_id, "k", 2, False, removes=["never"])
        assert (done.version, done.puts) == (1, 3)
        assert await served.commit(volume_id, "k", 2, False, removes=["never"]) == done  # its answer was lost
        assert [entry.path for entry in await served.world.store.volumes.entries(volume_id, 1)] == ["a", "b", "c"]
        assert not served.holds._held

    asyncio.run(story())


def test_a_part_that_misses_those_before_it_makes_the_commit_begin_again():
    async def story():
        served = Served()
        volume_id = await served.world.volume()
        with pytest.raises(ConnectionError):
            await served.commit(volume_id, "k", 1, False, [served.put("a", b"1")])
        await served.commit(volume_id, "k", 0, True, [served.put("a", b"1")])
        with pytest.raises(ConnectionError):
            await served.commit(volume_id, "k", 2, False)
        await served.commit(volume_id, "late", 0, True, [served.put("a", b"1")])
        served.world.now_ms += module.PARTS_KEPT_MS + 1
        with pytest.raises(ConnectionError):
            await served.commit(volume_id, "late", 1, False)
        assert not served.holds._held
        assert (await served.commit(volume_id, "again", 0, False, [served.put("a", b"1")])).version == 1

    asyncio.run(story())


def test_pages_of_a_difference_have_all_of_it(monkeypatch):
    monkeypatch.setattr(module, "DIFF_PAGE", 2)

    async def story():
        served = Served()
        volume_id = await served.world.volume()
        await served.commit(volume_id, "1", 0, False, [served.put(name, b"1") for name in "abcde"])
        await served.commit(volume_id, "2", 0, False, [served.put("b", b"2")], ["a", "c"], base=1)
        puts, removes, after = [], [], ""
        while True:
            page = await served.mounts.diff(None, mm.VolumeDiff(volume_id=volume_id, old=1, new=2, after=after), None)
            assert len(page.puts) + len(page.removes) <= 2
            puts += [entry.path for entry in page.puts]
            removes += page.removes
            after = page.after
            if not after:
                break
        assert (puts, removes) == (["b"], ["a", "c"])
        await served.world.store.volumes.prune(volume_id, [1])
        gone = await served.mounts.diff(None, mm.VolumeDiff(volume_id=volume_id, old=1, new=2), None)
        assert (gone.old_is_gone, gone.puts) == (True, ())
        with pytest.raises(NotFoundError, match="version 1"):
            await served.mounts.diff(None, mm.VolumeDiff(volume_id=volume_id, old=0, new=1), None)

    asyncio.run(story())


def test_versions_that_containers_have_and_functions_name_are_in_use():
    async def story():
        served = Served()
        volume_id = await served.world.volume()
        await served.commit(volume_id, "1", 0, False, [served.put("a", b"1")])

        def pool(*containers, version=None):
            mount = VolumeMount(path="/v", volume_id=volume_id, version=version, read_only=version is not None)
            return SimpleNamespace(spec=SimpleNamespace(volumes=(mount,)), containers=dict.fromkeys(containers))

        served.pools["one"], served.pools["two"] = pool("ta-1"), pool(version=7)
        served.containers["ta-1"] = None
        assert served.mounts.used(volume_id) is None  # it runs, and has not been heard of
        await served.mounts.heads(None, mm.VolumeHeads(volume_ids=(volume_id,), container_id="ta-1"), None)
        assert served.mounts.used(volume_id) == {1, 7}
        assert served.mounts.used("vo-other") == set()
        del served.containers["ta-1"]
        served.pools["one"] = pool()
        assert served.mounts.used(volume_id) == {7}
        assert served.mounts._seen == {}

    asyncio.run(story())


def test_a_container_that_is_back_before_its_worker_is_not_unknown(monkeypatch):
    monkeypatch.setattr(module, "NODE_LOOK_S", 0.0)

    async def story():
        served = Served()
        fleet = served.mounts._fleet
        fleet.nodes = {}

        def answer(command):
            served.mounts.synced(wm.MountSynced(request_id=command.request_id, version=7))

        node = SimpleNamespace(connected=False, send=answer)
        asking = asyncio.create_task(served.mounts.sync("ta-1", "/data", reload=True))
        await asyncio.sleep(0)
        fleet.containers["ta-1"] = SimpleNamespace(node_id="no-1")
        await asyncio.sleep(0)
        fleet.nodes["no-1"] = node
        await asyncio.sleep(0)
        assert not asking.done()
        node.connected = True
        assert (await asking).version == 7
        node.connected = False
        with pytest.raises(ConnectionError, match="cannot be reached"):
            await served.mounts.sync("ta-1", "/data", reload=True)
        with pytest.raises(NotFoundError, match="no container ta-2"):
            await served.mounts.sync("ta-2", "/data", reload=True)

    asyncio.run(story())
