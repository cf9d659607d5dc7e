"""Volumes of steps of builds: what the box is given, what becomes of it, and the same behind a real wall."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest
from tests.conformance.test_box import _command_lines
from tests.drivers import test_builder_walls as walls
from tests.drivers.test_builder_rootfs import BASE, Stage, child_that_dies, read
from tests.drivers.test_builder_rootfs import stage as stage  # a fixture

from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.local import LocalBuilder
from jitney.drivers.walls import render
from jitney.drivers.walls.probe import probe
from jitney.errors import ImageBuildError, InvalidError, UnsupportedError
from jitney.ports.box import BoxSpec, BoxVolume
from jitney.testing.conformance.box import _until
from jitney.testing.conformance.builder_volumes import MOUNT, VOLUME
from jitney.testing.lending import FakeLender
from jitney.values.images import ImageSpec, RunCommands, RunFunction

WHY_NOT = probe().why
OTHER = f"vo-{'2' * 22}"
MARKER = "4712.0816"  # no other process of the machine has it in its command line


@pytest.fixture
def lender(tmp_path):
    made = FakeLender(tmp_path / "lent")
    for volume_id in (VOLUME, OTHER):
        made.make(volume_id)
    return made


def spec_of(*commands, **changes):
    layer = RunCommands(commands=commands, volumes=(msgspec.structs.replace(MOUNT, **changes),))
    return ImageSpec(base=BASE, layers=(layer,))


def build(stage: Stage, spec, lender, builder=None):
    return asyncio.run((builder or stage.builder()).build(spec, lambda *_: None, lender))


def test_all_commands_of_a_step_see_what_those_before_wrote_and_it_is_one_version(stage, lender, tmp_path):
    def first(run):
        assert run.read("/data/seed") == "seed"
        run.put("/data/one", "1")
        run.put("/opt/one", "in the image")
        return 0

    def second(run):
        run.put("/data/two", run.read("/data/one") + "2")
        return 0

    stage.machine.at_run |= {"first": first, "second": second}
    (tmp_path / "seed").write_text("seed")
    (tmp_path / "given").mkdir()
    shutil.move(tmp_path / "seed", tmp_path / "given" / "seed")
    lender.add(VOLUME, tmp_path / "given")
    image = build(stage, spec_of("first", "second"), lender)
    assert lender.files(VOLUME) == {"seed": "seed", "one": "1", "two": "12"}
    assert lender.messages(VOLUME) == ["", f"by the build of {image.image_id}: run first; second"]
    assert read(image, "opt/one") == "in the image"
    assert [read(image, f"data/{name}") for name in ("seed", "one", "two")] == [None] * 3
    # What was passing has gone, and the box had the folders of the version that was lent.
    assert not [*stage.images.glob("steps/*")]
    seen = {volume for run in stage.box.runs for volume in run.volumes}
    assert {volume.layers for volume in seen} == {tuple(str(tmp_path / "lent" / VOLUME / n) for n in "01")}
    assert len({volume.upper for volume in seen}) == 1


def test_options_of_the_mount_reach_the_box(stage, lender, tmp_path):
    (tmp_path / "given" / "deep").mkdir(parents=True)
    (tmp_path / "given" / "deep" / "a").write_text("one")
    lender.add(VOLUME, tmp_path / "given")
    (tmp_path / "given" / "deep" / "a").write_text("two")
    lender.add(VOLUME, tmp_path / "given")
    texts = []

    def writes(run):
        run.put("/data/b", "new")
        return 0

    def looks(run):
        texts.append(run.read("/data/a"))
        with pytest.raises(OSError, match="Read-only"):
            run.put("/data/a", "x")
        return 0

    stage.machine.at_run |= {"write": writes, "look": looks}
    build(stage, spec_of("look", sub_path="deep", version=1, read_only=True), lender)
    build(stage, spec_of("look", sub_path="deep", read_only=True), lender)
    assert texts == ["one", "two"]
    build(stage, spec_of("write", sub_path="deep"), lender)
    assert lender.files(VOLUME) == {"deep/a": "two", "deep/b": "new"}


@pytest.mark.parametrize("path", ["/tmp", "/tmp/.jitney"])
def test_a_volume_that_would_hide_what_steps_need_is_refused(stage, lender, path):
    mount = msgspec.structs.replace(MOUNT, path=path)
    layer = RunFunction(name="f", pickled=b"x", identity="f", volumes=(mount,))
    with pytest.raises(InvalidError, match=rf"a volume at {path} would hide /tmp") as raised:
        build(stage, ImageSpec(base=BASE, layers=(layer,)), lender)
    assert "another path" in raised.value.hint
    assert [run for run in stage.box.runs if run.volumes] == []
    assert lender.lent == []


def test_what_a_step_that_takes_too_long_wrote_is_not_kept(stage, lender):
    async def forever(run):
        run.put("/data/half", "half")
        await asyncio.Event().wait()

    stage.machine.at_run["hang"] = forever
    function = RunFunction(name="hang", pickled=b"x", identity="f", volumes=(MOUNT,), timeout_ms=300)
    stage.machine.at_run["/tmp/.jitney/sdk"] = forever
    with pytest.raises(ImageBuildError, match="took over"):
        build(stage, ImageSpec(base=BASE, layers=(function,)), lender)
    assert (lender.files(VOLUME), lender.lent) == ({}, [])
    assert not [*stage.images.glob("steps/*")]


def test_without_a_wall_steps_with_volumes_are_refused_before_anything_runs(tmp_path, lender):
    builder = LocalBuilder(tmp_path / "images", HostBox(), pip_config={})
    layer = RunFunction(name="fetch", pickled=b"x", identity="f", volumes=(MOUNT,))
    with pytest.raises(UnsupportedError, match=r"run function fetch cannot be made on this runtime") as raised:
        asyncio.run(builder.build(ImageSpec(layers=(layer,)), lambda *_: None, lender))
    assert "@app.function(volumes=...)" in raised.value.hint
    assert "`namespaces`" in raised.value.hint
    assert not (tmp_path / "images").exists()


def test_killed_at_any_point_nothing_is_left_and_the_next_build_commits(stage, lender, tmp_path):
    def writes(run):
        run.put("/data/made", "new")
        return 0

    stage.machine.at_run["write"] = writes
    spec, builder = spec_of("write"), stage.builder()
    image_id, point, before_commit = builder.plan(spec).image_id, 0, 0
    while True:
        point += 1
        was_killed = child_that_dies(stage, spec, point, lender)
        is_there = builder.find(image_id)
        assert was_killed or is_there
        is_committed = lender.look_again(VOLUME) > 0
        assert is_committed or not is_there  # never the other way round
        before_commit += not is_committed
        asyncio.run(builder.reap())
        assert not [*stage.images.glob("steps/*/")]
        if not was_killed:
            break
        build(stage, spec, lender, builder)
        assert lender.files(VOLUME) == {"made": "new"}
        shutil.rmtree(stage.images)
        shutil.rmtree(tmp_path / "lent" / VOLUME)
        lender.make(VOLUME)
    assert 5 < before_commit < point


def test_a_volume_is_taken_before_the_image_is_the_root_and_put_when_it_is():
    """A link of the image leads nowhere but into the image."""
    volumes = (
        BoxVolume(target="/data", layers=("/t/0", "/t/1"), upper="/steps/x/0", sub_path="a/b"),
        BoxVolume(target="/one", layers=("/t/0",)),
    )
    spec = BoxSpec(argv=("true",), layers=("/base",), upper="/roots/r/fs", volumes=volumes)
    outside = render.Outside(stage="/s", scratch="/roots/r", sockets="", segments="", blobs="")
    stage_ops = render.render_box_stage(spec, outside, "/mask")
    assert [op for op in stage_ops if "/volumes/" in str(op)] == [
        ["folder", "/s/volumes/0/all", 0o755],
        ["bind", "/t/0", "/s/volumes/0/0", True],
        ["bind", "/t/1", "/s/volumes/0/1", True],
        ["bind", "/steps/x", "/s/volumes/0/own", False],
        ["folder", "/s/volumes/1/all", 0o755],
        ["bind", "/t/0", "/s/volumes/1/0", True],
    ]
    _, ops = render.render_box_root(spec, outside, "/mask", upper="fs", work="fs.work", resolv_conf="")
    pivot = ops.index(["pivot", "/r"])
    own = "/volumes/0/own/0"
    assert ops[pivot - 4 : pivot] == [
        ["overlay", "/volumes/0/all", ["/volumes/0/0", "/volumes/0/1"], own, f"{own}.work", False],
        ["take_part", "volume 0", "/volumes/0/all", "a/b", False],
        ["bind", "/volumes/1/0", "/volumes/1/all", True],
        ["take_part", "volume 1", "/volumes/1/all", "", True],
    ]
    assert ops[-2:] == [["put_made", "volume 0", "/data", False], ["put_made", "volume 1", "/one", True]]


# ------------------------------------------------------------------------------------------------ real walls

needs_walls = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers over the machine's own file system"),
]


@pytest.fixture
def walled(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    tmp_path.chmod(0o711)
    made = walls.Stage(tmp_path)
    made.lender = FakeLender(tmp_path / "lent")
    for volume_id in (VOLUME, OTHER):
        made.lender.make(volume_id)
    return made


def walled_spec(*commands, volumes=(MOUNT,)):
    return ImageSpec(layers=(RunCommands(commands=commands, volumes=volumes),))


def walled_build(walled, spec):
    lines = []
    image = asyncio.run(walled.builder.build(spec, lambda *event: lines.append(event[3]), walled.lender))
    return image, lines


class TestWalls:
    pytestmark = needs_walls

    def test_what_a_step_writes_is_in_the_volume_and_not_in_the_image(self, walled):
        other = msgspec.structs.replace(MOUNT, path="/srv/deep/other", volume_id=OTHER)
        commands = (
            "echo one > /data/a; mkdir /data/d",
            "cat /data/a; echo two > /data/d/b",
            "cp /data/a /srv/deep/other",
        )
        image, lines = walled_build(walled, walled_spec(*commands, volumes=(MOUNT, other)))
        assert "one" in lines
        assert walled.lender.files(VOLUME) == {"a": "one\n", "d/b": "two\n"}
        assert walled.lender.files(OTHER) == {"a": "one\n"}
        assert not [path for layer in image.layers[1:] for path in ("data", "srv/deep") if Path(layer, path).exists()]
        assert str(walled.folder) not in Path("/proc/self/mounts").read_text()
        # Later steps, without it, see nothing of it.
        _, lines = walled_build(walled, ImageSpec(layers=(RunCommands(commands=("ls /data 2>&1 || true",)),)))
        assert "No such file" in lines[-1]

    def test_a_step_that_failed_leaves_nothing_in_the_volume(self, walled):
        with pytest.raises(ImageBuildError, match="exit code 9"):
            walled_build(walled, walled_spec("echo half > /data/half", "exit 9"))
        assert walled.lender.files(VOLUME) == {}
        assert [*walled.folder.glob("images/steps/*")] == []

    def test_killed_in_the_middle_nothing_stays_mounted_and_the_next_build_starts_clean(self, walled):
        script = f"ls /data; echo x > /data/half; test -e /data/go || {{ echo waiting; sleep {MARKER}; }}"
        spec, pipe = walled_spec(script), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(walled.builder.build(spec, lambda *event: os.write(pipe[1], b"x"), walled.lender))
            finally:
                os._exit(0)
        os.close(pipe[1])
        while not has_marker():
            assert os.read(pipe[0], 1) == b"x"  # a line of the build, which goes on
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pipe[0])
        asyncio.run(_until(lambda: not has_marker()))
        assert str(walled.folder) not in Path("/proc/self/mounts").read_text()
        assert asyncio.run(walled.builder.reap()) > 0
        assert [*walled.folder.glob("images/steps/*")] == []
        assert walled.lender.files(VOLUME) == {}
        given = walled.folder / "given"
        given.mkdir()
        (given / "go").write_text("go")
        walled.lender.add(VOLUME, given)
        _, lines = walled_build(walled, spec)
        assert "half" not in lines
        assert walled.lender.files(VOLUME) == {"go": "go", "half": "x\n"}


def has_marker():
    return any(MARKER in line for line in _command_lines())
