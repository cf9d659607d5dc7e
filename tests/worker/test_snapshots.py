"""Volumes of memory snapshots: what templates are lent, and which of them are outdated."""

import asyncio

import msgspec
import pytest
from tests.worker.test_mounts import VOLUME, Runtime, Stage

from jitney.core.templates import is_outdated
from jitney.errors import ConnectionError
from jitney.values.containers import Launch, Snapshot, TemplateSpec
from jitney.values.volumes import Mounted, VolumeMount
from jitney.worker import snapshots as module
from jitney.worker.snapshots import Snapshots

READ = VolumeMount(path="/data", volume_id=VOLUME, read_only=True)
SPEC = TemplateSpec(image_id="im-1", snapshot=Snapshot(volumes=(READ,)))


class Able(Runtime):
    def capabilities(self):
        return msgspec.structs.replace(super().capabilities(), snapshot_volumes=True)


class LentStage(Stage):
    def __init__(self, root, runtime):
        super().__init__(root, runtime)
        self.snapshots = Snapshots(self.runtime, self.mounts.lending)

    async def ready(self, spec=SPEC, volume=READ, name="ta-1"):
        launch = msgspec.structs.replace(self.launch(name), template=spec, volumes=(volume,))
        return await self.mounts.ready(launch)

    def layers_in_use(self):
        return {layer for users in self.mounts.layouts.users for layer in users(VOLUME)}


@pytest.fixture
def stage(tmp_path):
    return LentStage(tmp_path, Able())


def test_a_template_is_lent_the_newest_version_until_it_is_given_back(stage):
    async def work():
        stage.server.put(a="one")
        (mounted,) = await stage.snapshots.lend(SPEC)
        assert (mounted.target, mounted.version, mounted.read_only) == ("/data", 1, True)
        assert stage.seen(mounted) == {"a": "one"}
        assert stage.layers_in_use() == set(mounted.layers)
        await stage.snapshots.give_back(SPEC)
        await stage.snapshots.give_back(SPEC)
        assert stage.layers_in_use() == set()

    asyncio.run(work())


def test_lending_again_gives_the_newest_and_takes_back_what_was_lent(stage):
    async def work():
        stage.server.put(a="one")
        await stage.snapshots.lend(SPEC)
        stage.server.put(a="two")
        (mounted,) = await stage.snapshots.lend(SPEC)
        assert stage.seen(mounted) == {"a": "two"}
        assert stage.layers_in_use() == set(mounted.layers)

    asyncio.run(work())


def test_a_container_that_reads_a_newer_version_finds_the_snapshot_outdated(stage):
    async def work():
        stage.server.put(a="one")
        await stage.snapshots.lend(SPEC)
        assert not stage.snapshots.is_outdated(await stage.ready())
        stage.server.put(a="two")
        assert stage.snapshots.is_outdated(await stage.ready())
        await stage.snapshots.lend(SPEC)
        assert not stage.snapshots.is_outdated(await stage.ready())
        await stage.snapshots.give_back(SPEC)
        assert not stage.snapshots.is_outdated(await stage.ready())

    asyncio.run(work())


def test_one_that_may_write_never_does(stage):
    write = msgspec.structs.replace(READ, read_only=False)
    spec = TemplateSpec(image_id="im-1", snapshot=Snapshot(volumes=(write,)))

    async def work():
        await stage.snapshots.lend(spec)
        stage.server.put(a="one")
        assert not stage.snapshots.is_outdated(await stage.ready(spec, write))

    asyncio.run(work())


@pytest.mark.parametrize("spec", [TemplateSpec(image_id="im-1"), TemplateSpec(image_id="im-1", snapshot=Snapshot())])
def test_without_a_snapshot_or_volumes_nothing_is_lent(stage, spec):
    assert asyncio.run(stage.snapshots.lend(spec)) == ()


def test_a_runtime_that_cannot_show_them_is_lent_none(tmp_path):
    stage = LentStage(tmp_path, Runtime())
    assert asyncio.run(stage.snapshots.lend(SPEC)) == ()


def test_a_server_that_is_away_is_asked_again(stage, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0)

    async def work():
        stage.server.put(a="one")
        stage.server.down = 2
        (mounted,) = await stage.snapshots.lend(SPEC)
        assert stage.seen(mounted) == {"a": "one"}
        stage.server.down = 1_000
        with pytest.raises(ConnectionError):
            await stage.snapshots.lend(SPEC)
        assert stage.layers_in_use() == set()

    asyncio.run(work())


@pytest.mark.parametrize(
    "seen, now, read_only, expected",
    [
        ({"/data": 1}, 2, True, True),
        ({"/data": 2}, 2, True, False),
        ({"/data": 3}, 2, True, False),  # another start has had it made since this one asked
        ({"/data": 1}, 2, False, False),
        ({}, 2, True, False),
    ],
)
def test_what_is_outdated(seen, now, read_only, expected):
    launch = Launch(
        container_id="ta-1",
        function_id="fu-1",
        app_id="ap-1",
        token="t",
        template=SPEC,
        config={},
        volumes=(msgspec.structs.replace(READ, read_only=read_only),),
        mounts=(Mounted(target="/data", volume_id=VOLUME, version=now, layers=()),),
    )
    assert is_outdated(seen, launch) is expected
