"""What user code may do to the process runtime, with real processes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys

import msgspec
import pytest

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.leftovers import is_alive
from jitney.drivers.runtime.forking.output import BURST_BYTES, CONTINUATION, RATE_BYTES_PER_S
from jitney.drivers.runtime.process import ProcessRuntime
from jitney.ports.runtime import StartFailed, TemplateFailed
from jitney.runner.failures import decode_failure
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import PLAIN, ProcessStage, open_stage
from jitney.values.containers import Snapshot
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy
from jitney.wire.home import Home

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture
def play(tmp_path):
    """Runs a coroutine function with an actor; nothing of its containers may be left."""

    def run(act, timeout_s: float = 40.0) -> None:
        async def main() -> None:
            async with asyncio.timeout(timeout_s), open_stage(tmp_path / "home", ProcessStage) as stage:
                await act(Actor(stage))
                await stage.runtime.close()
                assert stage.left_overs() == []

        asyncio.run(main())

    return run


async def start(actor: Actor, code: str, **options):
    launch = actor.stage.launch_code(code, **options)
    await actor.open(launch)
    return await actor.run(launch)


async def output_of(actor: Actor, code: str, **options) -> list[str]:
    handle = await start(actor, code, **options)
    await actor.runtime.wait(handle)
    return actor.log.texts(handle.container_id, 1)


DAEMON = """
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execve(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)"], {})
        os._exit(0)
    os.wait()
daemon()
"""


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "wait()"])
def test_a_daemon_that_forked_twice_and_wiped_its_environment_is_ended(play, ending):
    async def act(actor):
        handle = await start(
            actor,
            f"{DAEMON}\nprint(*open(f'/proc/{{os.getpid()}}/task/{{os.getpid()}}/children')"
            f".read().split(), flush=True)\n{ending}",
        )
        if ending == "wait()":
            await actor.log.until(handle.container_id, "ready")
            await actor.runtime.destroy(handle)
        await actor.runtime.wait(handle)
        [pid] = actor.log.texts(handle.container_id, 1)[0].split()
        assert not is_alive(int(pid))

    play(act)


def test_a_tree_that_keeps_forking_is_ended(play):
    code = """
def bomb(depth):
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if depth:
                bomb(depth - 1)
            time.sleep(600)
            os._exit(0)
bomb(4)
wait()
"""

    async def act(actor):
        handle = await start(actor, code)
        await actor.log.until(handle.container_id, "ready")
        await actor.runtime.destroy(handle)
        assert actor.stage.left_overs() == []

    play(act)


def test_the_daemon_of_one_container_survives_the_end_of_another(play):
    async def act(actor):
        code = (
            f"{DAEMON}\nprint(open(f'/proc/{{os.getpid()}}/task/{{os.getpid()}}/children').read(), flush=True)\nwait()"
        )
        handle = await start(actor, code)
        await actor.log.until(handle.container_id, "ready")
        pid = int(actor.log.texts(handle.container_id, 1)[0])
        await output_of(actor, "os._exit(0)")
        assert is_alive(pid)

    play(act)


def test_a_stopped_process_can_be_destroyed(play):
    async def act(actor):
        handle = await start(actor, "print('now', flush=True); os.kill(os.getpid(), signal.SIGSTOP)")
        await actor.log.until(handle.container_id, "now")
        actor.runtime.signal(handle, signal.SIGTERM)
        await actor.runtime.destroy(handle)
        assert (await actor.runtime.wait(handle)).signal == signal.SIGKILL

    play(act)


def test_a_container_may_close_its_descriptors(play):
    async def act(actor):
        handle = await start(actor, "print('before', flush=True)\nfor fd in range(3): os.close(fd)\nos._exit(5)")
        assert (await actor.runtime.wait(handle)).exit_code == 5
        assert actor.log.texts(handle.container_id, 1) == ["before"]

    play(act)


def test_output_without_a_newline_and_in_no_encoding_arrives(play):
    async def act(actor):
        lines = await output_of(actor, r"os.write(1, b'\xff\x00\x1b[31mred\n'); os.write(1, b'tail'); os._exit(0)")
        assert lines == ["\ufffd\0\x1b[31mred", "tail"]

    play(act)


def test_a_line_of_ten_megabytes_arrives_in_pieces(play):
    async def act(actor):
        lines = await output_of(
            actor, "sys.stdout.write('y' * 10_000_000 + '\\nend\\n'); sys.stdout.flush(); os._exit(0)"
        )
        assert lines[-1] == "end"
        assert sum(len(line.removeprefix(CONTINUATION)) for line in lines[:-1]) == 10_000_000

    play(act)


def test_a_flood_is_bounded_and_does_not_stop_the_container(play):
    size = 96 * 1024 * 1024
    code = f"""
