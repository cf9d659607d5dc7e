"""Volumes in containers behind walls: what is seen, what is written, and what can be replaced while they run."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.namespaces import NamespacesRuntime
from jitney.drivers.trees.localdir import LocalTrees
from jitney.drivers.walls.probe import probe
from jitney.ports.mounting import MountBusy, MountFailed
from jitney.ports.runtime import StartFailed
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import ProcessStage, open_stage
from jitney.values.isolation import Isolation
from jitney.values.volumes import Entry, Kind, Mounted

WHY_NOT = probe().why
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")

VOLUME = f"vo-{'0' * 22}"
TARGET = "/data/set"
FIRST, SECOND = "one", "two"


class Stage(ProcessStage):
    """Behind walls, with a volume of two versions."""

    def make_runtime(self) -> NamespacesRuntime:
        runtime = NamespacesRuntime(
            self.home,
            limiter=NoLimiter(why="not looked at here"),
            network=NoNetwork(why="not looked at here", remedy=""),
            stock_min=0,
        )
        ids = runtime._machine.ids
        self.contents = Path(self.home.root) / "contents"
        self.contents.mkdir(parents=True, exist_ok=True)
        self.trees = LocalTrees(
            self.home.trees, lambda digest: self.contents / digest, owner=ids.first if ids.writer == "root" else None
        )
        return runtime

    async def lay_out(self) -> None:
        """Version 1 has a.txt, gone.txt and sub/b.txt; version 2 another a.txt, and gone.txt is gone."""
        for name in (FIRST, SECOND):
            (self.contents / name).write_text(name)
        files = [Entry(path=path, digest=FIRST, size=3) for path in ("a.txt", "gone.txt", "sub/b.txt")]
        await self.trees.extend(VOLUME, 1, [Entry(path="sub", kind=Kind.DIR, mode=0o755), *files], [])
        await self.trees.extend(VOLUME, 2, [Entry(path="a.txt", digest=SECOND, size=3)], ["gone.txt"])

    def mounted(self, version: int, **changes) -> Mounted:
        layers = self.trees.layers(VOLUME, version)
        fields = {"upper": "", **changes}
        return Mounted(target=TARGET, volume_id=VOLUME, version=version, layers=layers, **fields)

    def upper(self, name: str) -> Path:
        return self.home.uppers / name / "upper"


def launch(stage: Stage, code: str, *mounts: Mounted):
    """A container that runs `code`, with these mounts."""
    made = stage.launch_code(f"{code}\nsys.stdout.flush()\nos._exit(0)")
    template = msgspec.structs.replace(made.template, volumes=(VOLUME,))
    return msgspec.structs.replace(made, template=template, mounts=mounts, isolation=Isolation.NAMESPACES)


@pytest.fixture
def play(tmp_path):
    """Runs a coroutine function with an actor whose stage has the volume laid out."""

    def run(act) -> None:
        @asynccontextmanager
        async def opened():
            async with open_stage(tmp_path / "home", Stage) as stage:
                await stage.lay_out()
                yield stage

        async def main() -> None:
            async with asyncio.timeout(40), opened() as stage:
                await act(Actor(stage))

        asyncio.run(main())

    return run


async def ran(actor: Actor, made) -> list[str]:
    """What a container printed until it ended."""
    await actor.open(made)
    handle = await actor.run(made)
    await actor.runtime.wait(handle)
    return [*actor.log.texts(made.container_id, 1), *actor.log.texts(made.container_id, 2)]


LIST = f"""
for at, folders, files in sorted(os.walk({TARGET!r})):
    for name in sorted(files):
        print(os.path.join(at, name).removeprefix({TARGET!r} + "/"), open(os.path.join(at, name)).read())
"""


@pytest.mark.parametrize("version, seen", [(0, []), (1, ["a.txt one", "gone.txt one", "sub/b.txt one"]),
                                           (2, ["a.txt two", "sub/b.txt one"])])  # fmt: skip
def test_a_version_is_seen_whole(play, version, seen):
    async def act(actor: Actor) -> None:
        assert await ran(actor, launch(actor.stage, LIST, actor.stage.mounted(version))) == seen

    play(act)


def test_a_read_only_volume_cannot_be_written_to(play):
    code = f"""
