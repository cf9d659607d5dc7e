"""`map` and its kin against a server: order, laziness, refusals, breaks, bounds, and both colours."""

import asyncio
import itertools
import threading

import pytest

import jitney
from jitney.client import mapping, output
from jitney.errors import InvalidError, NotFoundError, ResourceExhaustedError, SerializationError, UnsupportedError
from jitney.wire.messages.link import Refused

FULL = Refused("", 0, 0, "resource_exhausted", "2,000 inputs wait", retry_after_ms=2)


def add(x, y=0, *, z=0):
    return x + y + z


def picky(x):
    if x == 3:
        raise ValueError(f"not {x}")
    return x


@pytest.fixture
def calls(server):
    server.deploy("a", add=add, picky=picky)
    return lambda name: jitney.Function.from_name("a", name)


class Notes(output.Quiet):
    """Keeps what a person would see."""

    def __init__(self):
        self.notes = []
        self.progress = []

    def note(self, text):
        self.notes.append(text)

    def map_progress(self, name, done, failed, sent, total):
        self.progress.append((name, done, failed, sent, total))


@pytest.fixture
def notes():
    with output.use(Notes()) as kept:
        yield kept


def collect(source):
    async def main():
        return [item async for item in source()]

    return asyncio.run(main())


def test_results_in_the_order_of_inputs(server, calls):
    server.faults.reverse = True
    assert list(calls("add").map(range(2_000))) == list(range(2_000))
    assert collect(lambda: calls("add").map.aio(range(2_000))) == list(range(2_000))


def test_results_as_they_come(calls):
    assert sorted(calls("add").map(range(500), order_outputs=False)) == list(range(500))


def test_several_iterators_and_keywords(calls):
    assert list(calls("add").map([1, 2, 3], [10, 20], kwargs={"z": 100})) == [111, 122]
    assert list(calls("add").starmap([(1, 2), [3, 4]])) == [3, 7]
    assert collect(lambda: calls("add").starmap.aio([(1, 2)])) == [3]
    assert calls("add").for_each([1, 2]) is None
    assert asyncio.run(calls("add").for_each.aio([1, 2])) is None


def test_async_iterators_are_pulled_on_the_callers_loop(calls):
    async def inputs():
        me = asyncio.current_task()
        assert me is not None
        for n in range(300):
            threads.add(threading.current_thread())
            yield n

    async def pairs():
        yield 1, 2

    threads = set()
    assert collect(lambda: calls("add").map.aio(inputs())) == list(range(300))
    assert threads == {threading.main_thread()}
    assert collect(lambda: calls("add").map.aio(inputs(), [1, 2])) == [1, 3]
    assert collect(lambda: calls("add").starmap.aio(pairs())) == [3]


def test_nothing_and_one(calls):
    assert list(calls("add").map([])) == []
    assert list(calls("add").map([1])) == [1]


def test_frames_hold_what_is_there(server, calls):
    assert len(list(calls("add").map(range(5_000)))) == 5_000
    assert sum(server.seen.frames) == 5_000
    assert len(server.seen.frames) < 500
    assert max(server.seen.frames) <= 256
    assert list(server.seen.totals.values()) == [5_000]


def test_a_slow_iterator_does_not_hold_back_results(calls):
    got = threading.Event()

    def inputs():
        yield 1
        yield 2
        assert got.wait(10)  # the next input exists only after a result of the ones before
        yield 3

    source = calls("add").map(inputs())
    assert next(source) == 1
    got.set()
    assert list(source) == [2, 3]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_iterator_costs_bounded_memory(server, calls, ordered):
    pulled = itertools.count()
    made = []

    def inputs():
        for n in pulled:
            made.append(n)
            yield n

    source = calls("add").map(inputs(), order_outputs=ordered)
    for _ in range(10):
        next(source)
    # The reader stops reading: the map comes to rest at its bounds.
    quiet = threading.Event()
    before = -1
    while before != len(made):
        before = len(made)
        quiet.wait(0.2)
    assert len(made) <= mapping.AHEAD_MAX + 2_000
    for _ in range(len(made)):
        next(source)
    source.close()


def test_a_map_that_is_not_read_on_is_cancelled(server, calls):
    source = calls("add").map(itertools.count())
    next(source)
    source.close()
    done = threading.Event()
    for _ in range(1_000):
        if server.seen.cancelled:
            break
        done.wait(0.005)
    assert server.seen.cancelled


