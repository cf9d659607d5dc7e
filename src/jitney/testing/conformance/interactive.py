"""The contract of `ports.interactive`, sentence by sentence."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol, cast

import pytest

from jitney.ports.interactive import (
    CHUNK_BYTES_MAX,
    INPUT_BYTES_AHEAD,
    KILLED,
    NOT_EXECUTABLE,
    NOT_FOUND,
    OUTPUT_BYTES_AHEAD,
    ContainerGone,
    ExecFailed,
    ExecSession,
    ExecSpec,
    Interactive,
    TtySize,
)
from jitney.ports.runtime import ContainerHandle, Runtime
from jitney.testing.conformance.runtime import Log, Program
from jitney.testing.conformance.runtime import Stage as RuntimeStage

WAIT_S = 30
FLOOD_BYTES = 4 * OUTPUT_BYTES_AHEAD


class Task(StrEnum):
    """What a command does."""

    EXITS_WITH_3 = "ends with exit code 3"
    PRINTS = "prints 'out' on 1 and 'err' on 2, each with a newline"
    ECHOES = "copies its input to its output until the end of it"
    IGNORES_INPUT = "prints 'ready', never reads its input, and runs until it gets a signal"
    FLOODS = "prints FLOOD_BYTES bytes, and ends"
    SHOWS = "prints the variable MARK, then the container's variable PLACE, then its folder, each on a line"
    SIZES = "prints 'ROWS COLS' of its terminal, and again on every SIGWINCH, until the end of its input"
    TRAPS = "prints 'ready', then 'got N' for SIGINT, and ends with exit code 5"
    WAITS = "prints 'ready', and runs until it gets a signal"
    LEAVES_ONE = "starts a process that runs on with its output open, prints 'ready', and ends"
    IS_MISSING = "does not exist"
    IS_NO_PROGRAM = "exists, and cannot be executed"


class Stage(RuntimeStage, Protocol):
    """What a driver's test module brings: a stage of the runtime's suite, and commands."""

    def command(self, task: Task) -> tuple[str, ...]:
        """The words of a command."""
        ...

    def place(self, container_id: str) -> tuple[str, str]:
        """(PLACE, working folder) of a container that `launch` gave."""
        ...


class Screen:
    """Collects the output of a command; `takes`: as a reader that keeps up."""

    def __init__(self) -> None:
        self.data = {1: b"", 2: b""}
        self.session: ExecSession | None = None
        self.takes = True
        self.largest = 0
        self._changed = asyncio.Event()

    def show(self, fd: int, data: bytes) -> None:
        """The `on_output` of a session."""
        self.data[fd] += data
        self.largest = max(self.largest, len(data))
        self._changed.set()
        if self.takes and self.session is not None:
            self.session.took(len(data))

    def text(self, fd: int = 1) -> str:
        """What was written to a descriptor, with newlines as they were meant."""
        return self.data[fd].decode().replace("\r\n", "\n")

    async def until(self, text: str) -> None:
        """Wait until something has been printed."""
        await self.when(lambda: text in self.text())

    async def when(self, condition: Callable[[], bool]) -> None:
        """Wait until what has been printed is so."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Actor:
    """A stage with a container that runs, and commands in it."""

    def __init__(self, stage: Stage, handle: ContainerHandle) -> None:
        self.stage = stage
        self.runtime: Runtime = stage.runtime
        self.handle = handle

    async def run(
        self, task: Task, *, tty: TtySize | None = None, takes: bool = True, cwd: str = "", **env: str
    ) -> tuple[ExecSession, Screen]:
        """Start a command in the container."""
        screen = Screen()
        screen.takes = takes
        spec = ExecSpec(argv=self.stage.command(task), env=env, cwd=cwd, tty=tty)
        session = await cast(Interactive, self.runtime).exec(self.handle, spec, screen.show)
        screen.session = session
        if takes:
            session.took(len(screen.data[1]) + len(screen.data[2]))
        return session, screen


Play = Callable[[Actor], Awaitable[None]]
MakeStage = Callable[[], AbstractAsyncContextManager[Stage]]


