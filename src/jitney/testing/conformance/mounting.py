"""The contract of `ports.mounting`, with a volume of two versions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jitney.drivers.trees.localdir import LocalTrees
from jitney.drivers.walls.machine import ids_of_machine
from jitney.ports.mounting import MountBusy, MountFailed
from jitney.ports.runtime import StartFailed, TemplateFailed
from jitney.runner.failures import decode_failure
from jitney.runner.wall import kernel
from jitney.testing.conformance.runtime import WAIT_S, Actor
from jitney.testing.processes import PLAIN, ProcessStage
from jitney.values.buckets import AttachedBucket
from jitney.values.containers import Launch, VolumePlace
from jitney.values.isolation import Isolation
from jitney.values.volumes import Entry, Kind, Mounted

VOLUME = f"vo-{'0' * 22}"
TARGET = "/data/set"
FIRST, SECOND = "one", "two"


class VolumeStage(ProcessStage):
    """Has the volume laid out, once `lay_out` is done."""

    tier = Isolation.PROCESS

    def __init__(self, home: Any) -> None:
        super().__init__(home)
        self.contents = Path(home.root) / "contents"
        self.contents.mkdir(parents=True, exist_ok=True)
        ids = ids_of_machine({})
        self.trees = LocalTrees(
            home.trees, lambda digest: self.contents / digest, owner=ids.first if ids.writer == "root" else None
        )

    async def lay_out(self) -> None:
        """Version 1 has a.txt, gone.txt and sub/b.txt; version 2 another a.txt, and gone.txt is gone."""
        for name in (FIRST, SECOND):
            (self.contents / name).write_text(name)
        files = [Entry(path=path, digest=FIRST, size=3) for path in ("a.txt", "gone.txt", "sub/b.txt")]
        await self.trees.extend(VOLUME, 1, [Entry(path="sub", kind=Kind.DIR, mode=0o755), *files], [])
        await self.trees.extend(VOLUME, 2, [Entry(path="a.txt", digest=SECOND, size=3)], ["gone.txt"])

    def mounted(self, version: int, **changes: Any) -> Mounted:
        """A version of it, read-only unless `upper` is given."""
        layers = self.trees.layers(VOLUME, version)
        return Mounted(**{"target": TARGET, "volume_id": VOLUME, "version": version, "layers": layers, **changes})

    def upper(self, name: str) -> Path:
        """Where what was written is."""
        return self.home.uppers / name / "upper"

    def launch_mounted(self, code: str, *mounts: Mounted) -> Launch:
        """A container that runs `code`, with these mounts."""
        made = self.launch_code(f"{code}\nsys.stdout.flush()\nos._exit(0)")
        places = tuple(sorted(VolumePlace(one.volume_id, one.target) for one in mounts))
        template = msgspec.structs.replace(made.template, volumes=places)
        return msgspec.structs.replace(made, template=template, mounts=mounts, isolation=self.tier)


LIST = f"""
for at, folders, files in sorted(os.walk({TARGET!r})):
    for name in sorted(files):
        print(os.path.join(at, name).removeprefix({TARGET!r} + "/"), open(os.path.join(at, name)).read())
"""
REFUSED = f"""
for name in ("a.txt", "new.txt"):
    try:
        open({TARGET!r} + "/" + name, "w")
    except OSError as error:
        print(error.strerror)
"""
CHANGE = f"""
os.chdir({TARGET!r})
open("a.txt", "w").write("mine")
open("new.txt", "w").write("new")
os.remove("sub/b.txt")
os.mkdir("made")
open("made/c.txt", "w").write("c")
os.chdir("/")
"""
WATCH = f"""
def text():
    try:
        return open({TARGET!r} + "/a.txt").read()
    except FileNotFoundError:
        return ""  # between one version and the other

open({TARGET!r} + "/own.txt", "w").write("own")
print(text(), flush=True)
while text() != "two":
    time.sleep(0.1)
print("two", flush=True)
print(open({TARGET!r} + "/own.txt").read())
"""
HOLD = f"held = open({TARGET!r} + '/a.txt')\nprint('open', flush=True)\nwait()"
READS = f"""
import mmap, os, sys, time

with open({TARGET!r} + "/a.txt", "rb") as file:
    LOADED = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
try:
    open({TARGET!r} + "/a.txt", "w")
except OSError as error:
    REFUSED = error.strerror
