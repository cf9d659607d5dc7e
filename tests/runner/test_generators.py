"""Generators in each executor: order, back-pressure, cancellation."""

import pytest

from jitney.runner.outbox import ITEMS_AHEAD
from tests.runner.fake_server import arguments

CODE = """
    import asyncio, os

    def count(n, path=None):
        try:
            for number in range(n):
                yield number
        finally:
            if path: open(path, "w").close()

    async def acount(n, path=None):
        try:
            for number in range(n):
                yield number
        finally:
            if path: open(path, "w").close()

    def broken():
        yield 1
        raise ValueError("in the middle")

    async def abroken():
        yield 1
        raise ValueError("in the middle")

    def big():
        for number in range(3):
            yield bytes([number]) * 200_000

    def slow(gate):
        yield "first"
        open(gate).read()
        yield "second"
"""

EXECUTORS = [
    pytest.param("", {"how": "generator"}, id="serial"),
    pytest.param("", {"how": "generator", "max_inputs": 2, "concurrent": True}, id="threads"),
    pytest.param("a", {"how": "async generator"}, id="loop"),
]


@pytest.mark.parametrize("prefix,options", EXECUTORS)
def test_items_come_in_order_and_end(worker, prefix, options):
    link = worker(CODE).fork(qualname=f"{prefix}count", **options).link
    for n in (0, 1, 500):
        (token,) = link.run(arguments(n))
        assert link.value(token) == len(link.yielded(token))
        assert link.yielded(token) == list(range(n))


@pytest.mark.parametrize("prefix,options", EXECUTORS)
def test_a_generator_waits_for_its_reader(worker, prefix, options):
    link = worker(CODE).fork(qualname=f"{prefix}count", **options).link
    (token,) = link.run(arguments(ITEMS_AHEAD + 50))
    link.wait(lambda: len(link.items.get(token, ())) == ITEMS_AHEAD)
    link.credit(token, 20)
    link.wait(lambda: len(link.items[token]) == ITEMS_AHEAD + 20)
    assert token not in link.results
    link.credit(token, 1_000)
    assert link.value(token) == len(link.yielded(token))
    assert link.yielded(token) == list(range(ITEMS_AHEAD + 50))


@pytest.mark.parametrize("prefix,options", EXECUTORS)
def test_cancelling_a_generator_that_waits_runs_its_finally(worker, tmp_path, prefix, options):
    link = worker(CODE).fork(qualname=f"{prefix}count", **options).link
    ended = tmp_path / "ended"
    (token,) = link.run(arguments(10 * ITEMS_AHEAD, str(ended)))
    link.wait(lambda: len(link.items.get(token, ())) == ITEMS_AHEAD)
    link.cancel(token)
    assert link.failure(token).type_name == "InputCancellation"
    assert ended.exists()
    (token,) = link.run(arguments(3))
    assert link.value(token) == len(link.yielded(token))


@pytest.mark.parametrize("prefix,options", EXECUTORS)
def test_what_was_yielded_before_an_error_arrives(worker, prefix, options):
    link = worker(CODE).fork(qualname=f"{prefix}broken", **options).link
    (token,) = link.run(arguments())
    assert link.failure(token).message == "in the middle"
    assert link.yielded(token) == [1]


def test_an_item_does_not_wait_for_the_next(worker, tmp_path):
    import os

    link = worker(CODE).fork(qualname="slow", how="generator").link
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    (token,) = link.run(arguments(gate))
    link.wait(lambda: len(link.items.get(token, ())) == 1)
    with open(gate, "w"):
        pass
    assert link.value(token) == len(link.yielded(token))
    assert link.yielded(token) == ["first", "second"]


def test_large_items(worker):
    link = worker(CODE).fork(qualname="big", how="generator").link
    (token,) = link.run(arguments())
    assert link.value(token) == len(link.yielded(token))
    assert link.yielded(token) == [bytes([n]) * 200_000 for n in range(3)]
