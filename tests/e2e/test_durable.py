"""Calls that outlive their client and their server, and apps that are called by name."""

import asyncio
import sys

import pytest

import jitney
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "surface.py"

NAMED = """
    import sys
    import jitney

    for call_id in sys.argv[1:]:
        print(jitney.FunctionCall.from_id(call_id).get(timeout=20))
"""


def test_a_spawned_call_gives_its_result_when_asked(program):
    call = program.square.spawn(12)
    assert call.get(timeout=20) == 144
    assert call.get(timeout=20) == 144, "as often as it is asked"
    assert call.num_inputs() == 1


def test_gather_keeps_the_order(program):
    calls = [program.square.spawn(n) for n in range(5)]
    assert jitney.FunctionCall.gather(*calls) == [0, 1, 4, 9, 16]
    assert asyncio.run(jitney.FunctionCall.gather.aio(*calls)) == [0, 1, 4, 9, 16]


def test_get_waits_no_longer_than_asked(program, tmp_path):
    waiting = program.Waiter.with_options(timeout=60)()
    call = waiting.wait.spawn()
    with pytest.raises(jitney.exception.TimeoutError):
        call.get(timeout=0.1)
    waiting.say.remote()
    assert call.get(timeout=20) == "heard"


def test_the_exception_of_a_spawned_call_arrives_as_itself(program):
    with pytest.raises(program.Refusal) as caught:
        program.refuse.spawn(3).get(timeout=20)
    assert caught.value.code == 3


def test_one_handle_for_a_whole_map(program):
    call = program.square.spawn_map(range(2_500))
    assert call.num_inputs() == 2_500
    assert list(call.iter()) == [n * n for n in range(2_500)]
    assert call.get(index=7) == 49
    assert list(call.iter(start=2, end=5)) == [4, 9, 16]


def test_a_cancelled_call_stops_and_says_so(program):
    waiting = program.Waiter.with_options(timeout=61)()
    call = waiting.wait.spawn()
    eventually(lambda: waiting.wait.get_current_stats().num_running_inputs == 1)
    call.cancel()
    with pytest.raises(jitney.exception.CancelledError):
        call.get(timeout=10)
    eventually(lambda: waiting.wait.get_current_stats().num_running_inputs == 0)


def test_large_durable_values_survive_on_disk(program):
    value = bytes(2_000_000)
    call = program.echo.spawn(value)
    assert call.get(timeout=20) == value
    assert call.get(timeout=20) == value


def test_another_process_gets_the_result_by_id(program, sdk):
    sdk.write("named.py", NAMED)
    call = program.square.spawn(9)
    assert sdk.python("named.py", call.object_id).lines == ["81"]


def test_results_and_deployed_apps_survive_a_restart_of_the_server(lone):
    lone.bring("surface.py")
    lone.write("named.py", NAMED)
    lone.write(
        "spawner.py",
        """
        import jitney
        square = jitney.Function.from_name("surface", "square")
        call = square.spawn(6)
        assert call.get(timeout=20) == 36
        print(call.object_id)
        """,
    )
    lone.jitney("deploy", "surface.py")
    ended = lone.python("spawner.py").lines[0]
    lone.jitney("down")
    assert lone.python("named.py", ended).lines == ["36"]
    assert lone.python("named.py", lone.python("spawner.py").lines[0]).lines == ["36"]


def test_a_deployed_app_is_called_by_name_from_another_program(sdk):
    sdk.bring("surface.py")
    assert "version" in sdk.jitney("deploy", "surface.py", "--name", "by-name").out
    sdk.write(
        "caller.py",
        """
        import asyncio
        import jitney

        square = jitney.Function.from_name("by-name", "square")
        print(square.remote(3), list(square.map(range(3))))
        print(list(jitney.Function.from_name("by-name", "count").remote_gen(2)))
        Counter = jitney.Cls.from_name("by-name", "Counter")
        print(Counter(start=4).add.remote(1))
        print(asyncio.run(square.remote.aio(5)), square.spawn(6).get(timeout=20))
        try:
            jitney.Function.from_name("by-name", "sqare").remote(1)
        except jitney.exception.NotFoundError as error:
            print(error)
        try:
            jitney.Function.from_name("by-nome", "square").remote(1)
        except jitney.exception.NotFoundError as error:
            print(error)
        """,
    )
    lines = sdk.python("caller.py").lines
    assert lines[:4] == ["9 [0, 1, 4]", "[0, 1]", "5", "25 36"]
    assert "did you mean 'square'" in lines[4]
    assert "did you mean 'by-name'?" in lines[5]
    sdk.jitney("app", "stop", "by-name")
    assert "by-name" in sdk.python("caller.py", code=1).err


def test_the_functions_of_an_app_that_runs_no_more_say_so(sdk):
    app = jitney.App("short")

    @app.function(serialized=True)
    def nothing():
        return None

    with app.run():
        nothing.remote()
    with pytest.raises(jitney.exception.InvalidError, match="its app does not run"):
        nothing.remote()


def test_an_id_that_nobody_gave_is_named(sdk):
    with pytest.raises(jitney.exception.NotFoundError, match="fc-"):
        jitney.FunctionCall.from_id("fc-0000000000000000000000").get(timeout=5)


def test_a_detached_call_is_finished_without_its_client(lone, tmp_path):
    lone.bring("crash.py")
    client = lone.start_jitney("run", "--detach", "crash.py::hold", "--x", "6", "--folder", tmp_path)
    eventually((tmp_path / "runs").exists)
    client.kill()
    client.wait()
    (tmp_path / "go").touch()
    call = eventually(lambda: [one for one in lone.calls() if one["state"] == "done"])[0]
    lone.write("named.py", NAMED)
    assert lone.python("named.py", call["call_id"]).lines == ["36"]
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


def test_no_call_fails_while_new_versions_are_deployed(lone):
    lone.write(
        "caller.py",
        """
        import jitney

        version = jitney.Function.from_name("rolling", "version")
        print("calling", flush=True)
        seen = []
        while not seen or seen[-1] < 3:
            seen += [*version.map(range(20)), version.remote(0)]
        print(sorted(set(seen)), len(seen) > 20)
        """,
    )
    text = """
        import jitney

        app = jitney.App("rolling")

        @app.function()
        def version(x):
            return {version}
    """
    lone.write("rolling.py", text.format(version=1))
    lone.jitney("deploy", "rolling.py")
    caller = lone.start(sys.executable, "caller.py")
    assert caller.stdout.readline() == "calling\n"
    for number in (2, 3):
        lone.write("rolling.py", text.format(version=number))
        assert f"version {number}" in lone.jitney("deploy", "rolling.py").out
    done = lone.finish(caller)
    assert done.lines[-1].endswith("True")
    assert "3" in done.lines[-1]