block = (b"z" * 1023 + b"\\n") * 64
start = time.monotonic()
for _ in range({size} // len(block)):
    os.write(1, block)
os.write(2, b"%d" % (1000 * (time.monotonic() - start)))
os._exit(0)
"""

    async def act(actor):
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        handle = await start(actor, code)
        await actor.runtime.wait(handle)
        [took_ms] = actor.log.texts(handle.container_id, 2)
        assert int(took_ms) / 1000 < (size - BURST_BYTES) / RATE_BYTES_PER_S  # not held back to the rate of the log
        kept = 1024 * len(actor.log.texts(handle.container_id, 1))
        notes = actor.log.texts(handle.container_id, 0)
        dropped = sum(int(note.split("(")[1].split()[0].replace(",", "")) for note in notes)
        assert kept <= BURST_BYTES + (int(took_ms) / 1000 + 1) * RATE_BYTES_PER_S
        assert 1 <= len(notes) <= 2 + int(took_ms) / 1000
        assert abs(kept + dropped - size) <= 2_048 * len(notes)  # lines that were cut off at each change
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 3 * kept // 1024 + 32 * 1024  # what this test keeps, and little more

    play(act)


def test_a_killed_template_loses_no_daemon_and_no_exit_code(play):
    async def act(actor):
        launch = actor.stage.launch_code("signal.signal(signal.SIGTERM, lambda *_: os._exit(9)); wait()")
        await actor.open(launch)
        handle = await actor.run(launch)
        await actor.log.until(handle.container_id, "ready")
        await actor.lose_template(launch, lambda: actor.stage.launch_code("os._exit(0)"))
        actor.runtime.signal(handle, signal.SIGTERM)
        end = await actor.runtime.wait(handle)
        assert end.exit_code == 9
        assert end.max_rss_kib > 1_000

    play(act)


def test_a_module_that_starts_threads_gets_a_process_for_each_container(play):
    text = PLAIN + "\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\nprint('imported')\n"

    async def act(actor):
        spec = actor.stage.source(text, "threads")
        code = "print('threads', threading.active_count(), flush=True); os._exit(4)"
        for _ in range(2):
            launch = actor.stage.launch_code(code, spec)
            await actor.open(launch)
            handle = await actor.run(launch)
            end = await actor.runtime.wait(handle)
            assert end.exit_code == 4
            assert end.max_rss_kib > 1_000
            assert "threads 2" in actor.log.texts(handle.container_id, 1)
        handle = await actor.run(actor.stage.launch_code(f"{DAEMON}\nwait()", spec))
        await actor.log.until(handle.container_id, "ready")
        actor.runtime.signal(handle, signal.SIGKILL)
        assert (await actor.runtime.wait(handle)).signal == signal.SIGKILL
        assert actor.stage.left_overs() == []

    play(act)


def test_a_module_that_starts_threads_and_then_fails_says_why(play):
    async def act(actor):
        spec = actor.stage.source(
            PLAIN + "\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()", "t"
        )
        launch = actor.stage.launch_code("os._exit(0)", spec)
        await actor.open(launch)
        actor.stage.source("raise ValueError('changed its mind')", "t")
        with pytest.raises(StartFailed) as caught:
            await actor.run(launch)
        assert decode_failure(caught.value.payload, rebuild=False).message == "changed its mind"

    play(act)


def test_the_memory_of_forks_is_counted_once(play):
    code = """
kept = [b"x" * 10_000_000 for _ in range(15)]
for _ in range(4):
    if os.fork() == 0:
        time.sleep(600)
time.sleep(1.2)  # some looks of the watch
os._exit(6)
"""

    async def act(actor):
        handle = await start(actor, code, memory_limit_mib=300)
        assert (await actor.runtime.wait(handle)).exit_code == 6

    play(act)


def test_the_memory_of_children_counts(play):
    code = """
if os.fork() == 0:
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)
        time.sleep(0.005)
