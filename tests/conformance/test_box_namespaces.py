"""The box behind a wall keeps its contract, over the machine's own file system."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.conformance.test_box import _command_lines

from jitney.drivers.box.namespaces import NamespacesBox
from jitney.drivers.limits.cgroups.driver import CgroupLimiter
from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.forking import leftovers
from jitney.drivers.walls.probe import probe
from jitney.testing.conformance.box import EXITS_3, BoxContract

WHY_NOT = probe().why
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}"),
]


class Stage:
    def __init__(self, folder):
        leftovers.adopt_orphans()
        self.folder = folder
        found = CgroupLimiter(f"box-{os.getpid()}", tune=False)
        self.limiter = found if found.layout.parts else NoLimiter(why=found.layout.why)
        self._box = NamespacesBox(folder, limiter=self.limiter, network=NoNetwork(why="", remedy=""))

    def box(self):
        return self._box

    def layers(self):
        return ("/",) if os.getuid() == 0 else ()  # nobody else can write over the machine's own file system

    def bounds_memory(self):
        return self.limiter.capabilities().memory

    def is_alive(self, marker):
        return any(marker in line for line in _command_lines())


class TestNamespaces(BoxContract):
    @pytest.fixture
    def stage(self, tmp_path_factory):
        made = Stage(tmp_path_factory.mktemp("boxes"))
        yield made
        asyncio.run(made.limiter.close())

    def test_3_a_layer_need_not_have_every_folder_of_the_machine(self, stage, tmp_path):
        """The machine may have got the folder after the layer was made."""
        self.needs_layers(stage)
        tmp_path.chmod(0o711)
        bare, upper = (self.upper(stage, tmp_path, name) for name in ("bare", "upper"))
        (Path(bare) / "opt").mkdir()
        (Path(bare) / "opt" / "note").write_text("here\n")
        script = "cat /opt/note; ls -d /usr/bin /etc/passwd; echo new > /usr/new"
        code, lines = self.run(stage, self.spec(stage, script, layers=("/", bare), upper=upper))
        assert (code, sorted(lines)) == (0, ["/etc/passwd", "/usr/bin", "here"])
        assert (Path(upper) / "usr" / "new").read_text() == "new\n"
        code, lines = self.run(stage, self.spec(stage, "cat /usr/new", layers=("/", bare, upper)))
        assert (code, lines) == (0, ["new"])

    def test_1_the_first_two_commands_may_begin_at_the_same_time(self, stage):
        """What hides the machine's private files is made once, by whoever is first; the other waits for it."""

        async def both():
            run = stage.box().run
            return await asyncio.gather(*(run(self.spec(stage, EXITS_3), lambda _: None) for _ in range(2)))

        assert asyncio.run(both()) == [3, 3]
        assert not [name for name in os.listdir(stage.folder) if name.startswith("b")]

    def test_7_what_a_killed_run_left_is_removed_and_the_rest_stays(self, stage, tmp_path_factory):
        folder = stage.folder
        self.run(stage, self.spec(stage, "true"))
        for name in ("b7-abcdef/scratch", "host-layer.partial/usr"):
            (folder / name).mkdir(parents=True)
        before = {"host-layer", "host-layer.lock", "host-layer.mark"}
        assert asyncio.run(stage.box().reap()) == 2
        assert set(os.listdir(folder)) == before

    @pytest.mark.parametrize("kind", ["link", "file"])
    def test_3_a_layer_cannot_put_something_else_in_the_place_of_a_folder_of_the_machine(self, stage, tmp_path, kind):
        self.needs_layers(stage)
        tmp_path.chmod(0o711)
        odd = self.upper(stage, tmp_path, "odd")
        if kind == "link":
            (Path(odd) / "usr").symlink_to("proc")
        else:
            (Path(odd) / "usr").write_text("")
        assert self.run(stage, self.spec(stage, "ls -d /usr/bin", layers=("/", odd))) == (0, ["/usr/bin"])
