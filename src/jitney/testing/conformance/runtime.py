"""The contract of `ports.runtime`, sentence by sentence."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

import msgspec
import pytest

from jitney.ports.runtime import (
    ContainerHandle,
    Runtime,
    StartFailed,
    TemplateFailed,
    TemplateGone,
    TemplateInsight,
)
from jitney.runner.failures import decode_failure
from jitney.values.containers import Exit, Launch, LogLine, TemplateSpec
from jitney.values.images import BuiltImage

WAIT_S = 30


class Program(StrEnum):
    """What a container does as soon as it runs."""

    EXITS_WITH_3 = "exits with 3"
    PRINTS = "prints 'out 0' to 'out 99', and 'err' on the other descriptor, and ends"
    PRINTS_THEN_WAITS = "prints 'ready', then runs until it gets a signal"
    IGNORES_SIGTERM = "prints 'ready', then runs and ignores SIGTERM"
    CRASHES = "ends by SIGSEGV"
    LEAVES_A_DAEMON = "starts a process in a session of its own that would run for ever, prints 'ready', and ends"
    EATS_MEMORY = "takes memory until it is ended"
    TELLS_SECRETS = "prints its variable KEY, and the length of BIG, and ends"


class Module(StrEnum):
    """What a template imports."""

    GOOD = "prints nothing"
    NOISY = "prints 'imported'"
    BROKEN = "raises ImportError('no module named x')"
    DEADLY = "ends its process"


class Stage(Protocol):
    """What a driver's test module brings."""

    runtime: Runtime
    image: BuiltImage

    def launch(self, program: Program, module: Module = Module.GOOD, memory_limit_mib: int | None = None) -> Launch:
        """A container with an id of its own; equal modules share a template."""
        ...

    def impossible(self) -> Launch:
        """A container that cannot be started, from the good module."""
        ...

    def kill_template(self, launch: Launch) -> None:
        """Its template ends, as if by a bug."""
        ...

    def left_overs(self) -> list[str]:
        """Processes and scratch folders of containers that are there now, for an assertion to show."""
        ...


class Log:
    """Collects lines, and wakes whoever waits for one."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.refuses = False
        self._changed = asyncio.Event()

    def take(self, lines: Sequence[LogLine]) -> bool:
        """The `output` of containers."""
        if self.refuses and any(line.fd for line in lines):
            return False
        self.lines += lines
        self._changed.set()
        return True

    def texts(self, container_id: str, fd: int) -> list[str]:
        """What a container wrote to a descriptor."""
        return [line.text for line in self.lines if line.container_id == container_id and line.fd == fd]

    async def until(self, container_id: str, text: str) -> None:
        """Wait for a line."""
        while text not in self.texts(container_id, 1):
            self._changed.clear()
            await self._changed.wait()


class Actor:
    """A stage with the usual sequences."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.runtime = stage.runtime
        self.log = Log()

    async def open(self, launch: Launch) -> None:
        """Its template."""
        await self.runtime.open_template(
            launch.template, self.stage.image, cause=launch.container_id, output=self.log.take
        )

    async def start(self, program: Program, module: Module = Module.GOOD, limit: int | None = None) -> ContainerHandle:
        """A container, from a template that is opened if need be."""
        launch = self.stage.launch(program, module, limit)
        await self.open(launch)
        return await self.run(launch)

    async def run(self, launch: Launch) -> ContainerHandle:
        """A container, from an open template."""
        return await self.runtime.start(launch, self.stage.image, self.log.take)

    async def lose_template(self, launch: Launch, probe: Callable[[], Launch]) -> None:
        """End its template, and wait until that was noticed: no `probe` (which ends by itself) can be started."""
        self.stage.kill_template(launch)
        while True:
            try:
                handle = await self.run(probe())
            except TemplateGone:
                return
            await self.runtime.wait(handle)


Play = Callable[[Actor], Awaitable[None]]
MakeStage = Callable[[], AbstractAsyncContextManager[Stage]]