wait()
"""

    async def act(actor):
        handle = await start(actor, code, memory_limit_mib=300)
        end = await actor.runtime.wait(handle)
        assert end.oom_killed
        assert end.max_rss_kib > 300 * 1024

    play(act)


def test_a_full_scratch_folder_is_removed(play):
    code = """
os.makedirs("deep/er")
for number in range(300):
    open(f"deep/er/{number}", "w").close()
os.chmod("deep", 0o500)
os._exit(0)
"""

    async def act(actor):
        await output_of(actor, code)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert list(actor.stage.home.containers.glob("*trash*")) == []

    play(act)


def test_a_container_finds_its_folder_empty_though_it_was_used_before(play):
    async def act(actor):
        code = "print(os.getcwd(), os.listdir(), os.environ['TMPDIR'], oct(os.stat('.').st_mode & 0o777)); os._exit(0)"
        folders = set()
        for _ in range(40):
            handle = await start(actor, code)
            await actor.runtime.wait(handle)
            folder = str(actor.stage.home.containers / handle.container_id)
            folders.add(folder)
            assert actor.log.texts(handle.container_id, 1) == [f"{folder} [] {folder} 0o700"]
        assert len(folders) == 40

    play(act)


def test_the_environment_is_the_users_and_not_ours(play, monkeypatch):
    monkeypatch.setenv("JITNEY_SECRET", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    monkeypatch.setenv("SOME_VARIABLE", "kept")

    async def act(actor):
        code = (
            "print(*sorted(n for n in os.environ if n.startswith(('JITNEY_', 'PYTHON', 'SOME', 'OWN')))); os._exit(0)"
        )
        [line] = await output_of(actor, code, OWN="x")
        assert "JITNEY_SECRET" not in line
        assert "PYTHONHASHSEED" not in line
        assert "SOME_VARIABLE" in line
        assert "OWN" in line
        assert "JITNEY_CONTAINER_ID" in line

    play(act)


def test_a_bare_environment_can_import_the_sdk_and_nothing_else_of_ours(play, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    code = """
import jitney, msgspec, cloudpickle
print(os.path.dirname(os.path.dirname(sys.modules["msgspec"].__file__)) == sys.path[-1], sys.prefix)
try:
    import pytest
except ImportError:
    print("no pytest")
sys.stdout.flush()
os._exit(0)
"""

    async def act(actor):
        actor.stage.image = type(actor.stage.image)(
            image_id="im-1",
            python_path=str(tmp_path / "venv" / "bin" / "python"),
            python_version=actor.stage.image.python_version,
            cloudpickle_version="",
        )
        assert await output_of(actor, code) == [f"True {tmp_path / 'venv'}", "no pytest"]

    play(act)


def test_a_working_folder_is_made_or_must_be_there(play):
    async def act(actor):
        actor.stage.image = msgspec.structs.replace(actor.stage.image, workdir="work/here")
        [line] = await output_of(actor, "print(os.getcwd().endswith('/work/here')); sys.stdout.flush(); os._exit(0)")
        assert line == "True"
        actor.stage.image = msgspec.structs.replace(actor.stage.image, workdir="/nowhere")
        with pytest.raises(StartFailed) as caught:
            await start(actor, "os._exit(0)")
        assert "workdir /nowhere is not a folder" in decode_failure(caught.value.payload).message

    play(act)


def test_an_interpreter_that_is_gone_is_told(play):
    async def act(actor):
        actor.stage.image = type(actor.stage.image)(
            image_id="im-1", python_path="/nowhere/python", python_version="3.11.7", cloudpickle_version=""
        )
        launch = actor.stage.launch_code("os._exit(0)")
        with pytest.raises(TemplateFailed) as caught:
            await actor.open(launch)
        assert "/nowhere/python cannot be started" in decode_failure(caught.value.payload).message

    play(act)


WORKER = """
import asyncio, sys
from pathlib import Path
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import ProcessStage, open_stage

