"""Containers that are restored, by the process runtime: in what order, what is new in them, and what failures cost.

The checkpointer is a fake whose processes are real: "restored" ones are started anew, and told what the first was told.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from jitney.drivers.checkpoints.fake import FakeCheckpointer, FakeHooks, FakeProcess
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.loading import Loaded, behind_wall, load_message
from jitney.drivers.runtime.process import ProcessRuntime
from jitney.drivers.runtime.process.child import OwnChild
from jitney.drivers.runtime.process.door import Door
from jitney.drivers.runtime.process.render import TemplateRecipe
from jitney.ports.checkpoints import CheckpointFailed
from jitney.runner import template_protocol as protocol
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import MODULE, PLAIN, ProcessStage, open_stage
from jitney.values.containers import Snapshot, TemplateSpec
from jitney.wire.home import Home

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

THREADED = (
    PLAIN
    + """
import random, uuid
with open(os.environ["IMPORTS"], "a") as file:
    file.write("imported\\n")
os.environ["SET_BY_IMPORT"] = "yes"
threading.Thread(target=threading.Event().wait, daemon=True, name="beat").start()
drawn = random.random()
"""
)
CONNECTED = (
    THREADED
    + """
import socket
listener = socket.create_server(("127.0.0.1", 0))
"""
)
SNAPPED = (
    PLAIN
    + """
import random
class Model:
    def load(self):
        threading.Thread(target=threading.Event().wait, daemon=True, name="beat").start()
    load.__jitney_enter__ = load.__jitney_snap__ = True
