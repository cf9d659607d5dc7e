"""Volumes in containers that are plain processes."""

from __future__ import annotations

import pytest

from jitney.drivers.runtime.process.views import try_view
from jitney.testing.conformance.mounting import MountingContract, VolumeStage
from jitney.testing.processes import open_stage

WHY_NOT = try_view().why
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no views here: {WHY_NOT}")


@pytest.fixture
def open_volumes(tmp_path):
    return lambda: open_stage(tmp_path / "home", VolumeStage)


class TestProcessMounting(MountingContract):
    pass
