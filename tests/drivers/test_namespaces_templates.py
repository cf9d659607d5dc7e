"""What an import may do to a template behind a wall, and to those beside it: with real walls and control groups."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from jitney.drivers.limits.cgroups.driver import CgroupLimiter
from jitney.drivers.limits.cgroups.layout import Role
from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.namespaces import NamespacesRuntime
from jitney.drivers.walls.probe import probe
from jitney.ports.runtime import StartFailed, TemplateFailed, TemplateGone
from jitney.runner.failures import decode_failure
from jitney.testing.conformance.runtime import Actor
from jitney.testing.processes import PLAIN, ProcessStage, open_stage
from jitney.values.containers import Snapshot
from jitney.values.isolation import Isolation

WHY_NOT = probe().why
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")

LIMIT_MIB = 160
NUMBERS = itertools.count()
EATS = "print('imported', flush=True)\nkept = []\nwhile True:\n    kept.append(b'x' * 1_000_000)\n"
EATS_SLOWLY = EATS.replace("while True:\n", "import time\nwhile True:\n    time.sleep(0.002)\n")
IN_A_CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {code!r}], check=True)\n"
SNAPSHOT = (
    PLAIN
    + """
class Model:
    def load(self):
        kept = []
        while True:
            kept.append(b"x" * 1_000_000)
    load.__jitney_enter__ = load.__jitney_snap__ = True