class InteractiveContract:
    """Subclass it, and give a fixture `make_stage(tmp_path)`: what makes a stage, inside a running loop."""

    def play(self, make_stage: MakeStage, play: Play) -> None:
        """Run one test in a container; nothing may be left behind."""

        async def main() -> None:
            async with asyncio.timeout(WAIT_S), make_stage() as stage:
                assert stage.runtime.capabilities().exec
                log = Log()
                launch = stage.launch(Program.PRINTS_THEN_WAITS)
                await stage.runtime.open_template(
                    launch.template, stage.image, cause=launch.container_id, output=log.take
                )
                handle = await stage.runtime.start(launch, stage.image, log.take)
                await log.until(handle.container_id, "ready")
                await play(Actor(stage, handle))
                await stage.runtime.close()
                assert stage.left_overs() == []

        asyncio.run(main())

    def test_1_what_cannot_be_started_says_why(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            for task, code in ((Task.IS_MISSING, NOT_FOUND), (Task.IS_NO_PROGRAM, NOT_EXECUTABLE)):
                with pytest.raises(ExecFailed) as failed:
                    await actor.run(task)
                assert failed.value.exit_code == code
                assert actor.stage.command(task)[0] in str(failed.value)

        self.play(make_stage, play)

    def test_1_a_container_that_has_ended_or_never_was_takes_no_command(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            living = actor.handle
            actor.handle = ContainerHandle(container_id="ta-none", pid=1)
            with pytest.raises(ContainerGone):
                await actor.run(Task.PRINTS)
            actor.handle = living
            await actor.runtime.destroy(living)
            await actor.runtime.wait(living)
            with pytest.raises(ContainerGone):
                await actor.run(Task.PRINTS)

        self.play(make_stage, play)

    def test_2_a_command_has_the_variables_and_the_folder_of_its_container(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            place, folder = actor.stage.place(actor.handle.container_id)
            session, screen = await actor.run(Task.SHOWS, MARK="mine")
            assert await session.wait() == 0
            assert screen.text() == f"mine\n{place}\n{folder}\n"
            session, screen = await actor.run(Task.SHOWS, cwd="/", MARK="x", PLACE="changed")
            assert await session.wait() == 0
            assert screen.text() == "x\nchanged\n/\n"

        self.play(make_stage, play)

    def test_3_output_and_errors_are_apart(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.PRINTS)
            assert await session.wait() == 0
            assert (screen.text(1), screen.text(2)) == ("out\n", "err\n")

        self.play(make_stage, play)

    def test_3_input_goes_through_as_it_is(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.ECHOES)
            everything = bytes(range(256)) * 4 * 1024
            for start in range(0, len(everything), CHUNK_BYTES_MAX):
                session.write(everything[start : start + CHUNK_BYTES_MAX])
                await session.drained()
            session.close_input()
            session.write(b"too late")
            assert await session.wait() == 0
            assert screen.data[1] == everything
            assert screen.largest <= CHUNK_BYTES_MAX

        self.play(make_stage, play)

    def test_4_a_terminal_has_a_size_that_changes(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.SIZES, tty=TtySize(31, 97))
            await screen.until("31 97\n")
            session.resize(TtySize(5, 20))
            await screen.until("5 20\n")
            session.close_input()
            assert await session.wait() == 0
            assert screen.data[2] == b""

        self.play(make_stage, play)

    def test_4_on_a_terminal_everything_is_output(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.PRINTS, tty=TtySize())
            assert await session.wait() == 0
            assert sorted(screen.text().split()) == ["err", "out"]
            session.resize(TtySize())  # too late, and harmless

        self.play(make_stage, play)

    def test_5_a_command_waits_for_its_reader_and_nothing_is_lost(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.FLOODS, takes=False)
            await screen.when(lambda: len(screen.data[1]) >= OUTPUT_BYTES_AHEAD)
            other, heard = await actor.run(Task.PRINTS)  # the loop goes on, and the flood does not
            await other.wait()
            assert heard.text() == "out\n"
            assert len(screen.data[1]) == OUTPUT_BYTES_AHEAD
            screen.takes = True
            session.took(OUTPUT_BYTES_AHEAD)
            assert await session.wait() == 0
            assert len(screen.data[1]) == FLOOD_BYTES

        self.play(make_stage, play)

    def test_6_input_that_is_not_taken_holds_up_whoever_waits_for_it(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.IGNORES_INPUT)
            await screen.until("ready")
            await session.drained()
            for _ in range(2 * INPUT_BYTES_AHEAD // CHUNK_BYTES_MAX):  # a pipe takes a part of it
                session.write(bytes(CHUNK_BYTES_MAX))
            waiting = asyncio.ensure_future(session.drained())
            other, _ = await actor.run(Task.PRINTS)
            await other.wait()
            assert not waiting.done()
            session.kill()
            assert await session.wait() == KILLED
            await waiting

        self.play(make_stage, play)

    @pytest.mark.parametrize("tty", [None, TtySize()], ids=["pipes", "terminal"])
    def test_7_a_signal_reaches_the_command(self, make_stage: MakeStage, tty: TtySize | None) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.TRAPS, tty=tty)
            await screen.until("ready")
            session.signal(signal.SIGINT)
            assert (await session.wait(), screen.text(2)) == (5, "")
            assert f"got {int(signal.SIGINT)}" in screen.text()
            session.signal(signal.SIGINT)

        self.play(make_stage, play)

    def test_8_exit_codes_are_those_of_a_shell(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, _ = await actor.run(Task.EXITS_WITH_3)
            assert (await session.wait(), await session.wait()) == (3, 3)
            session, screen = await actor.run(Task.WAITS)
            await screen.until("ready")
            session.signal(signal.SIGTERM)
            assert await session.wait() == 128 + signal.SIGTERM

        self.play(make_stage, play)

    @pytest.mark.parametrize("tty", [None, TtySize()], ids=["pipes", "terminal"])
    def test_8_what_runs_in_the_background_holds_up_nothing(self, make_stage: MakeStage, tty: TtySize | None) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.LEAVES_ONE, tty=tty)
            assert await session.wait() == 0
            assert screen.text() == "ready\n"
            await actor.runtime.destroy(actor.handle)
            await actor.runtime.wait(actor.handle)
            assert actor.stage.left_overs() == []

        self.play(make_stage, play)

    def test_9_a_command_ends_with_its_container(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            ran = [await actor.run(Task.WAITS), await actor.run(Task.WAITS, tty=TtySize())]
            for _, screen in ran:
                await screen.until("ready")
            actor.runtime.signal(actor.handle, signal.SIGTERM)
            await actor.runtime.wait(actor.handle)
            assert actor.stage.left_overs() == []
            assert [await session.wait() for session, _ in ran] == [KILLED, KILLED]

        self.play(make_stage, play)

    def test_9_a_container_does_not_end_with_a_command(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, _ = await actor.run(Task.PRINTS)
            await session.wait()
            assert actor.runtime.stats(actor.handle) is not None

        self.play(make_stage, play)

    @pytest.mark.parametrize("tty", [None, TtySize()], ids=["pipes", "terminal"])
    def test_10_a_killed_command_is_gone(self, make_stage: MakeStage, tty: TtySize | None) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.WAITS, tty=tty)
            await screen.until("ready")
            session.kill()
            session.kill()
            assert await session.wait() == KILLED
            session.write(b"too late")
            session.close_input()
            session.took(1)

        self.play(make_stage, play)

    def test_10_a_command_that_nobody_reads_can_be_killed(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.FLOODS, takes=False)
            await screen.when(lambda: len(screen.data[1]) >= OUTPUT_BYTES_AHEAD)
            session.kill()
            assert await session.wait() == KILLED

        self.play(make_stage, play)

    def test_11_a_command_that_nobody_waits_for_leaves_nothing(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            starting = asyncio.ensure_future(actor.run(Task.WAITS))
            await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled():  # it was quicker
                starting.result()[0].kill()

        self.play(make_stage, play)

    def test_11_close_ends_every_command(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            session, screen = await actor.run(Task.WAITS)
            await screen.until("ready")
            await actor.runtime.close()
            assert await session.wait() == KILLED

        self.play(make_stage, play)

    def test_many_at_once(self, make_stage: MakeStage) -> None:
        async def play(actor: Actor) -> None:
            ran = await asyncio.gather(*(actor.run(Task.PRINTS) for _ in range(12)))
            assert {await session.wait() for session, _ in ran} == {0}
            assert {screen.text() for _, screen in ran} == {"out\n"}

        self.play(make_stage, play)
