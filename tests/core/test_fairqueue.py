"""The fair queue: nothing is lost, order inside a call is kept, calls take turns."""

from __future__ import annotations

import functools
import operator

from hypothesis import given
from hypothesis import strategies as st

from jitney.core.fairqueue import FairQueue

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc")),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("give_back"), st.sampled_from("abc")),
        st.tuples(st.just("remove"), st.sampled_from("abc")),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_the_queue_is_a_list_for_each_call(actions):
    queue: FairQueue[int] = FairQueue()
    model: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for number, (action, argument) in enumerate(actions):
        if action == "put":
            queue.put(argument, number)
            model[argument].append(number)
        elif action == "give_back":
            queue.give_back(argument, number)
            model[argument].insert(0, number)
        elif action == "remove":
            assert queue.remove_call(argument) == model[argument]
            model[argument] = []
        elif queue:
            call, items = queue.take(argument)
            assert items == model[call][: len(items)]
            assert len(items) == min(argument, len(model[call]))
            del model[call][: len(items)]
        assert len(queue) == sum(map(len, model.values()))
        assert sorted(queue) == sorted(functools.reduce(operator.iadd, model.values(), []))


@given(st.integers(1, 20), st.integers(1, 5))
def test_a_short_call_waits_for_one_turn_of_each_other_call(others, batch):
    queue: FairQueue[str] = FairQueue()
    for other in range(others):
        for _ in range(100):
            queue.put(f"map {other}", "long")
    queue.put("short", "short")
    turns = [queue.take(batch)[0] for _ in range(others + 1)]
    assert "short" in turns


def test_oldest_looks_at_the_heads():
    queue: FairQueue[int] = FairQueue()
    assert queue.oldest(lambda item: item) is None
    for call, item in (("a", 5), ("a", 1), ("b", 3)):
        queue.put(call, item)
    assert queue.oldest(lambda item: item) == 3
    assert queue.depth("a") == 2
    assert queue.clear()
    assert not queue