class RuntimeContract:
    """Subclass it, and give a fixture `make_stage(tmp_path)`: what makes a stage, inside a running loop."""

    def play(self, make_stage: MakeStage, play: Play) -> None:
        """Run one test; nothing may be left behind."""

        async def main() -> None:
            async with asyncio.timeout(WAIT_S), make_stage() as stage:
                await stage.runtime.reap()
                await play(Actor(stage))
                await stage.runtime.close()
                assert not (left := stage.left_overs()), left

        asyncio.run(main())

    def test_1_an_open_template_is_not_loaded_again(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            launch = actor.stage.launch(Program.EXITS_WITH_3, Module.NOISY)
            await actor.open(launch)
            await actor.open(launch)
            assert actor.log.texts(launch.container_id, 1) == ["imported"]

        self.play(make_stage, play)

    @pytest.mark.parametrize("module", [Module.BROKEN, Module.DEADLY])
    def test_1_a_template_that_cannot_be_made_says_why(self, make_stage: MakeStage, module: Module) -> None:
        async def play(actor: Actor) -> None:
            launch = actor.stage.launch(Program.EXITS_WITH_3, module)
            with pytest.raises(TemplateFailed) as caught:
                await actor.open(launch)
            assert caught.value.payload[:1] == b"E"
            message = decode_failure(caught.value.payload, rebuild=False).message
            assert message == "no module named x" if module is Module.BROKEN else message, message
            with pytest.raises(TemplateGone):
                await actor.run(launch)

        self.play(make_stage, play)

    def test_2_a_closed_template_takes_no_container_with_it(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            handle = await actor.start(Program.PRINTS_THEN_WAITS)
            await actor.log.until(handle.container_id, "ready")
            other = actor.stage.launch(Program.EXITS_WITH_3)
            await actor.runtime.close_template(other.template)
            await actor.runtime.close_template(other.template)
            with pytest.raises(TemplateGone):
                await actor.run(other)
            await actor.open(other)
            assert (await actor.runtime.wait(await actor.run(other))).exit_code == 3
            assert actor.runtime.stats(handle) is not None
            actor.runtime.signal(handle, signal.SIGKILL)
            assert (await actor.runtime.wait(handle)).signal == signal.SIGKILL

        self.play(make_stage, play)

    def test_3_without_a_template_nothing_starts(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            with pytest.raises(TemplateGone):
                await actor.run(actor.stage.launch(Program.EXITS_WITH_3))
            assert actor.stage.left_overs() == []

        self.play(make_stage, play)

    def test_3_a_failed_start_leaves_nothing_and_others_start(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            launch = actor.stage.impossible()
            await actor.open(launch)
            with pytest.raises(StartFailed) as caught:
                await actor.run(launch)
            assert str(caught.value)
            assert actor.stage.left_overs() == []
            handle = await actor.start(Program.EXITS_WITH_3)
            assert (await actor.runtime.wait(handle)).exit_code == 3

        self.play(make_stage, play)

    def test_4_a_template_that_dies_takes_no_container_with_it(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            launch = actor.stage.launch(Program.PRINTS_THEN_WAITS)
            await actor.open(launch)
            handle = await actor.run(launch)
            await actor.log.until(handle.container_id, "ready")
            await actor.lose_template(launch, lambda: actor.stage.launch(Program.EXITS_WITH_3))
            assert actor.runtime.stats(handle) is not None
            actor.runtime.signal(handle, signal.SIGTERM)
            end = await actor.runtime.wait(handle)
            assert (end.signal, end.exit_code) != (None, None)
            assert (await actor.runtime.wait(await actor.start(Program.EXITS_WITH_3))).exit_code == 3

        self.play(make_stage, play)

    def test_5_the_exit_comes_after_every_line_and_may_be_asked_for_again(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            handle = await actor.start(Program.PRINTS)
            end = await actor.runtime.wait(handle)
            assert end.exit_code == 0
            assert actor.log.texts(handle.container_id, 1) == [f"out {number}" for number in range(100)]
            assert actor.log.texts(handle.container_id, 2) == ["err"]
            assert await actor.runtime.wait(handle) == end
            assert await actor.runtime.wait(ContainerHandle(container_id="ta-none", pid=1)) == Exit()

        self.play(make_stage, play)

    def test_5_nothing_of_a_container_outlives_it(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            handle = await actor.start(Program.LEAVES_A_DAEMON)
            await actor.runtime.wait(handle)
            assert actor.log.texts(handle.container_id, 1) == ["ready"]
            assert actor.stage.left_overs() == []

        self.play(make_stage, play)

    def test_5_a_crash_is_told_by_its_signal(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            end = await actor.runtime.wait(await actor.start(Program.CRASHES))
            assert (end.exit_code, end.signal, end.oom_killed) == (None, signal.SIGSEGV, False)

        self.play(make_stage, play)

    def test_6_sigterm_may_be_ignored_and_destroy_may_not(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            handle = await actor.start(Program.IGNORES_SIGTERM)
            await actor.log.until(handle.container_id, "ready")
            actor.runtime.signal(handle, signal.SIGTERM)
            assert actor.runtime.stats(handle) is not None
            await actor.runtime.destroy(handle)
            end = await actor.runtime.wait(handle)
            assert (end.signal, end.oom_killed) == (signal.SIGKILL, False)
            await actor.runtime.destroy(handle)
            actor.runtime.signal(handle, signal.SIGTERM)
            assert actor.runtime.stats(handle) is None

        self.play(make_stage, play)

    def test_7_what_the_reader_refuses_is_counted(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            actor.log.refuses = True
            handle = await actor.start(Program.PRINTS)
            await actor.runtime.wait(handle)
            assert actor.log.texts(handle.container_id, 1) == []
            assert actor.log.texts(handle.container_id, 0) != []

        self.play(make_stage, play)

    def test_8_memory_above_the_limit_ends_a_container_and_says_so(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            if not actor.runtime.capabilities().memory_limit:
                return
            other = await actor.start(Program.PRINTS_THEN_WAITS, limit=4_096)
            handle = await actor.start(Program.EATS_MEMORY, limit=300)
            end = await actor.runtime.wait(handle)
            assert end.oom_killed
            assert end.max_rss_kib > 300 * 1024
            assert actor.runtime.stats(other) is not None

        self.play(make_stage, play)

    def test_10_a_handle_is_a_plain_value(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            handle = await actor.start(Program.PRINTS_THEN_WAITS)
            copy = msgspec.msgpack.decode(msgspec.msgpack.encode(handle), type=ContainerHandle)
            await actor.runtime.destroy(copy)
            end = await actor.runtime.wait(copy)
            assert end.signal == signal.SIGKILL, end

        self.play(make_stage, play)

    def test_11_a_start_that_nobody_waits_for_leaves_nothing(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            launch = actor.stage.launch(Program.PRINTS_THEN_WAITS)
            await actor.open(launch)
            start = asyncio.ensure_future(actor.run(launch))
            await asyncio.sleep(0)
            start.cancel()
            await asyncio.wait({start})
            handle = await actor.start(Program.EXITS_WITH_3)
            await actor.runtime.wait(handle)

        self.play(make_stage, play)

    def test_11_a_template_that_nobody_waits_for_leaves_nothing(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            launch = actor.stage.launch(Program.EXITS_WITH_3)
            opening = asyncio.ensure_future(actor.open(launch))
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait({opening})
            await actor.open(launch)
            assert (await actor.runtime.wait(await actor.run(launch))).exit_code == 3

        self.play(make_stage, play)

    def test_12_a_template_that_dies_is_told_and_one_that_is_closed_is_not(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            runtime = actor.runtime
            if not isinstance(runtime, TemplateInsight):
                pytest.skip("this runtime knows nothing of its templates besides")
            died: asyncio.Queue[TemplateSpec] = asyncio.Queue()
            runtime.watch_templates(died.put_nowait)
            launch = actor.stage.launch(Program.EXITS_WITH_3)
            assert runtime.template_facts(launch.template) is None
            await actor.open(launch)
            facts = runtime.template_facts(launch.template)
            assert facts is not None
            assert facts.note == ""
            await runtime.close_template(launch.template)
            assert runtime.template_facts(launch.template) is None
            await actor.open(launch)
            actor.stage.kill_template(launch)
            assert await died.get() == launch.template
            assert died.empty()
            assert runtime.template_facts(launch.template) is None

        self.play(make_stage, play)

    def test_13_secrets_are_variables_of_their_container_alone(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            bare = actor.stage.launch(Program.TELLS_SECRETS)
            await actor.open(bare)
            for secrets, told in (
                ({"KEY": "swordfish", "BIG": "x" * 300_000}, "swordfish 300000"),
                ({"KEY": "another"}, "another 0"),
                ({}, "None 0"),
            ):
                launch = actor.stage.launch(Program.TELLS_SECRETS)
                handle = await actor.run(msgspec.structs.replace(launch, secrets=secrets))
                assert (await actor.runtime.wait(handle)).exit_code == 0
                assert actor.log.texts(launch.container_id, 1) == [told]
            assert actor.stage.left_overs() == []

        self.play(make_stage, play)

    def test_many_at_once(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            launches = [actor.stage.launch(Program.PRINTS) for _ in range(20)]
            await actor.open(launches[0])
            handles = await asyncio.gather(*map(actor.run, launches))
            assert len({handle.pid for handle in handles}) == 20
            ends = await asyncio.gather(*map(actor.runtime.wait, handles))
            assert {end.exit_code for end in ends} == {0}
            for launch in launches:
                assert len(actor.log.texts(launch.container_id, 1)) == 100

        self.play(make_stage, play)

    def test_close_ends_everything(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            for _ in range(3):
                handle = await actor.start(Program.IGNORES_SIGTERM)
                await actor.log.until(handle.container_id, "ready")

        self.play(make_stage, play)
