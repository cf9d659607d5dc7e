"""Maps over a real platform: order, errors, endless inputs, and what is left when one is abandoned."""

import asyncio
import itertools

import pytest

from jitney.client.feed import INPUTS_AHEAD_MAX
from jitney.client.mapping import AHEAD_MAX
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "surface.py"


def test_results_come_in_the_order_of_the_inputs(program):
    assert list(program.uneven.map(range(30))) == list(range(30))


def test_results_come_as_they_are_done_when_asked_so(program):
    results = list(program.uneven.map(range(30), order_outputs=False))
    assert sorted(results) == list(range(30))
    assert results[0] != 0, "the first input takes longest, on one of two containers"


def test_a_map_of_many(program):
    assert sum(program.square.map(range(20_000))) == sum(n * n for n in range(20_000))


def test_a_map_of_nothing(program):
    assert list(program.square.map([])) == []


def test_the_first_failure_ends_a_map(program):
    results = program.odd_only.map([1, 3, 2, 5])
    assert [next(results), next(results)] == [1, 3]
    with pytest.raises(ValueError, match="2 is even"):
        next(results)


def test_failures_are_results_when_asked_so(program):
    results = list(program.odd_only.map(range(6), return_exceptions=True))
    assert results[1::2] == [1, 3, 5]
    assert [str(error) for error in results[::2]] == ["0 is even", "2 is even", "4 is even"]
    assert all(isinstance(error, ValueError) for error in results[::2])


def test_an_endless_iterator_is_read_only_so_far_ahead(program):
    taken = itertools.count()
    last = 0

    def numbers():
        nonlocal last
        for taken_now in taken:
            last = taken_now
            yield taken_now

    results = program.square.map(numbers())
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    results.close()
    assert last <= AHEAD_MAX + INPUTS_AHEAD_MAX
    eventually(lambda: program.square.get_current_stats().num_running_inputs == 0, why="what was under way is dropped")
    assert program.square.get_current_stats().backlog == 0
    assert program.square.remote(3) == 9


def test_an_error_of_the_users_iterator_arrives_as_itself(program):
    def numbers():
        yield 1
        raise LookupError("no more numbers")

    with pytest.raises(LookupError, match="no more numbers"):
        list(program.square.map(numbers()))


def test_several_iterators_and_common_keywords(program):
    assert list(program.add.map([1, 2, 3], [10, 20], kwargs={"c": 0})) == [11, 22]


def test_starmap(program):
    assert list(program.add.starmap([(1, 2), (3, 4)], kwargs={"c": 0})) == [3, 7]


def test_for_each_waits_for_all(program, tmp_path):
    program.note.for_each([str(tmp_path)] * 5, "abcde")
    assert sorted(path.name for path in tmp_path.iterdir()) == list("abcde")
    with pytest.raises(ValueError, match="is even"):
        program.odd_only.for_each([2])
    program.odd_only.for_each([2], ignore_exceptions=True)


def test_async_maps_over_async_iterators(program):
    async def numbers():
        for n in range(10):
            await asyncio.sleep(0)
            yield n

    async def both():
        ordered = [x async for x in program.square.map.aio(numbers())]
        pairs = [x async for x in program.add.starmap.aio([(n, n) for n in range(3)], kwargs={"c": 0})]
        await program.odd_only.for_each.aio([1, 3])
        return ordered, pairs

    assert asyncio.run(both()) == ([n * n for n in range(10)], [0, 2, 4])


def test_two_maps_at_once_share_the_containers(program):
    one, two = program.square.map(itertools.count()), program.square.map(itertools.count(100))
    pairs = [(next(one), next(two)) for _ in range(500)]
    assert pairs == [(n * n, (n + 100) ** 2) for n in range(500)]
    one.close()
    two.close()