"""
)


class Stage(ProcessStage):
    """Behind walls; `limiter` bounds what is there."""

    limit_mib = LIMIT_MIB

    @property
    def limiter(self):
        return CgroupLimiter(f"test-t{os.getpid()}-{next(NUMBERS)}", tune=False)

    def make_runtime(self) -> NamespacesRuntime:
        self.limits = self.limiter
        return NamespacesRuntime(
            self.home,
            limiter=self.limits,
            network=NoNetwork(why="not looked at here", remedy=""),
            stock_min=0,
            template_limit_mib=self.limit_mib,
        )

    def launch_code(self, code, spec=None, memory_limit_mib=None, **env):
        launch = super().launch_code(code, spec, memory_limit_mib, **env)
        return msgspec.structs.replace(launch, isolation=Isolation.NAMESPACES)

    def groups(self) -> list[str]:
        """Names of the groups that are there now."""
        layout = getattr(self.limits, "layout", None)
        parts = layout.parts if layout is not None else ()
        found = {path.name for part in parts for path in Path(part.folder).glob("*") if path.is_dir()}
        return sorted(found)


class Unlimited(Stage):
    """On a machine without control groups."""

    @property
    def limiter(self):
        return NoLimiter(why="not here")


class Roomy(Stage):
    """With memory as it likes."""

    limit_mib = 0


WITH_AND_WITHOUT_GROUPS = pytest.mark.parametrize("kind", [Stage, Unlimited])


@pytest.fixture
def play(tmp_path):
    """Runs a coroutine function with an actor; no control group may be left."""

    def run(act, kind: type[Stage] = Stage, timeout_s: float = 40.0) -> None:
        @asynccontextmanager
        async def opened():
            async with open_stage(tmp_path / "home", kind) as stage:
                if kind is not Unlimited and not stage.limits.capabilities().memory:
                    pytest.skip(f"no memory limits here: {stage.limits.capabilities().why}")
                try:
                    yield stage
                finally:
                    await stage.runtime.close()

        async def main() -> None:
            async with asyncio.timeout(timeout_s), opened() as stage:
                await act(Actor(stage))
                await stage.runtime.close()
                assert stage.groups() == []
                assert list(stage.home.containers.iterdir()) == []

        asyncio.run(main())

    return run


async def failure_of(actor: Actor, text: str, **changes) -> str:
    """What is said of a template that cannot be made."""
    spec = msgspec.structs.replace(actor.stage.source(text, "bad"), **changes)
    launch = actor.stage.launch_code("os._exit(0)", spec)
    with pytest.raises(TemplateFailed) as caught:
        await actor.open(launch)
    found = decode_failure(caught.value.payload, rebuild=False)
    assert found.type_name == "StartupError"
    with pytest.raises(TemplateGone):
        await actor.run(launch)
    return found.message


async def waiting(actor: Actor):
    """A container that waits."""
    launch = actor.stage.launch_code("wait()")
    await actor.open(launch)
    handle = await actor.run(launch)
    await actor.log.until(handle.container_id, "ready")
    return handle


# ---------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("kind, text", [(Stage, EATS), (Unlimited, EATS_SLOWLY)], ids=["group", "watched"])
def test_an_import_that_eats_all_memory_fails_with_its_figures_and_harms_nobody(play, kind, text):
    async def act(actor):
        beside = await waiting(actor)
        said = await failure_of(actor, text)
        found = re.search(r"out of memory at ([\d,]+) MiB, over its limit of 160 MiB", said)
        assert found, said
        assert LIMIT_MIB * 0.9 <= int(found[1].replace(",", "")) <= LIMIT_MIB * 3
        assert "template_limit_mib" in said
        assert actor.runtime.stats(beside) is not None
        again = await actor.run(actor.stage.launch_code("os._exit(3)"))
        assert (await actor.runtime.wait(again)).exit_code == 3

    play(act, kind)


def test_a_snapshot_that_eats_memory_fails_with_the_limit_of_its_class(play):
    async def act(actor):
        snapshot = Snapshot(qualname="Model", memory_limit_mib=96)
        said = await failure_of(actor, SNAPSHOT, snapshot=snapshot)
        assert re.search(r"out of memory at \d+ MiB, over its limit of 96 MiB", said), said
        assert "memory=" in said

    play(act)


def test_memory_of_what_an_import_starts_counts_too(play):
    async def act(actor):
        spec = actor.stage.source(IN_A_CHILD.format(code=EATS), "bad")
        with pytest.raises(TemplateFailed) as caught:
            await actor.open(actor.stage.launch_code("os._exit(0)", spec))
        said = decode_failure(caught.value.payload, rebuild=False).message
        assert "out of memory" in said or "SIGKILL" in said

    play(act)


def test_a_container_leaves_the_group_of_its_template(play):
    async def act(actor):
        launch = actor.stage.launch_code("wait()", memory_limit_mib=128)
        await actor.open(launch)
        handle = await actor.run(launch)
        await actor.log.until(handle.container_id, "ready")
        (template,) = (name for name in actor.stage.groups() if name != handle.container_id)
        inside = actor.runtime.template_pid(launch.template)
        for part in actor.stage.limits.layout.parts:
            folder = Path(part.folder)
            assert (folder / template / "cgroup.procs").read_text().split() == [str(inside)]
            assert (folder / handle.container_id / "cgroup.procs").read_text().split()
        stats = actor.runtime.stats(handle)
        assert stats.usage.memory_kib < 16 * 1024, "what it shares with its template is not its own"
        await actor.runtime.close_template(launch.template)
        await actor.runtime.destroy(handle)

    play(act)


def test_containers_may_be_many_for_the_limit_of_the_import(play):
    text = PLAIN + f"\nkept = [bytearray(b'x') * 1_000_000 for _ in range({LIMIT_MIB // 2})]\n"

    async def act(actor):
        spec = actor.stage.source(text, "large")
        launches = [actor.stage.launch_code("kept.sort(); wait()", spec) for _ in range(100)]
        await actor.open(launches[0])
        for launch in launches:
            handle = await actor.run(launch)
            await actor.log.until(handle.container_id, "ready")
        part = actor.stage.limits.layout.part(Role.MEMORY)
        (group,) = (name for name in actor.stage.groups() if not name.startswith("ta-"))
        name = "memory.current" if part.version == 2 else "memory.usage_in_bytes"
        charged = await asyncio.to_thread(Path(f"{part.folder}/{group}/{name}").read_text)
        assert int(charged) > LIMIT_MIB << 20, "this test proves nothing"
        assert actor.runtime.template_facts(spec) is not None, "the template lives"

    play(act)


def test_a_group_goes_with_its_template(play):
    async def act(actor):
        launch = actor.stage.launch_code("os._exit(0)")
        for _ in range(2):
            await actor.open(launch)
            assert len(actor.stage.groups()) == 1
            actor.stage.kill_template(launch)
            async with asyncio.timeout(10):
                while actor.stage.groups():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # sleep: the kernel tells nobody

    play(act)


def test_a_fork_bomb_of_an_import_is_bounded(play):
    text = """
