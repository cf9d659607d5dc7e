"""Volumes in an engine's containers, with the engines that are here."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest
from tests.conformance.engines import engine, why_not

from jitney.drivers.runtime.oci import OciRuntime, OciSettings
from jitney.ports.runtime import StartFailed
from jitney.testing.conformance.mounting import AttachingContract, MountingContract, VolumeStage, ran
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import open_stage
from jitney.values.isolation import Isolation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: volumes are mounted from outside"),
]


@pytest.fixture(scope="module", params=["docker", "podman"])
def socket(request):
    reason = why_not(request.param)
    if reason:
        pytest.skip(reason)
    with engine(request.param) as path:
        yield path


@pytest.fixture
def open_volumes(tmp_path, socket):
    class Stage(VolumeStage):
        tier = Isolation.OCI

        def make_runtime(self) -> OciRuntime:
            return OciRuntime(self.home, settings=OciSettings(socket=socket, network="none"))

    return lambda: open_stage(tmp_path / "home", Stage)


class TestOciMounting(MountingContract):
    pass


class TestOciAttaching(AttachingContract):
    pass


def test_a_box_has_volumes_for_one_container_at_a_time_and_then_for_the_next(open_volumes):
    async def main():
        async with asyncio.timeout(60), open_volumes() as stage:
            await stage.lay_out()
            actor = Actor(stage)
            listed = "print(sorted(os.listdir('/data/set')))"
            for _ in range(2):
                assert await ran(actor, stage.launch_mounted(listed, stage.mounted(2))) == ["['a.txt', 'sub']"]
            assert len(stage.runtime.boxes()) == 1
            handles = []
            for _ in range(2):
                made = stage.launch_mounted(f"{listed}\nwait()", stage.mounted(2))
                handles.append(await actor.run(made))
                await actor.log.until(made.container_id, "ready")
            boxes = stage.runtime.boxes()
            assert len(boxes) == 2
            await asyncio.gather(*map(stage.runtime.destroy, handles))
            await asyncio.wait([box.dead for box in boxes.values()], return_when=asyncio.FIRST_COMPLETED)
            assert len(stage.runtime.boxes()) == 1
            code = "print(os.listdir('/data/set'), os.path.exists('/other'))"
            elsewhere = stage.launch_mounted(code, stage.mounted(2))  # of the same template
            elsewhere = msgspec.structs.replace(elsewhere, mounts=(stage.mounted(2, target="/other"),))
            assert await ran(actor, elsewhere) == ["[] True"]  # what the last one had is gone

    asyncio.run(main())


def test_no_folder_is_made_on_the_machine(open_volumes):
    async def main():
        async with asyncio.timeout(60), open_volumes() as stage:
            await stage.lay_out()
            actor = Actor(stage)
            made = stage.launch_mounted("", stage.mounted(2, target="/usr/models"))
            await actor.open(made)
            with pytest.raises(StartFailed, match="/usr is read-only there, and has no folder 'models'"):
                await actor.run(made)
            assert await ran(actor, stage.launch_mounted("print(1)", stage.mounted(2))) == ["1"]

    asyncio.run(main())
    assert not os.path.exists("/usr/models")
