"""What is killed, and what goes on all the same: containers, templates, clients, workers, servers."""

import os
import signal
import sys
import threading
import time
from collections import Counter

import pytest

from jitney.drivers.runtime.forking import procfs
from tests.e2e.platforms import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]


def runs(folder):
    """(input, pid) of every attempt so far."""
    path = folder / "runs"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def squares(count):
    """What the client prints of a map over `count` numbers."""
    return ["running", *(str(n * n) for n in range(count))]


def is_gone(pid):
    """Whether no process has that pid."""
    return procfs.stat(pid) is None


@pytest.fixture
def crash(lone):
    lone.bring("crash.py")
    return lone


def begin(crash, name, count, folder, running):
    """A client that maps, and has `running` inputs under way."""
    process = crash.start(sys.executable, "crash.py", name, count, folder)
    eventually(lambda: len(runs(folder)) >= running or process.poll() is not None, 20, "inputs run")
    assert process.poll() is None, process.stderr.read()
    return process


# ---------------------------------------------------------------------------------------------------- containers


def test_a_container_that_is_killed_in_the_middle_of_an_input_runs_it_again(crash, tmp_path):
    client = begin(crash, "hold", 2, tmp_path, 2)
    x, pid = runs(tmp_path)[0]
    os.kill(pid, signal.SIGKILL)
    again = eventually(lambda: [attempt for attempt in runs(tmp_path)[2:] if attempt[0] == x])
    assert again[0][1] != pid
    (tmp_path / "go").touch()
    assert crash.finish(client).lines == squares(2)
    assert Counter(n for n, _ in runs(tmp_path)) == {x: 2, 1 - x: 1}


def test_a_container_that_is_killed_between_inputs_is_replaced(crash, tmp_path):
    client = begin(crash, "counted", 600, tmp_path, 100)
    for _ in range(3):
        seen = len(runs(tmp_path))
        os.kill(runs(tmp_path)[-1][1], signal.SIGKILL)
        eventually(lambda at_least=seen + 20: len(runs(tmp_path)) > at_least)
    assert crash.finish(client).lines == squares(600)
    assert len(runs(tmp_path)) <= 600 + 3, "only what was running runs again"


def test_a_container_that_is_killed_while_idle_is_not_missed(crash, tmp_path):
    crash.write(
        "idle.py",
        """
        import os
        import signal
        import sys
        import crash

        with crash.app.run():
            for n in range(10):
                assert crash.counted.remote(n, sys.argv[1]) == n * n
                pid = int(open(os.path.join(sys.argv[1], "runs")).read().split()[-1])
                os.kill(pid, signal.SIGKILL)
        print("all right")
        """,
    )
    assert crash.python("idle.py", tmp_path).lines == ["all right"]


# ---------------------------------------------------------------------------------------------------- templates


def test_the_containers_of_a_template_that_is_killed_go_on(crash, tmp_path):
    client = begin(crash, "hold", 2, tmp_path, 2)
    templates = crash.templates()
    assert templates
    for pid in templates:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: all(map(is_gone, templates)))
    assert not any(is_gone(pid) for _, pid in runs(tmp_path))
    crash.write("go_on.py", "import sys, crash\ncrash.main('counted', 5, sys.argv[1])\n")
    (tmp_path / "other").mkdir()
    assert crash.python("go_on.py", tmp_path / "other").lines == squares(5), "new ones start"
    (tmp_path / "go").touch()
    assert crash.finish(client).lines == squares(2)
    assert len(runs(tmp_path)) == 2, "nothing ran twice"


# ---------------------------------------------------------------------------------------------------- clients


def test_the_call_of_a_client_that_is_killed_is_cancelled_soon(crash, tmp_path):
    client = begin(crash, "hold", 10, tmp_path, 2)
    client.kill()
    killed = time.monotonic()
    eventually(lambda: [call["state"] for call in crash.calls()] == ["cancelled"], 10)
    eventually(lambda: len(list(tmp_path.glob("cancelled-*"))) == len(runs(tmp_path)), 5, "what runs is interrupted")
    assert time.monotonic() - killed < 8


