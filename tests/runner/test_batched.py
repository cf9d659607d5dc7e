"""@batched functions: lists in, a list out."""

import pytest

from tests.runner.fake_server import arguments

CODE = """
    def add(x, y, *, z=None):
        return [a + b + (c or 0) for a, b, c in zip(x, y, z or [0] * len(x))]

    async def aadd(x, y, *, z=None):
        return add(x, y, z=z)

    def short(x):
        return x[:-1]

    def scalar(x):
        return 1

    def partly(x):
        import threading
        return [threading.Lock() if one == 1 else one for one in x]
"""


@pytest.mark.parametrize("name,how,most", [("add", "", 1), ("add", "", 2), ("aadd", "async", 2)])
def test_arguments_are_zipped_and_results_split(worker, name, how, most):
    link = worker(CODE).fork(qualname=name, how=how, batched=True, max_inputs=most, concurrent=most > 1).link
    tokens = link.run(arguments(1, 10), arguments(2, 20), arguments(3, 30), batch=True)
    assert [link.value(token) for token in tokens] == [11, 22, 33]
    tokens = link.run(arguments(1, y=10, z=100), arguments(2, 20, z=200), batch=True)
    assert [link.value(token) for token in tokens] == [111, 222], "calls may be written differently"


@pytest.mark.parametrize("name,words", [("short", "returned 1 values for 2 inputs"), ("scalar", "returned a int")])
def test_a_result_that_does_not_fit_fails_every_input(worker, name, words):
    link = worker(CODE).fork(qualname=name, batched=True).link
    for token in link.run(arguments(1), arguments(2), batch=True):
        assert words in link.failure(token).message


def test_inputs_fail_alone_where_only_they_are_bad(worker):
    link = worker(CODE).fork(qualname="partly", batched=True).link
    first, unreadable, unpicklable = link.run(arguments(0), b"Pgarbage", arguments(1), batch=True)
    assert link.value(first) == 0
    assert link.failure(unreadable).type_name == "UnreadableError"
    assert link.failure(unpicklable).type_name == "UnpicklableError"
