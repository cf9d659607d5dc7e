"""The runtime behind walls keeps the contract, with real walls. As root, and as a user without privileges."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.conformance.test_runtime_process import Stage as ProcessStage

from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.namespaces import NamespacesRuntime
from jitney.drivers.walls.probe import probe
from jitney.testing.conformance.runtime import Module, Program, RuntimeContract
from jitney.testing.processes import LOOK_AGAIN_S, lasting, open_stage, shown
from jitney.values.containers import Launch
from jitney.values.isolation import Isolation

WHY_NOT = probe().why
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")


class Stage(ProcessStage):
    """The same programs, behind a wall."""

    def make_runtime(self) -> NamespacesRuntime:
        return NamespacesRuntime(
            self.home,
            limiter=NoLimiter(why="not looked at here"),
            network=NoNetwork(why="not looked at here", remedy=""),
            stock_min=0,
        )

    def launch(self, program, module=Module.GOOD, memory_limit_mib=None) -> Launch:
        launch = super().launch(program, module, memory_limit_mib)
        return msgspec.structs.replace(launch, isolation=Isolation.NAMESPACES)

    def impossible(self) -> Launch:
        return msgspec.structs.replace(self.launch(Program.EXITS_WITH_3), isolation=Isolation.GVISOR)

    def left_overs(self) -> list[str]:
        spared, _ = self.runtime.infrastructure()
        pids = [pid for pid in lasting(spared | self._before) if not _has_ended(pid)]
        found = self._folders_left()
        if found:
            time.sleep(LOOK_AGAIN_S)  # sleep: folders of pods are removed when their wall has said that they ended
            found = [path for path in self._folders_left() if path in found]
        return [shown(pid) for pid in pids] + found

    def _folders_left(self) -> list[str]:
        _, folders = self.runtime.infrastructure()
        found = []
        for wall in Path(self.home.containers).iterdir():
            if wall.name not in folders:
                found.append(str(wall))
            elif (wall / "scratch").exists():
                found += [str(pod) for pod in (wall / "scratch").iterdir() if f"{wall.name}/{pod.name}" not in folders]
        return [path for path in found if not path.endswith("/scratch/t")]


def _has_ended(pid: int) -> bool:
    """Whether the warden is about to collect it."""
    stat = procfs.stat(pid)
    return stat is None or stat.state in ("Z", "X")


class TestNamespacesRuntime(RuntimeContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        @asynccontextmanager
        async def make():
            async with open_stage(tmp_path / "home", Stage) as stage:
                yield stage

        return make