def test_ctrl_c_ends_a_map_cleanly(crash, tmp_path):
    crash.write(
        "entry.py",
        """
        import crash
        from crash import app

        @app.local_entrypoint()
        def main(folder: str):
            for result in crash.hold.map(range(10), kwargs={"folder": folder}):
                print(result)
        """,
    )
    client = crash.start_jitney("run", "entry.py", "--folder", tmp_path)
    eventually(lambda: len(runs(tmp_path)) >= 2 or client.poll() is not None, 20)
    client.send_signal(signal.SIGINT)
    done = crash.finish(client, code=130, timeout=20)
    assert "Traceback" not in done.err
    eventually(lambda: all(is_gone(pid) for _, pid in runs(tmp_path)), 10, "its containers end")


def test_a_script_that_is_interrupted_leaves_nothing_running(crash, tmp_path):
    client = begin(crash, "hold", 10, tmp_path, 2)
    client.send_signal(signal.SIGINT)
    done = crash.finish(client, code=None, timeout=20)
    assert "KeyboardInterrupt" in done.err
    eventually(lambda: all(is_gone(pid) for _, pid in runs(tmp_path)), 10)


def test_many_first_clients_at_once_start_one_server(crash, tmp_path):
    folders = [tmp_path / str(n) for n in range(4)]
    for folder in folders:
        folder.mkdir()
    clients = [crash.start(sys.executable, "crash.py", "counted", 5, folder) for folder in folders]
    assert [crash.finish(client).lines for client in clients] == [squares(5)] * 4
    servers = [command for _, command in crash.processes() if "jitney up" in command]
    assert len(servers) == 1, crash.processes()


# ---------------------------------------------------------------------------------------------------- servers


def restart(crash, **options):
    """Somebody starts a server again."""
    crash.jitney("up", "--background", **options)


def test_running_inputs_outlive_their_server_and_do_not_run_twice(crash, tmp_path):
    client = begin(crash, "hold", 8, tmp_path, 2)
    held = runs(tmp_path)
    crash.kill_server()
    assert not any(is_gone(pid) for _, pid in held)
    restart(crash)
    eventually(
        lambda: sum(1 for one in crash.containers("hold") if one["pid"] in {pid for _, pid in held}) == len(held)
    )
    (tmp_path / "go").touch()
    assert crash.finish(client).lines == squares(8)
    attempts = Counter(x for x, _ in runs(tmp_path))
    assert [attempts[x] for x, _ in held] == [1] * len(held)
    assert set(attempts) == set(range(8))


def test_results_that_were_made_without_a_server_are_not_lost(crash, tmp_path):
    client = begin(crash, "hold", 2, tmp_path, 2)
    crash.kill_server()
    (tmp_path / "go").touch()
    restart(crash)
    assert crash.finish(client).lines == squares(2)
    assert len(runs(tmp_path)) == 2


def test_a_blocking_call_outlives_its_server(crash, tmp_path):
    crash.write("one.py", "import sys, crash\nwith crash.app.run():\n    print(crash.hold.remote(7, sys.argv[1]))\n")
    client = crash.start(sys.executable, "one.py", tmp_path)
    eventually(lambda: runs(tmp_path))
    crash.kill_server()
    restart(crash)
    (tmp_path / "go").touch()
    assert crash.finish(client).lines == ["49"]
    assert len(runs(tmp_path)) == 1


def test_a_map_goes_on_when_its_server_is_killed(crash, tmp_path):
    client = begin(crash, "counted", 1_000, tmp_path, 200)
    crash.kill_server()
    restart(crash)
    assert crash.finish(client).lines == squares(1_000)
    again = len(runs(tmp_path)) - 1_000
    assert 0 <= again <= 300, "only results that the client had not got are made again"