for name in ("a.txt", "new.txt"):
    try:
        open({TARGET!r} + "/" + name, "w")
    except OSError as error:
        print(error.strerror)
"""

    async def act(actor: Actor) -> None:
        assert await ran(actor, launch(actor.stage, code, actor.stage.mounted(2))) == ["Read-only file system"] * 2

    play(act)


def test_what_is_written_is_above_the_version_and_nowhere_else(play):
    code = f"""
os.chdir({TARGET!r})
open("a.txt", "w").write("mine")
open("new.txt", "w").write("new")
os.remove("sub/b.txt")
os.mkdir("made")
open("made/c.txt", "w").write("c")
"""

    async def act(actor: Actor) -> None:
        stage = actor.stage
        assert await ran(actor, launch(stage, code + LIST, stage.mounted(1, upper="one/0"))) == [
            "a.txt mine", "gone.txt one", "new.txt new", "made/c.txt c",
        ]  # fmt: skip
        assert (stage.contents / FIRST).read_text() == FIRST
        changes = await stage.trees.changes(stage.upper("one/0"), {})
        assert {entry.path for entry in changes.puts} == {"a.txt", "new.txt", "sub", "made", "made/c.txt"}
        assert changes.removes == ["sub/b.txt"]
        assert await ran(actor, launch(stage, LIST, stage.mounted(1))) == [
            "a.txt one", "gone.txt one", "sub/b.txt one",
        ]  # fmt: skip

    play(act)


def test_a_folder_of_a_volume_is_mounted_and_a_link_is_none(play):
    async def act(actor: Actor) -> None:
        stage = actor.stage
        assert await ran(actor, launch(stage, LIST, stage.mounted(2, sub_path="sub"))) == ["b.txt one"]
        await stage.trees.extend(VOLUME, 3, [Entry(path="away", kind=Kind.SYMLINK, target="../../uppers")], [])
        for part in ("away", "missing"):
            made = launch(stage, LIST, stage.mounted(3, sub_path=part))
            with pytest.raises(StartFailed, match=f"the volume has no folder '{part}'"):
                await actor.run(made)

    play(act)


WATCH = f"""
def text():
    try:
        return open({TARGET!r} + "/a.txt").read()
    except FileNotFoundError:
        return ""  # between one version and the other

print(text(), flush=True)
while text() != "two":
    time.sleep(0.1)
print("two", flush=True)
"""


def test_a_running_container_gets_another_version_and_keeps_its_writes(play):
    code = f"open({TARGET!r} + '/own.txt', 'w').write('own')\n{WATCH}print(open({TARGET!r} + '/own.txt').read())"

    async def act(actor: Actor) -> None:
        stage = actor.stage
        made = launch(stage, code, stage.mounted(1, upper="x/0"))
        await actor.open(made)
        handle = await actor.run(made)
        await actor.log.until(made.container_id, "one")
        while True:
            try:
                await actor.runtime.remount(handle, stage.mounted(2, upper="x/0"))
                break
            except MountBusy:
                await asyncio.sleep(0.001)  # sleep: it reads the file again and again
        await actor.runtime.wait(handle)
        assert actor.log.texts(made.container_id, 1) == ["one", "two", "own"]
        with pytest.raises(MountFailed, match="ended"):
            await actor.runtime.remount(handle, stage.mounted(2))

    play(act)


def test_open_files_keep_a_volume_as_it_is(play):
    code = f"held = open({TARGET!r} + '/a.txt')\nprint('open', flush=True)\nwait()"

    async def act(actor: Actor) -> None:
        stage = actor.stage
        made = launch(stage, code, stage.mounted(1))
        await actor.open(made)
        handle = await actor.run(made)
        await actor.log.until(made.container_id, "open")
        with pytest.raises(MountBusy):
            await actor.runtime.remount(handle, stage.mounted(2))
        await actor.runtime.destroy(handle)

    play(act)