import errno, os, signal
for count in range(5_000):
    try:
        pid = os.fork()
    except OSError as error:
        raise ImportError(f"{errno.errorcode[error.errno]} after {count}")
    if not pid:
        signal.pause()
"""

    async def act(actor):
        spec = actor.stage.source(text, "bad")
        with pytest.raises(TemplateFailed) as caught:
            await actor.open(actor.stage.launch_code("os._exit(0)", spec))
        assert decode_failure(caught.value.payload, rebuild=False).message == "EAGAIN after 4095"

    play(act, Roomy)


# ---------------------------------------------------------------------------------------------------- other ways


@WITH_AND_WITHOUT_GROUPS
def test_an_import_that_crashes_says_by_what(play, kind):
    async def act(actor):
        beside = await waiting(actor)
        said = await failure_of(actor, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
        assert "SIGSEGV" in said
        said = await failure_of(actor, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert "SIGKILL" in said
        assert "memory" not in said
        assert actor.runtime.stats(beside) is not None

    play(act, kind)


@WITH_AND_WITHOUT_GROUPS
def test_an_import_that_hangs_is_given_up_without_a_trace(play, kind):
    text = "print('imported', flush=True)\nimport signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)\n"

    async def act(actor):
        launch = actor.stage.launch_code("os._exit(0)", actor.stage.source(text, "bad"))
        before = set(procfs.tree(os.getpid()))
        opening = asyncio.ensure_future(actor.open(launch))
        await actor.log.until(launch.container_id, "imported")
        opening.cancel()
        await asyncio.wait({opening})
        assert opening.cancelled()
        await actor.runtime.close_template(launch.template)
        async with asyncio.timeout(10):
            while set(procfs.tree(os.getpid())) - before or actor.stage.groups():  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # sleep: the kernel tells nobody
        plain = actor.stage.launch_code("os._exit(3)")
        await actor.open(plain)
        assert (await actor.runtime.wait(await actor.run(plain))).exit_code == 3

    play(act, kind)


@WITH_AND_WITHOUT_GROUPS
def test_an_import_that_starts_threads_is_not_forked_and_the_reason_is_recorded(play, kind):
    text = (
        PLAIN + "\nthreading.Thread(target=time.sleep, args=(600,), name='beat', daemon=True).start()\n"
        "print('imported', flush=True)\n"
    )

    async def act(actor):
        spec = actor.stage.source(text, "threads")
        launch = actor.stage.launch_code("print(threading.active_count(), flush=True); os._exit(4)", spec, 256)
        await actor.open(launch)
        facts = actor.runtime.template_facts(spec)
        assert "the thread 'beat'" in facts.note
        handle = await actor.run(launch)
        assert "the thread 'beat'" in handle.note
        end = await actor.runtime.wait(handle)
        assert end.exit_code == 4
        assert actor.log.texts(handle.container_id, 1)[-2:] == ["imported", "2"]

    play(act, kind)


def test_a_cold_import_that_eats_all_memory_is_bounded_by_its_container(play):
    text = PLAIN + "\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"

    async def act(actor):
        spec = actor.stage.source(text, "cold")
        launch = actor.stage.launch_code("os._exit(0)", spec, 128)
        await actor.open(launch)
        actor.stage.source(EATS, "cold")
        with pytest.raises(StartFailed) as caught:
            await actor.run(launch)
        said = decode_failure(caught.value.payload, rebuild=False).message
        assert re.search(r"out of memory at \d+ MiB, over its limit of 128 MiB", said), said

    play(act)