@pytest.mark.slow
def test_the_client_brings_back_a_server_that_was_killed(crash, tmp_path):
    client = begin(crash, "counted", 400, tmp_path, 100)
    crash.kill_server()
    assert crash.finish(client).lines == squares(400)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_map_survives_many_kills_of_its_server(crash, tmp_path):
    client = begin(crash, "counted", 3_000, tmp_path, 50)
    for _ in range(10):
        seen = len(runs(tmp_path))
        crash.kill_server()
        restart(crash)
        eventually(lambda at_least=seen + 40: len(runs(tmp_path)) > at_least or client.poll() is not None, 30)
    assert crash.finish(client, timeout=120).lines == squares(3_000)


def test_a_restart_that_keeps_containers_runs_nothing_twice(crash, tmp_path):
    client = begin(crash, "hold", 3, tmp_path, 2)
    held = runs(tmp_path)
    crash.jitney("down", "--keep-containers")
    restart(crash)
    (tmp_path / "go").touch()
    assert crash.finish(client).lines == squares(3)
    attempts = Counter(x for x, _ in runs(tmp_path))
    assert [attempts[x] for x, _ in held] == [1] * len(held)


def test_large_values_outlive_their_server(crash, tmp_path):
    crash.write(
        "large.py",
        """
        import sys
        import crash

        values = [bytes([n]) * 1_000_000 for n in range(60)]
        with crash.app.run():
            assert list(crash.sized.map(values, kwargs={"folder": sys.argv[1]})) == values
        print("all right")
        """,
    )
    client = crash.start(sys.executable, "large.py", tmp_path)
    eventually(lambda: len(runs(tmp_path)) >= 10)
    crash.kill_server()
    restart(crash)
    assert crash.finish(client).lines == ["all right"]


def test_a_half_read_generator_goes_on_after_its_server_was_killed_or_says_so(crash, tmp_path):
    crash.write(
        "reading.py",
        """
        import sys
        import crash

        got = []
        with crash.app.run():
            try:
                for item in crash.items.remote_gen(100, sys.argv[1]):
                    got.append(item)
                    print("item", item, flush=True)
            except crash.jitney.Error as error:
                print("error", type(error).__name__)
        assert got == list(range(len(got))), got
        print("read", len(got))
        """,
    )
    client = crash.start(sys.executable, "reading.py", tmp_path)
    eventually(lambda: runs(tmp_path))
    crash.kill_server()
    restart(crash)
    (tmp_path / "go").touch()
    done = crash.finish(client)
    assert done.lines[-1] == "read 100" or any(line.startswith("error ") for line in done.lines), done
    assert len(runs(tmp_path)) == 1, "a generator that has yielded is not run again"


SPAWNER = """
    import sys
    import jitney

    counted = jitney.Function.from_name("crash", "counted")
    for n in range(200):
        print(counted.spawn(n, sys.argv[1]).object_id, flush=True)
"""
READER = """
    import sys
    import jitney

    calls = [jitney.FunctionCall.from_id(line.strip()) for line in open(sys.argv[1])]
    results = jitney.FunctionCall.gather(*calls)
    assert results == [n * n for n in range(len(calls))], results
    print(len(results), "results")
"""


def test_no_acknowledged_spawn_is_lost_with_the_server(crash, tmp_path):
    crash.write("spawner.py", SPAWNER)
    crash.write("reader.py", READER)
    crash.jitney("deploy", "crash.py")
    client = crash.start(sys.executable, "spawner.py", tmp_path)
    acknowledged = [client.stdout.readline() for _ in range(60)]
    crash.kill_server()
    restart(crash)
    acknowledged += client.stdout.readlines()
    crash.finish(client)
    assert len(acknowledged) == 200, "the client goes on spawning"
    crash.write("ids", "".join(acknowledged))
    assert crash.python("reader.py", "ids").lines == ["200 results"]


