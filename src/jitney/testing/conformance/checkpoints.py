"""The contract of `ports.checkpoints`, sentence by sentence."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from jitney.ports.checkpoints import Checkpointer, CheckpointFailed, Restored
from jitney.values.containers import Exit

WAIT_S = 60


class Stage(Protocol):
    """What a driver's test module brings. Processes here have one thread beside the main one, and a child."""

    checkpointer: Checkpointer
    folder: Path

    async def start(self) -> int:
        """A process that has made a secret and stopped itself, of its number here."""
        ...

    async def go_on(self, pid: int) -> tuple[str, int]:
        """Have it go on: its secret, with a mark if its thread and its child live, and its id as it sees it."""
        ...

    def is_stopped(self, pid: int) -> bool:
        """Whether it waits for SIGCONT."""
        ...

    async def finish(self, pid: int, code: int) -> None:
        """Have one that went on end with that exit code."""
        ...

    def running(self) -> int:
        """How many processes of this stage live, those of drivers included."""
        ...


Play = Callable[[Callable[[Stage], Awaitable[None]]], None]


class CheckpointsContract:
    """Subclass it, with a fixture `make_stage` that gives what makes a stage."""

    @pytest.fixture
    def make_stage(self) -> Callable[[], AbstractAsyncContextManager[Stage]]:
        """Makes a stage."""
        raise NotImplementedError

    @pytest.fixture
    def play(self, make_stage: Callable[[], AbstractAsyncContextManager[Stage]]) -> Play:
        """Runs a coroutine function on a stage."""

        def run(act: Callable[[Stage], Awaitable[None]]) -> None:
            async def main() -> None:
                async with asyncio.timeout(WAIT_S), make_stage() as stage:
                    await act(stage)

            asyncio.run(main())

        return run

    def test_1_it_says_that_it_can(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            can = stage.checkpointer.capabilities()
            assert (can.possible, can.why) == (True, "")
            assert can.name
            assert can.version

        play(act)

    def test_2_the_process_goes_on_as_if_nothing_had_been(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            await stage.checkpointer.dump(pid, stage.folder / "one")
            assert stage.is_stopped(pid)
            secret, own = await stage.go_on(pid)
            assert secret
            assert own == pid
            await stage.finish(pid, 0)

        play(act)

    def test_2_one_that_runs_is_refused(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            await stage.go_on(pid)
            with pytest.raises(CheckpointFailed, match="is not stopped"):
                await stage.checkpointer.dump(pid, stage.folder / "one")
            assert not (stage.folder / "one").exists()

        play(act)

    def test_3_a_dump_that_fails_leaves_no_folder_and_the_process(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            with pytest.raises(CheckpointFailed) as caught:
                await stage.checkpointer.dump(pid, stage.folder / "missing" / "one")
            assert str(caught.value)
            assert not caught.value.is_process_lost
            assert list(stage.folder.iterdir()) == []
            assert stage.is_stopped(pid)
            assert (await stage.go_on(pid))[0]

        play(act)

    def test_4_5_it_is_restored_as_often_as_asked_with_what_it_had_in_memory(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            folder = stage.folder / "one"
            await stage.checkpointer.dump(pid, folder)
            secret, own = await stage.go_on(pid)
            again = await asyncio.gather(*(_restored(stage) for _ in range(3)))
            assert all(stage.is_stopped(one.pid) for one, _ in again)
            assert len({pid, *(one.pid for one, _ in again)}) == 4
            assert {await stage.go_on(one.pid) for one, _ in again} == {(secret, own)}
            for one, ended in again:
                one.kill()
                await ended

        play(act)

    def test_6_its_end_is_told_with_how_it_ended(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            await stage.checkpointer.dump(pid, stage.folder / "one")
            await stage.go_on(pid)
            await stage.finish(pid, 0)
            ends = [await _restored(stage), await _restored(stage)]
            for one, _ in ends:
                await stage.go_on(one.pid)
            await stage.finish(ends[0][0].pid, 7)
            ends[1][0].kill()
            first, second = [await ended for _, ended in ends]
            assert (first.exit_code, first.signal) == (7, None)
            assert (second.exit_code, second.signal) == (None, signal.SIGKILL)
            ends[0][0].kill()
            assert stage.running() == 0

        play(act)

    def test_7_from_nothing_and_from_a_wreck_nothing_comes(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            folder = stage.folder / "one"
            await stage.checkpointer.dump(pid, folder)
            before = stage.running()
            with pytest.raises(CheckpointFailed, match="no process can be made"):
                await stage.checkpointer.restore(stage.folder / "two")
            for path in folder.iterdir():
                path.unlink()
            with pytest.raises(CheckpointFailed, match="no process can be made"):
                await stage.checkpointer.restore(folder)
            assert stage.running() == before

        play(act)

    def test_8_removing_is_idempotent_and_touches_no_process(self, play: Play) -> None:
        async def act(stage: Stage) -> None:
            pid = await stage.start()
            folder = stage.folder / "one"
            await stage.checkpointer.dump(pid, folder)
            one, ended = await _restored(stage)
            for _ in range(2):
                await stage.checkpointer.remove(folder)
            assert not folder.exists()
            assert (await stage.go_on(one.pid))[0]
            one.kill()
            await ended

        play(act)


async def _restored(stage: Stage) -> tuple[Restored, asyncio.Future[Exit]]:
    ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    one = await stage.checkpointer.restore(stage.folder / "one")
    one.watch(ended.set_result)
    return one, ended
