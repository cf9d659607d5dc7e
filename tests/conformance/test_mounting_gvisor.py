"""Volumes in gVisor sandboxes, with the runsc that is here."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.conformance.test_runtime_gvisor import FOUND

from jitney.drivers.runtime.gvisor import GvisorRuntime
from jitney.ports.runtime import StartFailed
from jitney.testing.conformance.mounting import AttachingContract, MountingContract, VolumeStage, ran
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import open_stage
from jitney.values.isolation import Isolation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(FOUND.why), reason=f"no gVisor here: {FOUND.why}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: volumes are mounted from outside"),
]


class GvisorVolumeStage(VolumeStage):
    tier = Isolation.GVISOR

    def make_runtime(self) -> GvisorRuntime:
        return GvisorRuntime(self.home)


@pytest.fixture
def open_volumes(tmp_path):
    return lambda: open_stage(tmp_path / "home", GvisorVolumeStage)


class TestGvisorMounting(MountingContract):
    pass


class TestGvisorAttaching(AttachingContract):
    pass


def test_a_sandbox_has_volumes_for_one_container_at_a_time_and_nothing_in_between(open_volumes):
    async def main():
        async with asyncio.timeout(60), open_volumes() as stage:
            await stage.lay_out()
            actor = Actor(stage)
            listed = "print(sorted(os.listdir('/data/set')))"
            for _ in range(2):
                assert await ran(actor, stage.launch_mounted(listed, stage.mounted(2))) == ["['a.txt', 'sub']"]
            (box,) = stage.runtime.boxes().values()
            assert os.listdir(box.folder / "volumes" / "0") == []

    asyncio.run(main())


@pytest.mark.parametrize("target", ["/usr/models", "/tmp/models", "/dev/models"])
def test_where_something_else_is_a_volume_is_refused(open_volumes, target):
    async def main():
        async with asyncio.timeout(60), open_volumes() as stage:
            await stage.lay_out()
            actor = Actor(stage)
            made = stage.launch_mounted("", stage.mounted(2, target=target))
            await actor.open(made)
            with pytest.raises(StartFailed, match=f"no volume can be at {target}"):
                await actor.run(made)

    asyncio.run(main())
    assert not os.path.exists(target)
