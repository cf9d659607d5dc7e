"""Where volumes go in containers that are plain processes, and what is the machine's own there."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.drivers.runtime.process import views
from jitney.drivers.runtime.process.views import FRAMED, NoPlace, Seen, frame_of, render_view, try_view
from jitney.ports.interactive import ExecFailed, ExecSpec, TtySize
from jitney.ports.runtime import StartFailed
from jitney.testing.conformance.mounting import TARGET, VOLUME, VolumeStage, ran
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import PLAIN, open_stage
from jitney.values.volumes import Mounted

needs_views = pytest.mark.skipif(bool(try_view().why), reason=f"no views here: {try_view().why}")


def machine(*folders, closed=(), mine=()):
    """How a machine with these folders looks to a user who owns `mine`."""
    there = {"/", *folders} - set(closed)
    return lambda path: Seen(path in there, path in mine)


@pytest.mark.parametrize("target, found", [
    ("/data", ("/", "data")),
    ("/data/set/x", ("/", "data/set/x")),
    ("/mnt", None),
    ("/mnt/x", ("/mnt", "x")),
    ("/usr/share/x/y", ("/usr/share", "x/y")),
    ("/root/models", ("/", "root/models")),
])  # fmt: skip
def test_what_is_missing_gets_a_place_in_a_frame(target, found):
    look = machine("/mnt", "/usr", "/usr/share", "/root", "/home", "/home/u", closed=["/root"], mine=["/home/u"])
    assert frame_of(target, look) == found


def test_no_frame_hides_where_the_user_writes():
    look = machine("/home", "/home/u", mine=["/home/u"])
    with pytest.raises(NoPlace, match=r"mkdir -p /home/u/x/y.*a path like /y"):
        frame_of("/home/u/x/y", look)


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(PATHS, st.sets(PATHS), st.sets(PATHS))
def test_a_frame_is_over_what_is_there_and_has_all_that_is_not(target, folders, mine):
    look = machine(*folders, mine=mine)
    try:
        found = frame_of(target, look)
    except NoPlace:
        return
    if found is None:
        assert look(target).is_there
        return
    at, inside = found
    assert os.path.join(at, inside) == target
    assert look(at).is_there
    assert not look(os.path.join(at, inside.split("/")[0])).is_there or not look(target).is_there
    assert at in FRAMED or not look(at).may_write


def mounted(target):
    return Mounted(target=target, volume_id=VOLUME, version=0, layers=("0",))


def test_frames_are_shared_and_come_from_the_root_down():
    plan = render_view(
        [mounted("/mnt/x"), mounted("/b"), mounted("/a/b"), mounted("/mnt")],
        folder="/h", stage="/h/s", own_ids=False, look=machine("/mnt"), kept=(),
    )  # fmt: skip
    assert plan["frames"] == [{"at": "/", "folders": ["b", "a/b"]}, {"at": "/mnt", "folders": ["x"]}]
    assert [one["target"] for one in plan["mounts"]] == ["/mnt/x", "/b", "/a/b", "/mnt"]


@pytest.mark.parametrize("target", ["/home", "/home/u", "/home/u/.jitney"])
def test_no_volume_hides_what_containers_need(target):
    look = machine("/home", "/home/u", "/home/u/.jitney")
    with pytest.raises(NoPlace, match=r"would hide /home/u/\.jitney"):
        render_view([mounted(target)], folder="/h", stage="/s", own_ids=True, look=look, kept=["/home/u/.jitney"])
    render_view([mounted("/home2")], folder="/h", stage="/s", own_ids=True, look=look, kept=["/home/u/.jitney"])


def test_a_system_without_mount_namespaces_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    found = views.try_view.__wrapped__()
    assert "each container" in found.why
    assert "batch_upload" in found.remedy


# ------------------------------------------------------------------------------------------------ with processes


@pytest.fixture
def play(tmp_path):
    def run(act):
        async def main():
            async with asyncio.timeout(60), open_stage(tmp_path / "home", VolumeStage) as stage:
                await stage.lay_out()
                await act(Actor(stage), stage)

        asyncio.run(main())

    return run


@needs_views
def test_the_rest_of_the_machine_is_its_own(play, tmp_path):
    (tmp_path / "seen").write_text("of the machine")
    code = f"""