"""
LOADED = f"""
print(LOADED[:].decode(), REFUSED)
print(open({TARGET!r} + "/a.txt").read())
os.remove({TARGET!r} + "/a.txt")
print(sorted(os.listdir({TARGET!r})), LOADED[:].decode())
"""
Open = Callable[[], AbstractAsyncContextManager[VolumeStage]]
Act = Callable[[Actor, VolumeStage], Awaitable[None]]
Play = Callable[[Act], None]


class MountingContract:
    """Inherited by a test class; its module brings the fixture `open_volumes`, which opens a VolumeStage."""

    @pytest.fixture
    def play(self, open_volumes: Open) -> Play:
        """Runs a coroutine function with an actor whose stage has the volume laid out."""

        def run(act: Act) -> None:
            async def main() -> None:
                async with asyncio.timeout(2 * WAIT_S), open_volumes() as stage:
                    await stage.lay_out()
                    await act(Actor(stage), stage)  # type: ignore[arg-type]  # the rest of a stage is not needed

            asyncio.run(main())

        return run

    @pytest.mark.parametrize(
        "version, seen",
        [(0, []), (1, ["a.txt one", "gone.txt one", "sub/b.txt one"]), (2, ["a.txt two", "sub/b.txt one"])],
    )
    def test_1_a_version_is_seen_whole(self, play: Play, version: int, seen: list[str]) -> None:
        async def act(actor: Actor, stage: VolumeStage) -> None:
            assert await ran(actor, stage.launch_mounted(LIST, stage.mounted(version))) == seen

        play(act)

    def test_1_a_read_only_volume_cannot_be_written_to(self, play: Play) -> None:
        async def act(actor: Actor, stage: VolumeStage) -> None:
            made = stage.launch_mounted(REFUSED, stage.mounted(2))
            assert await ran(actor, made) == ["Read-only file system"] * 2

        play(act)

    def test_1_a_folder_of_a_volume_is_mounted_and_a_link_is_none(self, play: Play) -> None:
        async def act(actor: Actor, stage: VolumeStage) -> None:
            assert await ran(actor, stage.launch_mounted(LIST, stage.mounted(2, sub_path="sub"))) == ["b.txt one"]
            await stage.trees.extend(VOLUME, 3, [Entry(path="away", kind=Kind.SYMLINK, target="../../uppers")], [])
            for part in ("away", "missing"):
                made = stage.launch_mounted(LIST, stage.mounted(3, sub_path=part))
                with pytest.raises(StartFailed, match=f"the volume has no folder '{part}'"):
                    await actor.run(made)

        play(act)

    def test_1_two_volumes_are_beside_one_another_and_containers_apart(self, play: Play) -> None:
        code = "print(sorted(os.listdir('/data/set')), sorted(os.listdir('/other')))\nopen('/other/x', 'w').close()"

        async def act(actor: Actor, stage: VolumeStage) -> None:
            for number in range(2):
                upper = {"target": "/other", "upper": f"x{number}/1"}
                made = stage.launch_mounted(code, stage.mounted(2), stage.mounted(1, **upper))
                assert await ran(actor, made) == ["['a.txt', 'sub'] ['a.txt', 'gone.txt', 'sub']"]

        play(act)

    def test_2_a_running_container_gets_another_version_and_keeps_its_writes(self, play: Play) -> None:
        async def act(actor: Actor, stage: VolumeStage) -> None:
            made = stage.launch_mounted(WATCH, stage.mounted(1, upper="x/0"))
            await actor.open(made)
            handle = await actor.run(made)
            await actor.log.until(made.container_id, "one")
            while True:
                try:
                    await stage.runtime.remount(handle, stage.mounted(2, upper="x/0"))
                    break
                except MountBusy:
                    await asyncio.sleep(0.001)  # sleep: it reads the file again and again
            await actor.runtime.wait(handle)
            assert actor.log.texts(made.container_id, 1) == ["one", "two", "own"]
            with pytest.raises(MountFailed, match="ended"):
                await stage.runtime.remount(handle, stage.mounted(2))

        play(act)

    def test_3_open_files_keep_a_volume_as_it_is(self, play: Play) -> None:
        async def act(actor: Actor, stage: VolumeStage) -> None:
            made = stage.launch_mounted(HOLD, stage.mounted(1))
            await actor.open(made)
            handle = await actor.run(made)
            await actor.log.until(made.container_id, "open")
            with pytest.raises(MountBusy):
                await stage.runtime.remount(handle, stage.mounted(2))
            await actor.runtime.destroy(handle)

        play(act)

    def test_4_what_is_written_is_above_the_version_and_nowhere_else_until_it_is_discarded(self, play: Play) -> None:
        async def act(actor: Actor, stage: VolumeStage) -> None:
            made = stage.launch_mounted(CHANGE + LIST, stage.mounted(1, upper="one/0"))
            assert await ran(actor, made) == ["a.txt mine", "gone.txt one", "new.txt new", "made/c.txt c"]
            assert (stage.contents / FIRST).read_text() == FIRST
            changes = await stage.trees.changes(stage.upper("one/0"), {})
            assert {entry.path for entry in changes.puts} == {"a.txt", "new.txt", "sub", "made", "made/c.txt"}
            assert changes.removes == ["sub/b.txt"]
            made = stage.launch_mounted(LIST, stage.mounted(1))
            assert await ran(actor, made) == ["a.txt one", "gone.txt one", "sub/b.txt one"]
            await stage.runtime.discard("one")
            assert not (stage.home.uppers / "one").exists()

        play(act)

    def test_4_two_containers_that_run_at_once_have_their_own_writes(self, play: Play) -> None:
        code = f"open({TARGET!r} + '/' + os.environ['NAME'], 'w').close()\nwait()"
        look = f"print(sorted(os.listdir({TARGET!r})))"

        async def act(actor: Actor, stage: VolumeStage) -> None:
            handles = []
            for name in ("x", "y"):
                made = stage.launch_mounted(code, stage.mounted(2, upper=f"{name}/0"))
                made = msgspec.structs.replace(made, env={**made.env, "NAME": name})
                await actor.open(made)
                handles.append(await actor.run(made))
                await actor.log.until(made.container_id, "ready")
            assert await ran(actor, stage.launch_mounted(look, stage.mounted(2))) == ["['a.txt', 'sub']"]
            for handle, name in zip(handles, ("x", "y"), strict=True):
                await actor.runtime.destroy(handle)
                changes = await stage.trees.changes(stage.upper(f"{name}/0"), {})
                assert changes.files == {name}

        play(act)

    def test_a_template_reads_a_version_and_its_containers_have_their_own(self, play: Play) -> None:
        """The 14th of `ports.runtime`: `volumes` of a template."""

        async def act(actor: Actor, stage: VolumeStage) -> None:
            runtime = stage.runtime
            if not runtime.capabilities().snapshot_volumes:
                pytest.skip("its templates have no volumes")
            made = stage.launch_mounted(LOADED, stage.mounted(2, upper="x/0"))
            source_id = stage.source(f"{PLAIN}\n{READS}", "reads").source_id
            template = msgspec.structs.replace(made.template, source_id=source_id)
            made = msgspec.structs.replace(made, template=template)
            volumes = (stage.mounted(1),)
            for _ in range(2):
                await runtime.open_template(template, stage.image, cause="ta-0", output=actor.log.take, volumes=volumes)
                handle = await actor.run(made)
                await runtime.wait(handle)
                assert actor.log.texts(made.container_id, 2) == []
                assert actor.log.texts(made.container_id, 1) == ["one Read-only file system", "two", "['sub'] one"]
                await runtime.close_template(template)
                await runtime.discard("x")
                again = stage.launch_mounted(LOADED, stage.mounted(2, upper="x/0"))
                made = msgspec.structs.replace(again, template=template)
            missing = (stage.mounted(1, sub_path="missing"),)
            with pytest.raises(TemplateFailed) as caught:
                await runtime.open_template(template, stage.image, cause="ta-0", output=actor.log.take, volumes=missing)
            assert "the volume has no folder 'missing'" in decode_failure(caught.value.payload, rebuild=False).message

        play(act)


class AttachingContract:
    """Of `ports.attaching`, with a mount of this test's. Inherited as MountingContract is; where that is root's."""

    def test_1_a_mount_of_the_machine_is_in_a_container_and_gone_with_it(
        self, open_volumes: Open, tmp_path: Path
    ) -> None:
        async def main() -> None:
            async with asyncio.timeout(2 * WAIT_S), open_volumes() as stage:
                await stage.lay_out()
                actor = Actor(stage)  # type: ignore[arg-type]  # the rest of a stage is not needed
                for read_only, said in ((True, "Read-only file system"), (False, "written")):
                    with closing_file(mount_of_files(tmp_path / "made", {"a.txt": "attached"})) as tree:
                        bucket = AttachedBucket(target="/bucket", descriptor=tree, read_only=read_only)
                        made = stage.launch_mounted(ATTACHED, stage.mounted(2))
                        template = msgspec.structs.replace(made.template, buckets=("/bucket",))
                        made = msgspec.structs.replace(made, template=template, attached=(bucket,))
                        assert await ran(actor, made) == ["attached", "['a.txt', 'sub']", said]

        asyncio.run(main())
        assert not os.path.exists("/bucket")


ATTACHED = f"""
print(open("/bucket/a.txt").read())
print(sorted(os.listdir({TARGET!r})))
try:
    open("/bucket/new.txt", "w").close()
    print("written")
except OSError as error:
    print(error.strerror)
"""


def mount_of_files(folder: Path, files: dict[str, str]) -> int:
    """A file system in memory with these files, that is mounted nowhere: its descriptor."""
    folder.mkdir(exist_ok=True)
    kernel.mount("tmpfs", str(folder), "tmpfs", 0, "mode=777")
    try:
        for name, text in files.items():
            (folder / name).write_text(text)
        return kernel.take(str(folder))
    finally:
        kernel.unmount(str(folder))


@contextmanager
def closing_file(descriptor: int) -> Iterator[int]:
    """A descriptor, until it is closed."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def ran(actor: Actor, made: Launch) -> list[str]:
    """What a container printed until it ended."""
    await actor.open(made)
    handle = await actor.run(made)
    await actor.runtime.wait(handle)
    return [*actor.log.texts(made.container_id, 1), *actor.log.texts(made.container_id, 2)]