# ------------------------------------------------------------------------------------------------ errors


def test_the_first_error_ends_the_map(calls):
    seen = []
    with pytest.raises(ValueError, match="not 3"):
        seen.extend(calls("picky").map(range(10)))
    assert seen == [0, 1, 2]
    with pytest.raises(ValueError, match="not 3"):
        calls("picky").for_each(range(10))


def test_errors_as_results(calls):
    values = list(calls("picky").map(range(5), return_exceptions=True))
    assert values[:3] == [0, 1, 2]
    assert isinstance(values[3], ValueError)
    assert values[3].__cause__ is not None
    assert values[4] == 4
    assert calls("picky").for_each(range(10), ignore_exceptions=True) is None
    assert len(collect(lambda: calls("picky").map.aio(range(5), return_exceptions=True))) == 5


def test_what_the_iterator_raises(calls):
    def inputs():
        yield from range(100)
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        list(calls("add").map(inputs()))


def test_an_input_that_cannot_be_pickled(calls):
    with pytest.raises(SerializationError, match=r"_thread.lock"):
        list(calls("add").map([1, threading.Lock()]))


def test_a_function_that_is_not_there(server):
    with pytest.raises(NotFoundError):
        list(jitney.Function.from_name("a", "nothing").map([1]))


def test_a_function_that_went_away(server, calls):
    f = calls("add").hydrate()
    server.functions.clear()
    with pytest.raises(NotFoundError, match="no function"):
        list(f.map([1]))


def test_misuse_is_refused(calls):
    with pytest.raises(InvalidError, match="at least one iterator"):
        calls("add").map()
    with pytest.raises(UnsupportedError, match="wrap_returned_exceptions"):
        calls("add").map([1], wrap_returned_exceptions=True)

    async def inputs():
        yield 1

    with pytest.raises(InvalidError, match=r"f\.map\.aio"):
        calls("add").map(inputs())


# ------------------------------------------------------------------------------------------------ back-pressure, breaks


def test_refused_inputs_are_sent_again_and_the_person_is_told_once(server, calls, notes):
    server.faults.refuse = [FULL] * 5
    assert list(calls("add").map(range(1_000))) == list(range(1_000))
    assert notes.notes == ["the map over add goes as fast as it can: 2,000 inputs wait"]


def test_a_refusal_for_good_ends_the_map(server, calls):
    server.faults.refuse = [Refused("", 0, 0, "resource_exhausted", "never", retry_after_ms=0)]
    with pytest.raises(ResourceExhaustedError, match="never"):
        list(calls("add").map(range(10)))


@pytest.mark.parametrize("keep_results", [True, False])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_break_in_the_middle(server, calls, after, keep_results):
    server.faults.keep_results = keep_results
    server.faults.drop_after_frames = after
    assert list(calls("add").map(range(3_000))) == list(range(3_000))


def test_many_breaks(server, calls):
    source = calls("add").map(range(5_000), order_outputs=False)
    seen = []
    for value in source:
        seen.append(value)
        if len(seen) % 1_000 == 0:
            server.drop_links()
    assert sorted(seen) == list(range(5_000))


def test_a_crash_of_the_server_in_the_middle(server, calls):
    source = calls("add").map(range(5_000))
    seen = [next(source) for _ in range(100)]
    server.crash()
    server.start()
    seen += source
    assert seen == list(range(5_000))


def test_repeats_and_disorder(server, calls):
    server.faults.duplicate = server.faults.reverse = True
    assert list(calls("add").map(range(2_000))) == list(range(2_000))
    assert sorted(calls("add").map(range(2_000), order_outputs=False)) == list(range(2_000))


def test_progress_is_told(server, calls, notes):
    assert len(list(calls("picky").map(range(100), return_exceptions=True))) == 100
    assert notes.progress[-1] == ("picky", 100, 1, 100, 100)


def test_several_maps_at_once(server, calls):
    async def main():
        async def one(n):
            return [value async for value in calls("add").map.aio(range(200), kwargs={"z": n})]

        return await asyncio.gather(*(one(n) for n in range(5)))

    assert asyncio.run(main()) == [[x + n for x in range(200)] for n in range(5)]


def test_a_map_inside_a_map(server, calls):
    f = calls("add")
    assert [list(f.map(range(n))) for n in f.map(range(5))] == [list(range(n)) for n in range(5)]
