"""The runtime in gVisor sandboxes keeps the contract, with the runsc that is here."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import asynccontextmanager

import pytest
from tests.conformance.kept import KeptStage, runs_in_its_layers, why_no_layers

from jitney.drivers.runtime.gvisor import GvisorRuntime
from jitney.drivers.runtime.gvisor.probe import probe
from jitney.drivers.runtime.gvisor.render import render_flags
from jitney.testing.conformance.interactive import InteractiveContract
from jitney.testing.conformance.runtime import RuntimeContract
from jitney.testing.processes import open_stage
from jitney.values.isolation import Isolation

FOUND = probe()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(FOUND.why), reason=f"no gVisor here: {FOUND.why}")]


class GvisorStage(KeptStage):
    tier = Isolation.GVISOR

    def make_runtime(self) -> GvisorRuntime:
        return GvisorRuntime(self.home)

    def inside(self, box: str) -> tuple[set[int], list[str]]:
        flags = render_flags(FOUND.runsc, str(self.home.root / "gvisor"))
        listed = subprocess.run([*flags, "list", "--quiet"], capture_output=True, text=True, check=True)
        name = next((one for one in listed.stdout.split() if one.endswith(f"-{box}")), "")
        if not name:
            return set(), []
        told = subprocess.run([*flags, "ps", "--format=json", name], capture_output=True, text=True, check=True)
        scratch = self.home.containers / box / "scratch"
        return {int(pid) for pid in json.loads(told.stdout)}, os.listdir(scratch)


@pytest.fixture
def make_stage(tmp_path):
    @asynccontextmanager
    async def make():
        async with open_stage(tmp_path / "home", GvisorStage) as stage:
            yield stage

    return make


class TestGvisorRuntime(RuntimeContract):
    pass


class TestGvisorCommands(InteractiveContract):
    pass


@pytest.mark.skipif(bool(why_no_layers()), reason=why_no_layers())
def test_an_image_of_layers_is_a_sandboxs_root(make_stage, tmp_path):
    async def main():
        async with make_stage() as stage:
            await runs_in_its_layers(stage, tmp_path)

    asyncio.run(main())
