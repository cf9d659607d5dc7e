"""Volumes in containers behind walls."""

from __future__ import annotations

import os

import pytest

from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.namespaces import NamespacesRuntime
from jitney.drivers.walls.probe import probe
from jitney.testing.conformance.mounting import AttachingContract, MountingContract, VolumeStage
from jitney.testing.processes import open_stage
from jitney.values.isolation import Isolation

WHY_NOT = probe().why
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")


class Stage(VolumeStage):
    tier = Isolation.NAMESPACES

    def make_runtime(self) -> NamespacesRuntime:
        return NamespacesRuntime(
            self.home,
            limiter=NoLimiter(why="not looked at here"),
            network=NoNetwork(why="not looked at here", remedy=""),
            stock_min=0,
        )


@pytest.fixture
def open_volumes(tmp_path):
    return lambda: open_stage(tmp_path / "home", Stage)


class TestNamespacesMounting(MountingContract):
    pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a mount")
class TestNamespacesAttaching(AttachingContract):
    pass