"""
)
SHOW = "print(random.random(), os.environ.get('SET_BY_IMPORT'), os.environ.get('OLD'), os.environ.get('NEW')); "
END = "print('ready', flush=True); os._exit(3)"


class Machine:
    """Makes a process again from its command line and what a worker told it."""

    def __init__(self, door: str, spec, source: str) -> None:
        self.door, self.spec, self.source = door, spec, source

    def is_stopped(self, pid):
        stat = procfs.stat(pid)
        return stat is not None and stat.state == "T"

    def memory(self, pid):
        proc = Path(f"/proc/{pid}")
        argv = (proc / "cmdline").read_text().split("\0")[:-1]
        environ = dict(one.split("=", 1) for one in (proc / "environ").read_text().split("\0")[:-1])
        return json.dumps([argv, environ, os.readlink(f"/proc/{pid}/cwd")]).encode()

    async def make(self, memory):
        argv, environ, cwd = json.loads(memory)
        ours, theirs = socket.socketpair()
        nothing = os.open(os.devnull, os.O_RDWR)
        with ours, theirs:
            argv[3] = str(theirs.fileno())
            child = OwnChild(TemplateRecipe(argv=tuple(argv), env=environ, cwd=cwd), theirs.fileno(), [nothing] * 2)
            os.close(nothing)
            theirs.close()
            told = {"kind": protocol.LOAD, **load_message(self.spec, self.source, checkpoint=True)}
            protocol.send_frame(ours, protocol.pack(told))
            protocol.send_frame(ours, protocol.pack({"kind": protocol.PAUSE, "door": self.door}))
            while (await asyncio.to_thread(protocol.receive, ours))[0]:
                pass
        process = FakeProcess(child.pid, b"")
        process.kill = child.kill
        child.watch(process.finish)
        await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        return process


class Stage(ProcessStage):
    """Its runtime has a fake checkpointer."""

    budget_mib = 1_000
    environ: ClassVar = {**os.environ, "OLD": "old"}

    def make_runtime(self):
        self.did: list[str] = []
        self.spec = msgspec.structs.replace(self.source(THREADED), checkpoint=True)
        self.imports = self.home.root / "imports"
        self.environ = {**self.environ, "IMPORTS": str(self.imports)}
        source = str(self.home.sources / self.spec.source_id)
        self.checkpointer = FakeCheckpointer(Machine(Door(self.home.short).address, self.spec, source))
        self.checkpointer.did = self.did
        self.hooks = FakeHooks(has_state=False, did=self.did)
        return self.again()

    def again(self):
        return ProcessRuntime(
            self.home,
            environ=self.environ,
            checkpointer=self.checkpointer,
            hooks=self.hooks,
            checkpoints_mib=self.budget_mib,
        )

    def checkpoints(self):
        folder = self.home.root / "checkpoints"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def imported(self):
        return len(self.imports.read_text().splitlines()) if self.imports.exists() else 0


@pytest.fixture
def play(tmp_path):
    """Runs a coroutine function with a stage and an actor; nothing of its containers may be left."""

    def run(act, kind=Stage) -> None:
        async def main() -> None:
            async with asyncio.timeout(50), open_stage(tmp_path / "home", kind) as stage:
                await act(stage, Actor(stage))
                await stage.runtime.close()
                assert stage.left_overs() == []

        asyncio.run(main())

    return run


async def start(actor, spec=None, code=SHOW + END, **env):
    """A container from its start to its end: (its note, what it printed first)."""
    launch = actor.stage.launch_code(code, spec or actor.stage.spec, **env)
    await actor.open(launch)
    handle = await actor.run(launch)
    assert (await actor.runtime.wait(handle)).exit_code == 3
    return handle.note, actor.log.texts(handle.container_id, 1)


def test_the_first_is_written_down_and_later_ones_are_restored(play):
    async def act(stage, actor):
        stage.hooks.has_state = True
        first, _ = await start(actor)
        assert "the thread 'beat'" in first
        assert first.endswith("later containers are restored from a checkpoint.")
        assert stage.did == ["before", "dump", "after"]
        for _ in range(2):
            note, _ = await start(actor)
            assert note.startswith("restored from a checkpoint")
        assert stage.did == ["before", "dump", "after"] + 2 * ["restore", "after"]
        assert len(stage.checkpoints()) == 1

    play(act)


def test_each_has_output_environment_and_random_numbers_of_its_own(play):
    async def act(stage, actor):
        found = [(await start(actor, NEW=str(number)))[1] for number in range(3)]
        shown = [lines[-2].split() for lines in found]
        assert [lines[-1] for lines in found] == ["ready"] * 3
        assert len({random for random, *_ in shown}) == 3
        assert [rest for _, *rest in shown] == [["yes", "old", str(number)] for number in range(3)]

    play(act)


def test_a_later_worker_restores_without_an_import_of_its_own(play):
    async def act(stage, actor):
        await start(actor)
        before = stage.imported()
        await stage.runtime.close()
        stage.environ = {name: value for name, value in stage.environ.items() if name != "OLD"}
        stage.runtime = stage.again()
        await stage.runtime.reap()
        note, lines = await start(Actor(stage))
        assert note.startswith("restored from a checkpoint")
        assert stage.imported() == before + 1  # that of the fake's: it has no memory of the first
        assert lines[0].split()[1:3] == ["yes", "None"]  # the environment is that of the later worker

    play(act)


def test_several_first_ones_are_written_down_once(play):
    async def act(stage, actor):
        launches = [stage.launch_code(END, stage.spec) for _ in range(3)]
        await actor.open(launches[0])
        handles = await asyncio.gather(*(actor.run(launch) for launch in launches))
        for handle in handles:
            assert (await actor.runtime.wait(handle)).exit_code == 3
        assert stage.did == ["before", "dump"]
        assert sum("it is just being made" in handle.note for handle in handles) == 2

    play(act)


def test_a_dump_that_fails_costs_a_reason_and_is_not_tried_for_ever(play):
    async def act(stage, actor):
        stage.checkpointer.fails += [CheckpointFailed("it has a ghost"), CheckpointFailed("it has a spectre")]
        assert "no checkpoint to restore it from: it has a ghost." in (await start(actor))[0]
        assert "it has a spectre." in (await start(actor))[0]
        assert "it has a spectre." in (await start(actor))[0]
        assert stage.did == 2 * ["before", "dump"]
        assert stage.checkpoints() == []

    play(act)


def test_a_process_that_a_dump_has_lost_is_replaced(play):
    async def act(stage, actor):
        stage.checkpointer.fails.append(CheckpointFailed("criu took too long", is_process_lost=True))
        note, lines = await start(actor)
        assert "criu took too long." in note
        assert lines[-1] == "ready"
        assert stage.imported() == 3  # the template, the one that was lost, and this one

    play(act)


def test_a_hook_that_fails_keeps_it_from_being_dumped_and_the_process_goes_on(play):
    async def act(stage, actor):
        stage.hooks.fails.append(CheckpointFailed("the GPU does not let go"))
        note, _ = await start(actor)
        assert "the GPU does not let go." in note
        assert stage.did == ["before"]
        assert stage.imported() == 2  # the template and this one
        assert stage.checkpoints() == []

    play(act)


def test_a_process_that_does_not_get_its_devices_back_is_replaced(play):
    async def act(stage, actor):
        stage.hooks.has_state = True
        stage.hooks.fails += [None, CheckpointFailed("the GPU is gone")]
        assert "the GPU is gone." in (await start(actor))[0]
        assert (await start(actor))[0].endswith("restored from a checkpoint.")
        stage.hooks.fails.append(CheckpointFailed("the GPU is gone again"))
        note, _ = await start(actor)
        assert "the GPU is gone again." in note
        assert stage.checkpoints() == []

    play(act)


def test_a_checkpoint_that_gives_no_process_is_removed_and_the_container_starts_cold(play):
    async def act(stage, actor):
        await start(actor)
        stage.checkpointer.fails.append(CheckpointFailed("no process can be made from it"))
        note, lines = await start(actor)
        assert "no checkpoint to restore it from: no process can be made from it." in note
        assert lines[-1] == "ready"
        assert stage.checkpoints() == []
        assert "later containers are restored" in (await start(actor))[0]  # once more

    play(act)


def test_a_snapshot_that_cannot_be_shared_is_written_down_or_else_not_used(play):
    async def act(stage, actor):
        stage.checkpointer.machine.spec = spec = msgspec.structs.replace(
            stage.source(SNAPPED, "snapped"), checkpoint=True, snapshot=Snapshot(qualname="Model")
        )
        stage.checkpointer.machine.source = str(stage.home.sources / spec.source_id)
        assert "later containers are restored" in (await start(actor, spec))[0]
        assert (await start(actor, spec))[0].startswith("restored from a checkpoint")
        stage.checkpointer.fails += [CheckpointFailed("no")]
        assert "restore it from: no." in (await start(actor, spec))[0]
        stage.checkpointer.fails += [CheckpointFailed("no again")]
        assert "restore it from: no again." in (await start(actor, spec))[0]
        assert stage.runtime.template_pid(spec) is None
        note, _ = await start(actor, spec)
        assert "the memory snapshot is not used" in note
        assert stage.runtime.template_pid(spec) is not None  # and it was forked, without the snapshot

    play(act)


def test_what_the_network_is_at_the_other_end_of_is_not_written_down(play):
    async def act(stage, actor):
        spec = msgspec.structs.replace(stage.source(CONNECTED, "connected"), checkpoint=True)
        note, _ = await start(actor, spec)
        assert "it left a socket that listens on 127.0.0.1:" in note
        assert stage.did == []

    play(act)


def test_it_is_asked_for(play):
    async def act(stage, actor):
        note, _ = await start(actor, msgspec.structs.replace(stage.spec, checkpoint=False))
        assert "checkpoint" not in note
        assert stage.did == []

    play(act)


def test_where_it_cannot_be_done_the_log_says_why(play):
    async def act(stage, actor):
        stage.checkpointer.refuses = "no kernel"
        assert "There is no checkpoint to restore it from: no kernel." in (await start(actor))[0]
        stage.runtime = ProcessRuntime(stage.home, environ=stage.environ)
        assert "this worker makes none." in (await start(Actor(stage)))[0]
        assert stage.did == []

    play(act)


class Small(Stage):
    budget_mib = 1


class Off(Stage):
    budget_mib = 0


def test_what_is_over_the_budget_is_not_written_down(play):
    async def act(stage, actor):
        note, _ = await start(actor)
        assert "MiB of memory, and `checkpoints_mib` is 1." in note
        assert "dump" not in stage.did
        assert stage.checkpoints() == []

    play(act, Small)


def test_a_budget_of_0_makes_none(play):
    async def act(stage, actor):
        assert "`checkpoints_mib` is 0." in (await start(actor))[0]
        assert stage.did == []

    play(act, Off)


def test_checkpoints_go_with_their_code(play):
    async def act(stage, actor):
        await start(actor)
        folder = stage.home.root / "checkpoints"
        (folder / "unfinished.partial").mkdir()
        (folder / "wreck").mkdir()
        await actor.runtime.reap()
        assert len(stage.checkpoints()) == 1
        source = stage.home.sources / stage.spec.source_id
        (source / f"{MODULE}.py").unlink()
        for path in source.rglob("*"):
            if path.is_file():
                path.unlink()
        for path in sorted(source.rglob("*"), reverse=True):
            path.rmdir()
        source.rmdir()
        await actor.runtime.close_template(stage.spec)
        assert stage.checkpoints() == []

    play(act)


def test_an_end_that_a_signal_made_is_told(play):
    async def act(stage, actor):
        await start(actor)
        launch = stage.launch_code("wait()", stage.spec)
        handle = await actor.run(launch)
        await actor.log.until(handle.container_id, "ready")
        await actor.runtime.destroy(handle)
        assert (await actor.runtime.wait(handle)).signal == 9

    play(act)


def test_behind_a_wall_it_is_said_that_there_is_none():
    spec = TemplateSpec(image_id="im-1", checkpoint=True)
    stuck = Loaded(obstacles=("the thread 'beat'",))
    assert "CRIU cannot write down a process behind a wall" in behind_wall(spec, stuck).note
    assert behind_wall(msgspec.structs.replace(spec, checkpoint=False), stuck) == stuck
    assert behind_wall(spec, Loaded()) == Loaded()


def test_a_stranger_at_the_door_is_sent_away(tmp_path):
    async def act():
        door = Door(Home(tmp_path).short)
        coming = door.expect(1)
        reader, writer = await asyncio.open_unix_connection(door.address)
        assert await reader.read() == b""  # this process was not expected
        writer.close()
        own = door.expect(os.getpid())
        _, writer = await asyncio.open_unix_connection(door.address)
        (await own).close()
        writer.close()
        with pytest.raises(OSError, match="in use"):
            Door(Home(tmp_path).short).expect(1)
        door.close()
        assert coming.cancelled()

    asyncio.run(act())
