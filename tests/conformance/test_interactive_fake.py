"""The fake runtime runs commands in its containers; and what a command may be, for all runtimes."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.conformance.test_runtime_fake import FakeStage

from jitney.drivers.runtime.fake import FakeExec, FakeRuntime
from jitney.errors import InvalidError
from jitney.ports.interactive import NOT_EXECUTABLE, NOT_FOUND, ExecFailed, ExecSpec, TtySize
from jitney.testing.conformance.interactive import FLOOD_BYTES, InteractiveContract, Task
from jitney.values.containers import Launch
from jitney.values.exec import COMMAND_BYTES_MAX


async def wait_for_signal(session: FakeExec) -> int:
    """As a process without a handler."""
    return 128 + await session.signals.get()


async def show_sizes(session: FakeExec) -> int:
    async def show() -> None:
        await session.print(f"{session.size.rows} {session.size.cols}\n".encode())

    await show()
    reading = asyncio.ensure_future(session.read())
    try:
        while not reading.done():
            changing = asyncio.ensure_future(session.signals.get())
            await asyncio.wait({reading, changing}, return_when=asyncio.FIRST_COMPLETED)
            if changing.done():
                await show()
            changing.cancel()
    finally:
        reading.cancel()
    return 0


async def act(session: FakeExec) -> int:
    """Does what the task says that is the command's name."""
    task, place, folder = session.spec.argv
    match task:
        case Task.IS_MISSING:
            raise ExecFailed(f"there is no {task}", NOT_FOUND)
        case Task.IS_NO_PROGRAM:
            raise ExecFailed(f"{task} is not executable", NOT_EXECUTABLE)
        case Task.EXITS_WITH_3:
            return 3
        case Task.PRINTS:
            await session.print(b"out\n")
            await session.print(b"err\n", 2)
        case Task.ECHOES:
            while data := await session.read():
                await session.print(data)
        case Task.FLOODS:
            await session.print(b"x" * FLOOD_BYTES)
        case Task.SHOWS:
            env = {"PLACE": place, **session.spec.env}
            await session.print(f"{env['MARK']}\n{env['PLACE']}\n{session.spec.cwd or folder}\n".encode())
        case Task.SIZES:
            return await show_sizes(session)
        case Task.TRAPS:
            await session.print(b"ready")
            number = await session.signals.get()
            assert number == signal.SIGINT
            await session.print(f"got {number}\n".encode())
            return 5
        case Task.LEAVES_ONE:
            await session.print(b"ready\n")
        case _:
            await session.print(b"ready\n")
            return await wait_for_signal(session)
    return 0


class CommandStage(FakeStage):
    """Commands are coroutines here."""

    def __init__(self) -> None:
        super().__init__()
        self.runtime = FakeRuntime(script=self.runtime.script, template=self.runtime.template, command=act)
        self._last = ""

    def launch(self, program, **options) -> Launch:
        launch = super().launch(program, **options)
        self._last = launch.container_id
        return msgspec.structs.replace(launch, env={"PLACE": self.place(launch.container_id)[0]})

    def place(self, container_id: str) -> tuple[str, str]:
        return f"place of {container_id}", f"/fake/{container_id}"

    def command(self, task: Task) -> tuple[str, ...]:
        return (task, *self.place(self._last))


class TestFakeInteractive(InteractiveContract):
    @pytest.fixture
    def make_stage(self):
        @asynccontextmanager
        async def make():
            yield CommandStage()

        return make


@pytest.mark.parametrize(
    "bad",
    [
        {"argv": ("a\0b",)},
        {"argv": ("",)},
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"argv": ("x" * COMMAND_BYTES_MAX,)},
        {"argv": ("\udc80",)},
        {"cwd": "a\0b"},
    ],
)
def test_a_command_that_no_system_could_run_is_refused(bad):
    with pytest.raises(InvalidError):
        ExecSpec(**bad)


@pytest.mark.parametrize("rows, cols", [(0, 80), (24, 10_001), (-1, 1)])
def test_a_terminal_has_a_size_within_bounds(rows, cols):
    with pytest.raises(InvalidError):
        TtySize(rows, cols)
