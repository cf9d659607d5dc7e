"""The contract of `ports.limits`, sentence by sentence."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

import pytest

from jitney.ports.limits import Bounds, Group, Limiter, LimitsFailed

WAIT_S = 40
POLL_S = 0.002
MIB = 1 << 20
NS_PER_S = 1_000_000_000
HELD_MIB = 48
FORKED = 20
SPARE_MIB = 8  # of memory beside what a program asks for, and the kernel's batches of counting


class Program(StrEnum):
    """What a process does once it is inside."""

    ECHOES = "says 'in', then says each line that it is told"
    HOLDS = f"takes {HELD_MIB} MiB of memory, says 'holds', and waits"
    EATS = "says 'in', then takes memory until it is ended"
    SPINS = "says 'in', then uses one CPU for ever"
    FORKS = f"forks children that wait until that is refused with EAGAIN, or {FORKED} times; says how many, and waits"
    BOMB = "says 'in', then forks for ever, as do its children"


class Inmate(Protocol):
    """A process that runs a program."""

    async def said(self) -> str:
        """Its next line."""
        ...

    async def echo(self, line: str) -> str:
        """What one that echoes answers."""
        ...

    async def ended(self) -> int:
        """Its exit code, or a signal as a negative number."""
        ...


class Stage(Protocol):
    """What a driver's test module brings."""

    limiter: Limiter

    def again(self) -> Limiter:
        """One of the same owner, as after a crash of the first."""
        ...

    def stranger(self) -> Limiter:
        """One of another owner on the same machine."""
        ...

    async def run(self, group: Group | None, program: Program, *, is_unprivileged: bool = False) -> Inmate:
        """A process that enters a group (None: stays outside) and runs. The unprivileged one has another user's id."""
        ...

    async def spend(self) -> None:
        """Time passes: long enough for a process that spins to be seen doing so."""
        ...

    def left_overs(self) -> list[str]:
        """Groups that are there now, of all owners, for an assertion to show."""
        ...


async def until(condition: Callable[[], bool]) -> None:
    """Ask again and again."""
    while not condition():  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(POLL_S)


Play = Callable[[Stage], Awaitable[None]]
MakeStage = Callable[[], AbstractAsyncContextManager[Stage]]


class Played:
    """Runs tests on stages. Their module brings the fixture `make_stage`: what makes one, inside a running loop."""

    def play(self, make_stage: MakeStage, play: Play, *, needs: str = "") -> None:
        """Run one test on a driver that can do what it needs; nothing may be left behind."""

        async def main() -> None:
            async with asyncio.timeout(WAIT_S), make_stage() as stage:
                can = stage.limiter.capabilities()
                if needs and not getattr(can, needs):
                    pytest.skip(f"no {needs} here: {can.why}")
                try:
                    await play(stage)
                finally:
                    await stage.limiter.close()
                assert stage.left_overs() == []

        asyncio.run(main())


