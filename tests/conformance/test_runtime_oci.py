"""The runtime in an engine's containers keeps the contract, with the engines that are here."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.conformance.engines import engine, why_not
from tests.conformance.kept import KeptStage, runs_in_its_layers, why_no_layers

from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.oci import OciRuntime, OciSettings
from jitney.testing.conformance.interactive import InteractiveContract
from jitney.testing.conformance.runtime import RuntimeContract
from jitney.testing.processes import open_stage
from jitney.values.isolation import Isolation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["docker", "podman"])
def socket(request):
    reason = why_not(request.param)
    if reason:
        pytest.skip(reason)
    with engine(request.param) as path:
        yield path


class OciStage(KeptStage):
    """With a network that leads nowhere: containers need none here. As root it is ours, with all that holds it."""

    tier = Isolation.OCI
    engine = ""

    def make_runtime(self) -> OciRuntime:
        if os.geteuid() == 0:
            network = NoNetwork(why="not looked at here", remedy="")
            return OciRuntime(self.home, settings=OciSettings(socket=self.engine), network=network)
        return OciRuntime(self.home, settings=OciSettings(socket=self.engine, network="none"))

    def inside(self, box: str) -> tuple[set[int], list[str]]:
        control = os.stat(self.home.sockets.parent / f"k-{box}")
        pids, folders = set(), []
        for pid in procfs.pids():
            root = Path(f"/proc/{pid}/root")
            try:
                if os.path.samestat(os.stat(root / "run/jitney/control"), control):
                    pids.add(_number_inside(pid))
                    folders = os.listdir(root / "run/jitney/scratch")
            except OSError:
                continue  # it ends, or has no such folder
        return pids, folders


def _number_inside(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


@pytest.fixture
def make_stage(tmp_path, socket):
    class Stage(OciStage):
        engine = socket

    @asynccontextmanager
    async def make():
        async with open_stage(tmp_path / "home", Stage) as stage:
            yield stage

    return make


class TestOciRuntime(RuntimeContract):
    pass


class TestOciCommands(InteractiveContract):
    pass


@pytest.mark.skipif(bool(why_no_layers()), reason=why_no_layers())
def test_an_image_of_layers_is_given_to_the_engine(make_stage, tmp_path):
    async def main():
        async with make_stage() as stage:
            await runs_in_its_layers(stage, tmp_path)

    asyncio.run(main())