def test_a_spawned_map_is_finished_by_the_next_server_and_no_result_twice(crash, tmp_path):
    crash.write(
        "spawn_map.py",
        """
        import sys
        import jitney
        call = jitney.Function.from_name("crash", "counted").spawn_map(range(500), kwargs={"folder": sys.argv[1]})
        print(call.object_id)
        """,
    )
    crash.write(
        "results.py",
        """
        import sys
        import jitney
        call = jitney.FunctionCall.from_id(sys.argv[1])
        print(list(call.iter()) == [n * n for n in range(500)], call.num_inputs())
        """,
    )
    crash.jitney("deploy", "crash.py")
    call_id = crash.python("spawn_map.py", tmp_path).lines[0]
    eventually(lambda: len(runs(tmp_path)) >= 50)
    crash.kill_server()
    restart(crash)
    assert crash.python("results.py", call_id).lines == ["True 500"]
    assert len(runs(tmp_path)) <= 500 + 200


def test_cancelled_calls_stay_cancelled_after_a_crash(crash, tmp_path):
    crash.write(
        "cancelled.py",
        """
        import sys
        import jitney
        call = jitney.Function.from_name("crash", "hold").spawn_map(range(20), kwargs={"folder": sys.argv[1]})
        call.cancel()
        print(call.object_id)
        """,
    )
    crash.jitney("deploy", "crash.py")
    call_id = crash.python("cancelled.py", tmp_path).lines[0]
    crash.kill_server()
    before = len(runs(tmp_path))
    (tmp_path / "go").touch()
    restart(crash)
    assert crash.jitney("call", "show", call_id, "--json").json()["call"]["state"] == "cancelled"
    crash.python("crash.py", "counted", 3, tmp_path)
    assert len(runs(tmp_path)) == before + 3


def test_a_server_that_is_stopped_for_a_while_goes_on(crash, tmp_path):
    client = begin(crash, "counted", 400, tmp_path, 50)
    pid = crash.server()
    os.kill(pid, signal.SIGSTOP)
    try:
        seen = -1
        while seen != (seen := len(runs(tmp_path))):  # until the containers have eaten what they had
            threading.Event().wait(0.3)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert crash.finish(client).lines == squares(400)
    assert len(runs(tmp_path)) == 400


# ---------------------------------------------------------------------------------------------------- workers


def test_the_containers_of_a_worker_that_is_killed_end_and_their_inputs_run_again(crash, tmp_path):
    client = begin(crash, "hold", 2, tmp_path, 2)
    held, worker = runs(tmp_path), crash.worker()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: crash.worker() not in (None, worker), 20, "there is a new worker")
    eventually(lambda: all(is_gone(pid) for _, pid in held), 25, "the old containers end")
    eventually(lambda: {x for x, _ in runs(tmp_path)[2:]} == {0, 1}, 30, "their inputs run again")
    (tmp_path / "go").touch()
    assert crash.finish(client).lines == squares(2)


@pytest.mark.slow
def test_everything_but_the_client_is_killed_at_once(crash, tmp_path):
    client = begin(crash, "hold", 4, tmp_path, 2)
    for pid, _ in crash.processes():
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    restart(crash)
    assert crash.finish(client, timeout=60).lines == squares(4)


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_client_whose_server_was_stopped_for_good_says_so(crash, tmp_path):
    client = begin(crash, "hold", 2, tmp_path, 2)
    crash.jitney("down")
    done = crash.finish(client, code=None, timeout=100)
    assert done.code not in (0, None)
    assert "jitney" in done.err


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_nobody_comes_back_for_does_not_run_for_ever(crash, tmp_path):
    crash.write(
        "caller.py",
        """
        import sys
        import jitney
        jitney.Function.from_name("crash", "hold").remote(1, sys.argv[1])
        """,
    )
    crash.jitney("deploy", "crash.py")
    client = crash.start(sys.executable, "caller.py", tmp_path)
    eventually(lambda: runs(tmp_path))
    client.kill()
    crash.kill_server()
    restart(crash)
    eventually(lambda: is_gone(runs(tmp_path)[0][1]), 120)
    assert len(runs(tmp_path)) == 1