async def main():
    async with open_stage(Path(sys.argv[1]), ProcessStage) as stage:
        actor = Actor(stage)
        for _ in range(2):
            launch = stage.launch_code(sys.argv[2])
            await actor.open(launch)
            handle = await actor.run(launch)
            await actor.log.until(handle.container_id, "ready")
        print("running", flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


@pytest.mark.parametrize("also_template", [False, True])
def test_what_a_killed_worker_left_is_ended_by_the_next_one(tmp_path, also_template):
    home = Home(tmp_path / "home")
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(home.root), f"{DAEMON}\nwait()"], stdout=subprocess.PIPE, text=True
    )
    with worker:
        assert worker.stdout.readline() == "running\n"
        pids = procfs.tree(worker.pid)[1:]
        assert len(pids) == 5  # a template, two containers, two daemons
        worker.kill()
        if also_template:
            os.kill(pids[0], signal.SIGKILL)
        worker.wait()
    assert asyncio.run(asyncio.wait_for(ProcessRuntime(home).reap(), 20)) >= 2
    assert [pid for pid in pids if is_alive(pid)] == []
    assert list(home.containers.glob("ta-*")) == []


SNAPPED = """
class Model:
    def load(self):
        LEAVE
        print("snapshot of", os.getpid(), flush=True)
    load.__jitney_enter__ = load.__jitney_snap__ = True

    def run(self): pass
"""


@pytest.mark.parametrize(
    "leaves", ["", "threading.Thread(target=time.sleep, args=(600,), name='beat', daemon=True).start()"]
)
def test_a_snapshot_that_cannot_be_shared_is_not_and_the_log_says_why(play, leaves):
    async def act(actor):
        spec = actor.stage.source(PLAIN + SNAPPED.replace("LEAVE", leaves or "pass"), "snapped")
        spec = msgspec.structs.replace(spec, snapshot=Snapshot(qualname="Model"))
        launch = actor.stage.launch_code("print(os.getppid(), threading.active_count(), flush=True); os._exit(0)", spec)
        await actor.open(launch)
        facts = actor.runtime.template_facts(spec)
        assert facts.kib > 0
        assert facts.snapshot_ms > 0
        handle = await actor.run(launch)
        await actor.runtime.wait(handle)
        [printed] = [text for text in actor.log.texts(handle.container_id, 1) if "snapshot" in text]
        [ran] = [text for text in actor.log.texts(handle.container_id, 1) if "snapshot" not in text]
        template = str(actor.runtime.template_pid(spec))
        assert ran == f"{template} 1"  # a fork in both cases
        notes = actor.log.texts(handle.container_id, 0)
        if leaves:
            assert printed != f"snapshot of {template}"
            assert notes == [handle.note] == [facts.note]
            assert "the thread 'beat'" in facts.note
        else:
            assert printed == f"snapshot of {template}"
            assert notes == []
            assert facts.note == handle.note == ""

    play(act)


@pytest.mark.parametrize(
    "wall, words",
    [
        ({"isolation": Isolation.NAMESPACES}, "isolation='namespaces' is asked for"),
        ({"network": NetworkPolicy(blocked=True)}, "its network is to be restricted"),
        ({"network": NetworkPolicy(domains=("pypi.org",))}, "its network is to be restricted"),
    ],
)
def test_what_takes_a_wall_is_refused_before_anything_of_it_is_imported(play, tmp_path, wall, words):
    async def act(actor):
        spec = actor.stage.source(f"open({str(tmp_path / 'imported')!r}, 'w')\n" + PLAIN, "walled")
        launch = actor.stage.launch_code("os._exit(0)", spec)
        with pytest.raises(TemplateFailed) as caught:
            await actor.open(msgspec.structs.replace(launch, template=msgspec.structs.replace(spec, **wall)))
        assert words in decode_failure(caught.value.payload, rebuild=False).message
        assert not (tmp_path / "imported").exists()
        await actor.open(launch)  # of one that asks for none: the start itself is refused too
        with pytest.raises(StartFailed, match=words):
            await actor.run(msgspec.structs.replace(launch, **wall))

    play(act)