class LimitsContract(Played):
    """What a group is when it is made; see `ChangesContract`."""

    # ------------------------------------------------------------------------------------------------ 1, making

    def test_a_name_that_is_taken_is_refused_and_its_group_unharmed(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("taken", Bounds())
            inmate = await stage.run(group, Program.ECHOES)
            await inmate.said()
            with pytest.raises(LimitsFailed):
                stage.limiter.make("taken", Bounds())
            assert await inmate.echo("still here") == "still here"
            await group.remove()
            await stage.limiter.make("taken", Bounds()).remove()

        self.play(make_stage, play, needs="accounting")

    @pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "a\nb", "cgroup.procs", "a b", "x" * 300, "\0"])
    def test_a_name_that_could_lead_elsewhere_is_refused(self, make_stage: MakeStage, name: str) -> None:
        async def play(stage: Stage) -> None:
            with pytest.raises(LimitsFailed):
                stage.limiter.make(name, Bounds())

        self.play(make_stage, play, needs="accounting")

    def test_limits_of_every_size_are_taken(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            for number, size in enumerate((1, 10**9)):
                bounds = Bounds(cpu_weight_milli=size, cpu_milli=size, memory_mib=size, pids=size)
                await stage.limiter.make(f"g{number}", bounds).remove()

        self.play(make_stage, play)

    # ------------------------------------------------------------------------------------------------ 2, entering

    def test_who_enters_is_counted_with_its_children(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds())
            assert group.usage().processes == 0
            inmate = await stage.run(group, Program.FORKS)
            assert await inmate.said() == f"forked {FORKED}"
            assert group.usage().processes == FORKED + 1

        self.play(make_stage, play, needs="accounting")

    def test_a_process_of_another_user_enters_by_descriptors_that_it_was_given(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds(pids=10))
            inmate = await stage.run(group, Program.ECHOES, is_unprivileged=True)
            assert await inmate.said() == "in"
            assert group.usage().processes == 1

        self.play(make_stage, play, needs="accounting")

    def test_descriptors_are_closed_once(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds())
            group.close_fds()
            assert group.join_fds == ()
            group.close_fds()

        self.play(make_stage, play)

    # ------------------------------------------------------------------------------------------------ 3, counting

    def test_memory_is_counted_now_at_its_peak_and_over_time(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds(memory_mib=4 * HELD_MIB))
            inmate = await stage.run(group, Program.HOLDS)
            assert await inmate.said() == "holds"
            now_ns = 5 * NS_PER_S
            group.sample(now_ns)
            for _ in range(10):
                now_ns += NS_PER_S
                usage = group.sample(now_ns)
            held = HELD_MIB * MIB
            assert held <= usage.memory_kib * 1024 <= held + SPARE_MIB * MIB
            assert held <= usage.memory_peak_kib * 1024 <= held + SPARE_MIB * MIB
            assert held * 10 <= usage.memory_byte_s <= (held + SPARE_MIB * MIB) * 10

        self.play(make_stage, play, needs="memory")

    def test_what_was_used_never_shrinks_and_outlives_the_group(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds(memory_mib=4 * HELD_MIB))
            for program in (Program.HOLDS, Program.SPINS):
                await (await stage.run(group, program)).said()
            seen = [group.sample(0)]
            await stage.spend()
            seen.append(group.sample(NS_PER_S))
            group.kill()
            await until(lambda: group.usage().processes == 0)
            seen.append(group.usage())
            await group.remove()
            seen.append(group.usage())
            for name in ("cpu_ns", "cpu_throttled_ns", "memory_peak_kib", "memory_byte_s"):
                values = [getattr(usage, name) for usage in seen]
                assert values == sorted(values), name
            assert seen[-1].cpu_ns > 0
            assert seen[-1].memory_peak_kib >= HELD_MIB * 1024
            assert (seen[-1].processes, seen[-1].memory_kib) == (0, 0)

        self.play(make_stage, play, needs="memory")

    # ------------------------------------------------------------------------------------------------ 4, memory

    def test_too_much_memory_ends_a_process_inside_and_nobody_outside(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("hungry", Bounds(memory_mib=HELD_MIB))
            neighbours = [
                await stage.run(stage.limiter.make("neighbour", Bounds(memory_mib=HELD_MIB)), Program.ECHOES),
                await stage.run(None, Program.ECHOES),
            ]
            for neighbour in neighbours:
                assert await neighbour.said() == "in"
            assert group.oom_kills() == 0
            inmate = await stage.run(group, Program.EATS)
            assert await inmate.ended() == -signal.SIGKILL
            assert group.oom_kills() >= 1
            peak_mib = group.usage().memory_peak_kib / 1024
            assert 0.9 * HELD_MIB <= peak_mib <= HELD_MIB + 1
            for neighbour in neighbours:
                assert await neighbour.echo("unharmed") == "unharmed"
            kills = group.oom_kills()
            await group.remove()
            assert group.oom_kills() >= kills

        self.play(make_stage, play, needs="memory")

    # ------------------------------------------------------------------------------------------------ 5, CPU, processes

    def test_more_processes_than_the_limit_are_refused_inside(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds(pids=8))
            inmate = await stage.run(group, Program.FORKS)
            assert await inmate.said() == "refused after 7"
            assert group.usage().processes == 8
            outside = await stage.run(None, Program.FORKS)
            assert await outside.said() == f"forked {FORKED}"

        self.play(make_stage, play, needs="pids")

    def test_more_cpu_than_the_limit_is_throttled(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("slow", Bounds(cpu_milli=100))
            free = stage.limiter.make("free", Bounds())
            for one in (group, free):
                await (await stage.run(one, Program.SPINS)).said()
            while group.usage().cpu_throttled_ns == 0:
                await stage.spend()
            assert group.usage().cpu_ns > 0
            assert free.usage().cpu_throttled_ns == 0

        self.play(make_stage, play, needs="cpu")

    # ------------------------------------------------------------------------------------------------ 6, ending

    def test_kill_ends_a_fork_bomb(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("bomb", Bounds(pids=64))
            inmate = await stage.run(group, Program.BOMB)
            assert await inmate.said() == "in"
            await until(lambda: group.usage().processes >= 48)
            group.kill()
            assert await inmate.ended() == -signal.SIGKILL
            await until(lambda: group.usage().processes == 0)
            after = await stage.run(group, Program.FORKS)  # the limit is what it was
            assert await after.said() == f"forked {FORKED}"

        self.play(make_stage, play, needs="pids")

    def test_frozen_processes_use_nothing_until_they_thaw(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds())
            await (await stage.run(group, Program.SPINS)).said()
            group.freeze()
            before = -1
            while (now := group.usage().cpu_ns) != before:  # it stops within a moment, which is not at once
                before = now
                await stage.spend()
            await stage.spend()
            assert group.usage().cpu_ns == now
            group.thaw()
            while group.usage().cpu_ns == now:
                await stage.spend()

        self.play(make_stage, play, needs="freeze")

    def test_kill_ends_what_is_frozen(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds())
            inmate = await stage.run(group, Program.SPINS)
            await inmate.said()
            group.freeze()
            group.kill()
            assert await inmate.ended() == -signal.SIGKILL

        self.play(make_stage, play, needs="freeze")

    # ------------------------------------------------------------------------------------------------ 7, removing

    def test_remove_ends_what_is_inside_and_can_be_said_twice(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds())
            inmate = await stage.run(group, Program.FORKS)
            await inmate.said()
            await asyncio.gather(group.remove(), group.remove())
            assert await inmate.ended() == -signal.SIGKILL
            await group.remove()
            group.kill()
            group.freeze()
            group.thaw()
            assert group.join_fds == ()

        self.play(make_stage, play, needs="accounting")

    def test_close_ends_all_groups(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            inmates = [await stage.run(stage.limiter.make(f"g{n}", Bounds()), Program.ECHOES) for n in range(3)]
            for inmate in inmates:
                await inmate.said()
            await stage.limiter.close()
            assert {await inmate.ended() for inmate in inmates} == {-signal.SIGKILL}

        self.play(make_stage, play, needs="accounting")

    # ------------------------------------------------------------------------------------------------ 8, reaping

    def test_reap_removes_what_an_earlier_run_left_and_nothing_else(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            old = [await stage.run(stage.limiter.make(f"old{n}", Bounds()), Program.FORKS) for n in range(2)]
            other = stage.stranger()
            others = await stage.run(other.make("g", Bounds()), Program.ECHOES)
            for inmate in (*old, others):
                await inmate.said()
            later = stage.again()
            mine = await stage.run(later.make("mine", Bounds()), Program.ECHOES)
            await mine.said()
            assert await later.reap() == 2
            assert {await inmate.ended() for inmate in old} == {-signal.SIGKILL}
            assert await later.reap() == 0
            assert await others.echo("unharmed") == "unharmed"
            assert await mine.echo("unharmed") == "unharmed"
            await other.close()
            await later.close()

        self.play(make_stage, play, needs="accounting")

    def test_reap_of_nothing(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            assert await stage.limiter.reap() == 0

        self.play(make_stage, play)


class ChangesContract(Played):
    """Limits that change while somebody is inside."""

    # ------------------------------------------------------------------------------------------------ 10, raising

    def test_a_limit_that_is_raised_holds_from_then_on(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds(memory_mib=HELD_MIB // 2))
            group.raise_memory(2 * HELD_MIB)
            inmate = await stage.run(group, Program.HOLDS)
            assert await inmate.said() == "holds"
            assert group.oom_kills() == 0
            eater = await stage.run(group, Program.EATS)
            assert await eater.ended() == -signal.SIGKILL
            assert group.usage().memory_peak_kib <= (2 * HELD_MIB + 1) * 1024
            await group.remove()
            group.raise_memory(4 * HELD_MIB)

        self.play(make_stage, play, needs="memory")

    # ------------------------------------------------------------------------------------------------ 11, CPU, later

    def test_a_limit_of_cpu_holds_for_who_is_inside_until_it_is_lifted(self, make_stage: MakeStage) -> None:
        async def play(stage: Stage) -> None:
            group = stage.limiter.make("g", Bounds())
            await (await stage.run(group, Program.SPINS)).said()
            await stage.spend()
            assert group.usage().cpu_throttled_ns == 0
            group.bound_cpu(100)
            while group.usage().cpu_throttled_ns == 0:
                await stage.spend()
            group.bound_cpu(None)
            await stage.spend()  # of the period in which it was lifted
            before = group.usage().cpu_throttled_ns
            await stage.spend()
            assert group.usage().cpu_throttled_ns == before
            await group.remove()
            group.bound_cpu(100)

        self.play(make_stage, play, needs="cpu")
