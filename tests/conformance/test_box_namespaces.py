"""The box behind a wall keeps its contract, over the machine's own file system."""

from __future__ import annotations

import os

import pytest
from tests.conformance.test_box import _command_lines

from jitney.drivers.box.namespaces import NamespacesBox
from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.forking import leftovers
from jitney.drivers.walls.probe import probe
from jitney.testing.conformance.box import BoxContract

WHY_NOT = probe().why
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}"),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root: layers over the machine's own file system"),
]


class Stage:
    def __init__(self, folder):
        leftovers.adopt_orphans()
        self._box = NamespacesBox(
            folder, limiter=NoLimiter(why="not looked at here"), network=NoNetwork(why="", remedy="")
        )

    def box(self):
        return self._box

    def layers(self):
        return ("/",)

    def is_alive(self, marker):
        return any(marker in line for line in _command_lines())


class TestNamespaces(BoxContract):
    @pytest.fixture
    def stage(self, tmp_path_factory):
        return Stage(tmp_path_factory.mktemp("boxes"))
