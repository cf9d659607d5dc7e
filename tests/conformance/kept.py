"""The usual programs in boxes that somebody else makes: what the stages of those runtimes have in common."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec
from tests.conformance.test_interactive_process import CommandStage

from jitney.drivers.walls.machine import FIRST_ID
from jitney.testing.conformance.runtime import Log, Module, Program
from jitney.testing.processes import lasting, shown
from jitney.values.containers import Launch
from jitney.values.images import BuiltImage
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy


class KeptStage(CommandStage):
    """`inside` tells what is in a box: the numbers of its processes there, and the scratch folders."""

    tier: Isolation

    def inside(self, box: str) -> tuple[set[int], list[str]]:
        raise NotImplementedError

    def launch(self, program, module=Module.GOOD, memory_limit_mib=None) -> Launch:
        launch = super().launch(program, module=module, memory_limit_mib=memory_limit_mib)
        return msgspec.structs.replace(launch, isolation=self.tier)

    def impossible(self) -> Launch:
        return msgspec.structs.replace(self.launch(Program.EXITS_WITH_3), network=NetworkPolicy(blocked=True))

    def place(self, container_id: str) -> tuple[str, str]:
        return f"place of {container_id}", f"/run/jitney/scratch/{container_id}"

    def kill_template(self, launch: Launch) -> None:
        self.runtime.end_template(launch.template)

    def left_overs(self) -> list[str]:
        boxes = self.runtime.boxes()
        found = []
        for name in boxes:
            pids, folders = self.inside(name)
            found += [f"process {pid} of {name}" for pid in pids - {1} - self.runtime.template_pids()]
            found += [f"folder {folder} of {name}" for folder in folders if folder.startswith("ta-")]
        if not boxes:
            found += [shown(pid) for pid in lasting(self._before)]
            found += [str(path) for path in self.home.containers.iterdir()]
            found += [str(path) for path in self.home.sockets.parent.glob("k-*")]
        return found


PYTHON = "/usr/bin/python3"


def why_no_layers() -> str:
    """Why no image can be made of layers here; "" = it can."""
    if os.geteuid() != 0:
        return "needs root: it makes whiteouts, and merges layers"
    return "" if os.path.exists(PYTHON) else f"needs a {PYTHON} to make an image of"


def layered_image(root: Path) -> BuiltImage:
    """An image of two layers: this machine's Python with what it needs, and over it what tells them apart."""
    program = os.path.realpath(PYTHON)
    asked = "import sys, platform; print(platform.python_version(), sys.prefix, *sys.version_info[:2])"
    told = subprocess.run([program, "-I", "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    version, library = told[0], f"{told[1]}/lib/python{told[2]}.{told[3]}"
    low, high = root / "low", root / "high"
    copied = low / library[1:]
    shutil.copytree(library, copied, symlinks=True, ignore=shutil.ignore_patterns("test", "dist-packages", "idlelib"))
    for file in (program, *_libraries([program, *map(str, Path(library, "lib-dynload").glob("*.so"))])):
        target = low / file[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    (low / "etc").mkdir()
    (low / "etc/which").write_text("low")
    (low / "etc/gone").write_text("low")
    (high / "etc").mkdir(parents=True)
    (high / "etc/which").write_text("high")
    os.mknod(high / "etc/gone", stat.S_IFCHR, 0)
    for layer in (low, high):
        for folder, folders, files in os.walk(layer):
            for path in (folder, *(os.path.join(folder, name) for name in (*folders, *files))):
                os.chown(path, FIRST_ID, FIRST_ID, follow_symlinks=False)
    return BuiltImage(
        image_id="im-layers",
        python_path=program,
        python_version=version,
        cloudpickle_version="",
        layers=(str(low), str(high)),
    )


def _libraries(files: list[str]) -> set[str]:
    """What the files are linked with."""
    found = set()
    for file in files:
        said = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        found |= {word for word in said.split() if word.startswith("/")}
    return found


LAYERED = """
print(open("/etc/which").read(), os.path.exists("/etc/gone"), os.path.exists("/usr/share"), sys.executable)
try:
    open("/etc/which", "w")
except OSError as error:
    print("not written")
print(os.getcwd() == os.environ["TMPDIR"], open("kept", "w").write("x"))
os._exit(0)
"""


async def runs_in_its_layers(stage: KeptStage, root: Path) -> None:
    """A container of such an image sees it, and nothing of the machine."""
    stage.image = await asyncio.to_thread(layered_image, root)
    log = Log()
    launch = msgspec.structs.replace(stage.launch_code(LAYERED), isolation=stage.tier)
    await stage.runtime.open_template(launch.template, stage.image, cause="ta-x", output=log.take)
    handle = await stage.runtime.start(launch, stage.image, log.take)
    assert (await stage.runtime.wait(handle)).exit_code == 0, log.lines
    expected = [f"high False False {stage.image.python_path}", "not written", "True 1"]
    assert (log.texts(handle.container_id, 1), log.texts(handle.container_id, 2)) == (expected, [])
