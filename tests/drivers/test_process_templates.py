"""What an import may do to a template that is a plain process, and to those beside it: with real processes."""

from __future__ import annotations

import asyncio
import os
import re

import msgspec
import pytest

from jitney.drivers.runtime.forking.bounding import limit_of, out_of_memory, remedy_of
from jitney.drivers.runtime.process import ProcessRuntime
from jitney.ports.runtime import StartFailed, TemplateFailed
from jitney.runner.failures import decode_failure
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import PLAIN, ProcessStage, descendants, open_stage
from jitney.values.containers import Exit, Snapshot, TemplateSpec

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, by which memory is looked at")

LIMIT_MIB = 160
EATS = """
import time
print("imported", flush=True)
kept = []
while True:
    time.sleep(0.004)  # slow beside how often it is looked at
    kept.append(b"x" * 1_000_000)
"""
IN_A_CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {code!r}], check=True)\n"
THREADS = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
# The first import is that of the template, which learns that it cannot be forked; the next is of a container.
EATS_WHEN_COLD = (
    PLAIN
    + THREADS
    + "import sys\nif os.path.exists({mark!r}):\n    "
    + EATS.replace("\n", "\n    ")
    + "\nopen({mark!r}, 'w').close()\n"
)


class Stage(ProcessStage):
    def make_runtime(self) -> ProcessRuntime:
        return ProcessRuntime(self.home, template_limit_mib=LIMIT_MIB)


@pytest.fixture
def play(tmp_path):
    """Runs a coroutine function with an actor; no process may be left."""

    def run(act) -> None:
        before = set(descendants())

        async def main() -> None:
            async with asyncio.timeout(40), open_stage(tmp_path / "home", Stage) as stage:
                await act(Actor(stage))
                await stage.runtime.close()
                assert set(descendants()) - before == set()

        asyncio.run(main())

    return run


async def failure_of(actor: Actor, text: str, **changes) -> str:
    """What is said of a template that cannot be made."""
    spec = msgspec.structs.replace(actor.stage.source(text, "bad"), **changes)
    with pytest.raises(TemplateFailed) as caught:
        await actor.open(actor.stage.launch_code("", spec))
    found = decode_failure(caught.value.payload, rebuild=False)
    assert found.type_name == "StartupError"
    return found.message


def peak_of(message: str, limit_mib: int) -> int:
    """The figure before the limit, which must be that one."""
    found = re.search(r"out of memory at ([\d,]+) MiB, over its limit of ([\d,]+) MiB", message)
    assert found, message
    assert int(found[2]) == limit_mib
    return int(found[1].replace(",", ""))


@needs_proc
@pytest.mark.parametrize("text", [EATS, IN_A_CHILD.format(code=EATS)], ids=["itself", "in a child"])
def test_an_import_that_eats_memory_is_ended_and_says_the_figures(play, text):
    async def act(actor: Actor) -> None:
        neighbour = actor.stage.launch_code("wait()")
        await actor.open(neighbour)
        handle = await actor.run(neighbour)
        await actor.log.until(handle.container_id, "ready")
        message = await failure_of(actor, text)
        assert LIMIT_MIB < peak_of(message, LIMIT_MIB) < 4 * LIMIT_MIB
        assert "template_limit_mib" in message
        assert actor.runtime.stats(handle) is not None  # unharmed
        await actor.runtime.destroy(handle)

    play(act)


@needs_proc
def test_a_snapshot_has_no_more_than_its_class(play):
    async def act(actor: Actor) -> None:
        own = LIMIT_MIB // 2
        message = await failure_of(actor, EATS, snapshot=Snapshot(qualname="Model", memory_limit_mib=own))
        assert own < peak_of(message, own)
        assert "memory= of the class" in message

    play(act)


@needs_proc
def test_what_cannot_be_forked_imports_within_the_limit_of_its_container(play, tmp_path):
    async def act(actor: Actor) -> None:
        spec = actor.stage.source(EATS_WHEN_COLD.format(mark=str(tmp_path / "mark")), "cold")
        own = LIMIT_MIB + 60
        launch = actor.stage.launch_code("os._exit(0)", spec, memory_limit_mib=own)
        await actor.open(launch)
        with pytest.raises(StartFailed) as caught:
            await actor.run(launch)
        message = decode_failure(caught.value.payload, rebuild=False).message
        assert own < peak_of(message, own)
        assert "memory= of the function" in message

    play(act)


@needs_proc
def test_a_template_that_has_loaded_is_not_looked_at(play):
    async def act(actor: Actor) -> None:
        spec = actor.stage.source(f"{PLAIN}\nkept = b'x' * {LIMIT_MIB // 2 * 1_000_000}\n", "large")
        launch = actor.stage.launch_code(f"more = b'x' * {LIMIT_MIB * 2_000_000}; print(len(more)); os._exit(0)", spec)
        await actor.open(launch)
        handle = await actor.run(launch)
        assert (await actor.runtime.wait(handle)).exit_code == 0

    play(act)


def test_the_limit_is_the_least_of_what_is_given():
    spec = TemplateSpec(image_id="im-1", source_id="so-1", module="m")
    snapshot = msgspec.structs.replace(spec, snapshot=Snapshot(qualname="A", memory_limit_mib=100))
    assert [limit_of(spec, 0), limit_of(spec, 50), limit_of(snapshot, 0), limit_of(snapshot, 50)] == [None, 50, 100, 50]
    assert "of the class" in remedy_of(snapshot, 100)
    assert "template_limit_mib" in remedy_of(snapshot, 50)


def test_far_from_its_limit_it_was_the_machine_that_had_no_memory():
    killed = Exit(signal=9, max_rss_kib=10 * 1024)
    near = out_of_memory(killed, 95 * 1024, 100)
    far = out_of_memory(killed, 50 * 1024, 100)
    assert (near.oom_killed, near.max_rss_kib, near.limit_kib) == (True, 95 * 1024, 100 * 1024)
    assert (far.oom_killed, far.max_rss_kib, far.limit_kib) == (True, 50 * 1024, 0)


def test_the_peak_is_its_own_and_not_that_of_who_started_it():
    of_the_worker = Exit(signal=9, max_rss_kib=792 * 1024)
    assert out_of_memory(of_the_worker, 170 * 1024, 160).max_rss_kib == 170 * 1024
    assert out_of_memory(of_the_worker, 0, 160).max_rss_kib == 792 * 1024, "nothing else is known"
