"""Classes on a real platform: parameters, hooks, state, and pools of their own."""

import pytest

import jitney
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "surface.py"


def test_an_instance_lives_as_long_as_its_container(program):
    counter = program.Counter(start=5)
    assert counter.add.remote(1) == 6
    assert counter.add.remote(10) == 16


def test_each_set_of_parameters_has_containers_of_its_own(program):
    assert program.Counter(start=100).pid.remote() != program.Counter(start=200).pid.remote()
    assert program.Counter(start=100).pid.remote() == program.Counter(start=100).pid.remote()


def test_methods_that_yield_and_methods_that_call(program):
    counter = program.Counter(start=1000)
    assert list(counter.steps.remote_gen(3)) == [1001, 1002, 1003]
    assert counter.plus_square.remote(2) == 1003 + 4


def test_methods_of_a_class_map(program):
    counter = program.Counter.with_options(max_containers=1)(start=0)
    assert list(counter.add.map([1] * 5)) == [1, 2, 3, 4, 5]


def test_exit_runs_when_the_container_is_stopped(program, sdk, tmp_path):
    counter = program.Counter(start=1, folder=str(tmp_path))
    pid = counter.pid.remote()
    assert counter.add.remote(1) == 2
    container = next(one["container_id"] for one in sdk.containers("Counter") if one["pid"] == pid)
    sdk.jitney("container", "stop", container)
    eventually((tmp_path / "exited").exists)
    assert (tmp_path / "exited").read_text() == "2"


def test_async_methods_of_one_instance_overlap(program):
    waiter = program.Waiter()
    call = waiter.wait.spawn()
    eventually(lambda: waiter.wait.get_current_stats().num_running_inputs == 1)
    waiter.say.remote()
    assert call.get(timeout=10) == "heard"


def test_options_of_a_class(program):
    variant = program.Counter.with_options(env={"A": "b"})(start=7)
    assert variant.add.remote(0) == 7


@pytest.mark.parametrize(
    "given, message",
    [({"strat": 1}, "has no parameter 'strat'"), ({"start": "1"}, "takes int, not str")],
)
def test_wrong_parameters_are_refused_before_anything_runs(program, given, message):
    with pytest.raises(jitney.exception.InvalidError, match=message):
        program.Counter(**given)
