"""The runtime in gVisor sandboxes keeps the contract, with the runsc that is here."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.conformance.kept import KeptStage, runs_in_its_layers, why_no_layers

from jitney.drivers.limits.cgroups.driver import CgroupLimiter
from jitney.drivers.limits.fake import FakeLimiter
from jitney.drivers.runtime.gvisor import GvisorRuntime
from jitney.drivers.runtime.gvisor.probe import probe
from jitney.drivers.runtime.gvisor.render import render_flags
from jitney.testing.conformance.interactive import InteractiveContract
from jitney.testing.conformance.limits import until
from jitney.testing.conformance.runtime import Actor, RuntimeContract
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


class BoundedStage(GvisorStage):
    """With control groups that are not there."""

    def make_runtime(self) -> GvisorRuntime:
        self.limiter = FakeLimiter()
        return GvisorRuntime(self.home, limiter=self.limiter)


class Kept(CgroupLimiter):
    """Tells which groups it has made."""

    def make(self, name, bounds):
        self.last = super().make(name, bounds)
        return self.last


class ThrottledStage(GvisorStage):
    """With the machine's."""

    def make_runtime(self) -> GvisorRuntime:
        self.limiter = Kept(f"test-g{os.getpid()}", tune=False)
        return GvisorRuntime(self.home, limiter=self.limiter)


@pytest.fixture
def open_in(tmp_path):
    """Opens a stage of a class, in a folder that others may pass through."""
    return lambda kind: open_stage(tmp_path / "home", kind)


class TestGvisorRuntime(RuntimeContract):
    pass


class TestGvisorCommands(InteractiveContract):
    pass


def test_the_limits_of_cpu_of_all_in_a_sandbox_bound_it_together(open_in):
    async def main():
        async with open_in(BoundedStage) as stage:
            actor = Actor(stage)
            spins = stage.launch_code("print('spins', flush=True)\nwhile True:\n    pass")
            launches = [with_cpu(spins, name, milli) for name, milli in (("a", 200), ("b", 300), ("c", None))]
            await actor.open(launches[0])
            (group,) = stage.limiter.made
            assert (group.bounds.cpu_milli, group.bounds.pids is None) == (None, False)
            seen = []
            handles = []
            for launch in launches:
                handles.append(await actor.run(launch))
                seen.append(group.bounds.cpu_milli)
            assert seen == [200, 500, None]
            for handle in reversed(handles):
                await stage.runtime.destroy(handle)
                seen.append(group.bounds.cpu_milli)
            assert seen[3:] == [500, 200, None]
            stage.runtime.end_template(spins.template)
            await asyncio.wait([box.dead for box in stage.runtime.boxes().values()])
            assert group.is_removed

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: control groups")
def test_a_sandbox_is_throttled(open_in):
    async def main():
        async with asyncio.timeout(60), open_in(ThrottledStage) as stage:
            actor = Actor(stage)
            launch = with_cpu(stage.launch_code("print('spins', flush=True)\nwhile True:\n    pass"), "a", 200)
            await actor.open(launch)
            handle = await actor.run(launch)
            group = stage.limiter.last
            before = group.usage().cpu_throttled_ns
            await until(lambda: group.usage().cpu_throttled_ns > before)
            assert group.usage().cpu_ns > 0
            await stage.runtime.destroy(handle)

    asyncio.run(main())


def with_cpu(launch, name, milli):
    """One that is named otherwise, with this limit."""
    resources = msgspec.structs.replace(launch.resources, cpu_limit_milli=milli)
    return msgspec.structs.replace(
        launch, container_id=f"{launch.container_id}{name}", isolation=Isolation.GVISOR, resources=resources
    )


@pytest.mark.skipif(bool(why_no_layers()), reason=why_no_layers())
def test_an_image_of_layers_is_a_sandboxs_root(make_stage, tmp_path):
    async def main():
        async with make_stage() as stage:
            await runs_in_its_layers(stage, tmp_path)

    asyncio.run(main())
