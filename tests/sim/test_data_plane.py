"""The data plane under seeded faults: every input ends exactly once, nothing is in two places, nothing hangs."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from jitney.testing.virtual_loop import run
from jitney.values.calls import CallKind, Status
from jitney.values.functions import Concurrency, FunctionSpec, RetryPolicy, Scaling
from jitney.wire.messages import link as m
from tests.sim.world import SUCCESS, Client, World

FAULTS = {
    "crash": 0.02,
    "fail": 0.05,
    "double": 0.05,
    "stillborn": 0.05,
    "never_ready": 0.03,
    "reorder": 0.3,
}
SPECS = [
    FunctionSpec(name="plain", startup_timeout_ms=1_000, scaling=Scaling(max_containers=4)),
    FunctionSpec(name="retried", startup_timeout_ms=1_000, retries=RetryPolicy(max_retries=3)),
    FunctionSpec(
        name="once", startup_timeout_ms=1_000, single_use=True, scaling=Scaling(max_containers=6, buffer_containers=1)
    ),
    FunctionSpec(name="many", startup_timeout_ms=1_000, concurrency=Concurrency(max_inputs=4, target_inputs=3)),
]


async def story(seed: int) -> tuple[list[tuple[float, str, str]], Client, World]:
    world = World(seed, FAULTS, SPECS)
    client, other = Client(), Client()
    calls = {}
    for function_id in world.functions:
        calls[world.open_map(client, function_id, world.rng.randint(1, 120))] = function_id
        calls[world.invoke(client, function_id)] = function_id
    world.open_map(other, world.functions[0], 100)
    world.after(world.rng.uniform(0, 3), world.detach)
    await world.settle(world.rng.uniform(0.5, 5))
    other.is_open = False
    world.connected.link_lost(other)
    await world.settle(60)
    world.faults.clear()
    world.max_service_s = 0.01
    await world.settle(200)
    assert not world.router.calls, "a call never ended"
    for call_id in calls:
        counts = client.got[call_id]
        assert set(counts) == set(range(len(counts)))
        assert set(counts.values()) == {1}, "an index was delivered twice"
    return world.trace, client, world


@pytest.mark.parametrize("seed", range(20))
def test_every_input_ends_once_whatever_happens(seed):
    run(story(seed))


def test_a_seed_always_tells_the_same_story():
    assert run(story(7))[0] == run(story(7))[0]


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(20))
def test_two_thousand_stories(hundred):
    for seed in range(100 * hundred + 1_000, 100 * hundred + 1_100):
        run(story(seed))


def test_idle_containers_go_and_the_pool_is_empty_in_the_end():
    async def main():
        world = World(1, {}, [FunctionSpec(name="f")], max_service_s=0.01)
        client = Client()
        world.open_map(client, world.functions[0], 200)
        await world.settle(5)
        assert world.fleet.containers
        await world.settle(70)
        assert not world.fleet.containers

    run(main())


def test_a_timeout_ends_the_attempt_and_its_neighbours_run_again():
    async def main():
        spec = FunctionSpec(name="slow", timeout_ms=1_000, scaling=Scaling(max_containers=1))
        world = World(3, {}, [spec])
        world.service_s = lambda: 60.0
        client = Client()
        call = world.open_map(client, world.functions[0], 3)
        await world.settle(10)
        assert [client.status[call, index] for index in range(3)] == [Status.TIMEOUT] * 3
        assert max(world.runs.values()) == 1

    run(main())


def test_an_input_that_kills_its_container_each_time_fails_in_the_end():
    async def main():
        world = World(4, {"crash": 1.0}, [FunctionSpec(name="poison")], max_service_s=0.01)
        client = Client()
        call = world.invoke(client, world.functions[0])
        await world.settle(10)
        assert client.status[call, 0] == Status.CRASH
        assert world.runs[call, 0] == 3

    run(main())


def test_inputs_behind_a_long_one_are_recalled():
    async def main():
        spec = FunctionSpec(name="mixed", scaling=Scaling(max_containers=2))
        world = World(5, {}, [spec])
        times = [0.00001] * 50 + [30.0] + [0.00001] * 1_000

        def service_s():
            world.last_service_s = times.pop(0)
            return world.last_service_s

        world.service_s = service_s
        client = Client()
        first = world.open_map(client, world.functions[0], 50)
        await world.settle(1)
        assert len(client.got[first]) == 50
        second = world.open_map(client, world.functions[0], 60)
        await world.settle(2)
        assert len(client.got[second]) == 59, "inputs were stranded behind the long one"

    run(main())


def test_a_short_call_does_not_wait_for_a_long_map():
    async def main():
        world = World(6, {}, [FunctionSpec(name="f", scaling=Scaling(max_containers=1))])
        world.service_s = lambda: 0.1
        client = Client()
        world.open_map(client, world.functions[0], 500)
        await world.settle(1)
        call = world.invoke(client, world.functions[0])
        await world.settle(0.5)
        assert client.status[call, 0] == SUCCESS

    run(main())


def test_a_full_queue_refuses_with_a_time_to_come_back():
    async def main():
        world = World(8, {}, [FunctionSpec(name="f", scaling=Scaling(max_containers=1))])
        world.service_s = lambda: 10.0
        client = Client()
        world.open_map(client, world.functions[0], 3_000)
        assert client.refused
        assert client.refused[0].code == "resource_exhausted"
        assert client.refused[0].retry_after_ms > 0

    run(main())


def test_a_client_that_comes_back_finds_its_results_and_nothing_runs_twice():
    async def main():
        world = World(9, {}, [FunctionSpec(name="f", scaling=Scaling(max_containers=2))], max_service_s=1.0)
        lost, back = Client(), Client()
        function_id = world.functions[0]
        call = world.open_map(lost, function_id, 60)
        over = world.invoke(lost, function_id)
        await world.settle(0.2)
        lost.is_open = False
        world.connected.link_lost(lost)
        await world.settle(1.0)
        missing = [index for index in range(60) if not lost.got.get(call, {}).get(index)]
        world.connected.open(back, m.OpenCall(call, function_id, ""))
        for index in missing:  # the client is the log: it sends all that it has no result of
            world.connected.inputs(back, m.Inputs(call, index, [b"%d" % index]))
        world.connected.end_inputs(m.EndInputs(call, 60))
        if over not in lost.got:
            world.connected.invoke(back, m.Invoke(over, function_id, "", CallKind.UNARY, b"x"))
        await world.settle(60)
        assert set(world.runs.values()) == {1}
        assert (lost.got.get(call, Counter()) + back.got[call]) == Counter(range(60))
        assert (over in lost.got) != (over in back.got)
        assert not back.refused
        assert not world.router.calls

    run(main())


def test_a_client_that_stays_away_has_its_call_cancelled():
    async def main():
        world = World(10, {}, [FunctionSpec(name="f", scaling=Scaling(max_containers=1))])
        world.service_s = lambda: 5.0
        client = Client()
        world.open_map(client, world.functions[0], 100)
        await world.settle(0.5)
        client.is_open = False
        world.connected.link_lost(client)
        await world.settle(20)
        assert not world.router.calls
        assert sum(world.runs.values()) <= 2

    run(main())


def test_a_hundred_long_inputs_all_run_at_once():
    async def main():
        for warm in (False, True):
            world = World(11, {}, [FunctionSpec(name="f")])
            world.info = msgspec.structs.replace(world.info, memory_mib=32_768)
            world.attach()
            client = Client()
            world.service_s = lambda: 0.0001
            if warm:  # the service time that was measured before says nothing of these
                world.open_map(client, world.functions[0], 50)
                await world.settle(1)
            world.service_s = lambda: 30.0
            world.open_map(client, world.functions[0], 100)
            await world.settle(3)
            assert len(world.fleet.containers) == 100

    run(main())