print(open({str(tmp_path / "seen")!r}).read(), os.getuid(), os.getcwd() == os.environ["TMPDIR"])
print(sorted(set(os.listdir("/")) - {{"data"}}) == {sorted(os.listdir("/"))!r})
open({str(tmp_path / "written")!r}, "w").write("by it")
try:
    os.mkdir("/data/beside")
except OSError as error:
    print(error.strerror)
subprocess.run([sys.executable, "-c", "print(open('/data/set/a.txt').read())"])
"""

    async def act(actor, stage):
        said = await ran(actor, stage.launch_mounted(code, stage.mounted(2)))
        assert said == [f"of the machine {os.getuid()} True", "True", "Read-only file system", "two"]
        assert (tmp_path / "written").read_text() == "by it"

    play(act)
    assert not os.path.exists("/data")
    assert TARGET not in Path("/proc/self/mountinfo").read_text()


@needs_views
def test_a_folder_that_is_there_is_covered_and_comes_back(play, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "own").write_text("own")
    (tmp_path / "link").symlink_to("real")

    async def act(actor, stage):
        for name in ("real", "link"):
            code = f"print(sorted(os.listdir({str(tmp_path / name)!r})))"
            made = stage.launch_mounted(code, stage.mounted(2, target=str(tmp_path / name)))
            assert await ran(actor, made) == ["['a.txt', 'sub']"]
        assert os.listdir(tmp_path / "real") == ["own"]

    play(act)


@needs_views
def test_a_start_that_would_leave_or_hide_something_is_refused(play, tmp_path):
    async def act(actor, stage):
        for target, why in ((tmp_path / "new" / "x", "mkdir -p"), (tmp_path, "would hide")):
            made = stage.launch_mounted("", stage.mounted(2, target=str(target)))
            await actor.open(made)
            with pytest.raises(StartFailed, match=why):
                await actor.run(made)
        assert not (tmp_path / "new").exists()
        assert not stage.left_overs()

    play(act)


@needs_views
def test_a_container_that_cannot_be_forked_has_its_volumes_too(play):
    text = f"{PLAIN}\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"

    async def act(actor, stage):
        spec = msgspec.structs.replace(stage.source(text, "threads"), checkpoint=True)
        code = "print(open('/data/set/a.txt').read(), flush=True)\nwait()"
        made = msgspec.structs.replace(stage.launch_mounted(code, stage.mounted(1)), template=spec)
        await actor.open(made)
        handle = await actor.run(made)
        await actor.log.until(made.container_id, "one")
        await stage.runtime.remount(handle, stage.mounted(2))
        seen = await asyncio.to_thread(Path(f"/proc/{handle.pid}/root/data/set/a.txt").read_text)
        assert seen == "two"
        await stage.runtime.destroy(handle)
        missing = stage.launch_mounted("", stage.mounted(2, sub_path="missing"))
        with pytest.raises(StartFailed) as caught:
            await actor.run(msgspec.structs.replace(missing, template=spec))
        assert b"its volumes cannot be mounted" in caught.value.payload

    play(act)


@needs_views
def test_commands_see_the_volumes(play):
    async def act(actor, stage):
        made = stage.launch_mounted("wait()", stage.mounted(2))
        await actor.open(made)
        handle = await actor.run(made)

        async def output(*argv, tty=None):
            out = []
            spec = ExecSpec(argv=argv, cwd="/data/set", tty=tty)
            session = await stage.runtime.exec(handle, spec, lambda _, data: out.append(data))
            return await session.wait(), b"".join(out).decode().split()

        assert await output("cat", "a.txt") == (0, ["two"])
        on_terminal = await output("sh", "-c", "test -t 0 && tty </dev/tty >/dev/null && pwd", tty=TtySize(24, 80))
        assert on_terminal == (0, ["/data/set"])
        assert (await output("sh", "-c", "exit 3"))[0] == 3
        with pytest.raises(ExecFailed, match="no /data/set/missing"):
            await output("/data/set/missing")
        await stage.runtime.destroy(handle)

    play(act)
