"""User code that kills, blocks or litters: a typed error, no hang, nothing left, and the next call works."""

import json
import os
import time
from pathlib import Path

import pytest

from jitney.drivers.runtime.forking import procfs
from jitney.errors import ContainerCrashError, FunctionTimeoutError, StartupError
from jitney.values.calls import CRASHES_MAX
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "bad.py"


def is_gone(pid):
    """Whether no process has that pid, a zombie neither."""
    return procfs.stat(pid) is None


def pid_of(folder):
    """The pid that user code wrote down."""
    eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    return int((folder / "pid").read_text())


# ---------------------------------------------------------------------------------------------------- it dies


@pytest.mark.parametrize(
    "how, words",
    [("exit", "exit code 7"), ("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("kill", "SIGKILL")],
)
def test_an_input_that_takes_its_container_down_fails_after_some_tries(program, tmp_path, how, words):
    with pytest.raises(ContainerCrashError, match=words):
        program.die.remote(how, str(tmp_path))
    assert (tmp_path / "x").read_text().count("ran") == CRASHES_MAX
    assert program.die.remote("fine", str(tmp_path), "y") == "fine"


def test_the_other_inputs_of_a_map_survive_a_deadly_one(program, tmp_path):
    how = ["exit" if n == 7 else str(n) for n in range(20)]
    results = list(program.die.map(how, [str(tmp_path)] * 20, map(str, range(20)), return_exceptions=True))
    assert isinstance(results.pop(7), ContainerCrashError)
    assert results == [str(n) for n in range(20) if n != 7]


def test_code_that_closes_the_link_under_the_runner_is_answered_by_a_new_one(program, tmp_path):
    assert program.die.remote("close", str(tmp_path)) == "close"
    assert program.die.remote("close", str(tmp_path)) == "close"


def test_a_deadly_call_is_durable_too(program, tmp_path):
    with pytest.raises(ContainerCrashError, match="exit code 7"):
        program.die.spawn("exit", str(tmp_path)).get(timeout=20)


def test_memory_over_the_limit_is_told_as_such(program):
    with pytest.raises(ContainerCrashError, match=r"(?i)out of memory"):
        program.hog.remote()


# ---------------------------------------------------------------------------------------------------- it does not end


@pytest.mark.parametrize("how", ["sleep", "loop", "hold the lock", "ignore"])
def test_an_input_past_its_timeout_ends_whatever_it_does(program, tmp_path, how):
    started = time.monotonic()
    with pytest.raises(FunctionTimeoutError, match="endless ran longer than its timeout of 1 s"):
        program.endless.remote(how, str(tmp_path))
    assert time.monotonic() - started < 10
    eventually(lambda: is_gone(pid_of(tmp_path)), 5)


def test_a_blocked_event_loop_ends_at_its_timeout(program):
    with pytest.raises(FunctionTimeoutError):
        program.block_the_loop.remote()


def test_a_timeout_is_retried_as_declared(program, tmp_path):
    once = program.endless.with_options(retries=1, timeout=1)
    started = time.monotonic()
    with pytest.raises(FunctionTimeoutError):
        once.remote("sleep", str(tmp_path))
    assert time.monotonic() - started > 2


def test_a_container_that_ignores_sigterm_is_killed_when_its_app_stops(sdk, tmp_path):
    sdk.bring("bad.py")
    sdk.jitney("deploy", "bad.py", "--name", "stubborn")
    sdk.write(
        "start.py",
        """
        import sys
        import jitney
        jitney.Function.from_name("stubborn", "stubborn").spawn(sys.argv[1])
        """,
    )
    sdk.python("start.py", tmp_path)
    pid = pid_of(tmp_path)
    assert not is_gone(pid)
    sdk.jitney("app", "stop", "stubborn")
    eventually(lambda: is_gone(pid), 10)


@pytest.mark.slow
def test_a_cancelled_input_that_goes_on_loses_its_container(program, tmp_path):
    call = program.stubborn.spawn(str(tmp_path))
    pid = pid_of(tmp_path)
    call.cancel()
    eventually((tmp_path / "told").exists, 5, "the cancellation reaches sync code")
    eventually(lambda: is_gone(pid), 20)
    eventually(lambda: program.stubborn.get_current_stats().num_running_inputs == 0)


def test_cancel_with_its_containers_ends_them_at_once(program, tmp_path):
    call = program.stubborn.spawn(str(tmp_path))
    pid = pid_of(tmp_path)
    call.cancel(terminate_containers=True)
    eventually(lambda: is_gone(pid), 5)


# ---------------------------------------------------------------------------------------------------- it never begins


def test_start_up_code_that_raises_fails_the_inputs_with_its_traceback(program):
    with pytest.raises(StartupError, match="no model here") as caught:
        program.NeverReady().run.remote()
    assert "in begin" in str(caught.value.__cause__)
    with pytest.raises(StartupError, match="no model here"):
        program.NeverReady().run.spawn().get(timeout=20)


def test_start_up_code_past_its_timeout_fails_the_inputs(program):
    with pytest.raises(StartupError, match=r"(?i)timeout|longer|not ready"):
        program.SlowToBegin().run.remote()


def test_a_container_that_dies_at_its_start_fails_the_inputs(program):
    with pytest.raises(StartupError, match="exit code 9"):
        program.DiesAtStart().run.remote()


# ---------------------------------------------------------------------------------------------------- it litters


@pytest.mark.parametrize("how", ["child", "daemon", "program"])
def test_a_process_left_behind_ends_with_its_container(program, tmp_path, how):
    pid = program.leave.remote(how, str(tmp_path))
    eventually(lambda: is_gone(pid), 10)


def test_a_fork_that_returns_from_the_function_gives_no_second_result(program, tmp_path):
    assert program.two_returns.remote(str(tmp_path)) is True
    assert sorted((tmp_path / "returned").read_text().split()) == ["False", "True"]
    assert program.two_returns.remote(str(tmp_path)) is True


def test_code_that_closes_its_standard_streams_still_answers(program):
    assert program.close_output.remote() == "quiet"


def test_code_that_changes_its_process_still_answers(program):
    assert program.make_a_mess.remote() == "messy"
    assert program.make_a_mess.remote() == "messy"


def test_the_containers_of_bad_code_are_listed_with_their_ends(program, sdk, tmp_path):
    with pytest.raises(ContainerCrashError):
        program.die.remote("segfault", str(tmp_path))
    listed = json.loads(sdk.jitney("container", "list", "--all", "--json").out)
    ends = [one["exit"] for one in listed if one["function_name"] == "die" and one["exit"]]
    assert any(end["signal"] == 11 for end in ends)
    assert not [path for path in Path(sdk.home.containers).glob("ta-*") if is_gone(_pid(listed, path.name))]


def _pid(listed, container_id):
    return next((one["pid"] or 0 for one in listed if one["container_id"] == container_id), os.getpid())
