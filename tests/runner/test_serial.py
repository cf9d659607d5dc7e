"""Plain functions: one input at a time on the main thread."""

import os
import signal

from jitney.runner import payload, protocol
from tests.runner.fake_server import CALL, arguments

STUCK = """
    import os, time

    def sleep(path):
        open(path, "w").close()
        time.sleep(60)  # sleep: user code that outlives its caller's patience

    def spin(path):
        open(path, "w").close()
        while True:
            pass

    def stubborn(path):
        try:
            open(path, "w").close()
            time.sleep(60)  # sleep: user code that outlives its caller's patience
        except BaseException:
            return "so be it"

    def quick(x):
        return x
"""


def test_calls_run_and_their_values_come_back(worker):
    link = worker("def square(x, *, add=0): return x * x + add").fork(qualname="square").link
    assert link.call(3) == 9
    assert link.call(3, add=1) == 10
    tokens = link.run(*[arguments(n) for n in range(200)])
    assert [link.value(token) for token in tokens] == [n * n for n in range(200)]
    assert link.frames < 100, "results of fast inputs share frames"


def test_a_result_does_not_wait_for_a_slow_input_behind_it(worker, tmp_path):
    link = (
        worker(
            """
        import os

        def work(path):
            if path:
                open(path).read()  # a FIFO: waits for the test
            return path
        """
        )
        .fork(qualname="work")
        .link
    )
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    tokens = link.run(*[arguments("") for _ in range(20)], arguments(gate))
    assert [link.value(token) for token in tokens[:20]] == [""] * 20
    with open(gate, "w"):
        pass
    assert link.value(tokens[20]) == gate


def test_everything_that_user_code_raises_is_a_failure_of_its_input(worker):
    container = worker(
        """
        import sys

        class Odd(Exception):
            def __reduce__(self):
                return (Odd, (1, 2, 3))

            def __init__(self, text):
                super().__init__(text)

        class Unprintable(Exception):
            def __str__(self):
                raise RuntimeError("no")

        def fail(how):
            if how == "value": raise ValueError("a value")
            if how == "exit": sys.exit(3)
            if how == "interrupt": raise KeyboardInterrupt
            if how == "odd": raise Odd("strange")
            if how == "unprintable": raise Unprintable
            if how == "huge": raise ValueError("x" * 3_000_000)
            if how == "deep": return fail(how)
            if how == "lock":
                import threading
                return {"here": [threading.Lock()]}
            if how == "nested":
                value = []
                for _ in range(100_000): value = [value]
                return value
            return "fine"
        """
    ).fork(qualname="fail")
    link = container.link

    def failure(how):
        return link.failure(link.run(arguments(how))[0])

    assert isinstance(failure("value").exception, ValueError)
    assert "in fail" in failure("value").traceback
    assert "jitney" not in failure("value").traceback, "frames of the runner are left out"
    assert failure("exit").type_name == "SystemExit"
    assert failure("interrupt").type_name == "KeyboardInterrupt"
    odd = failure("odd")
    assert (odd.type_name, odd.message, odd.exception) == ("Odd", "strange", None)
    assert "cannot be made" in failure("unprintable").message
    huge = failure("huge")
    assert huge.exception is None
    assert len(huge.message) < 20_000
    assert failure("deep").type_name == "RecursionError"
    assert failure("nested").type_name == "UnpicklableError"
    lock = failure("lock")
    assert isinstance(lock.exception, payload.UnpicklableError)
    assert "_thread.lock at ['here'][0]" in lock.message
    assert link.call("nothing") == "fine", "the container is as good as before"


def test_a_value_that_cannot_be_unpickled_fails_its_input_alone(worker):
    link = worker("def f(x): return x").fork(qualname="f").link
    bad, good = link.run(b"Pgarbage", arguments(1))
    assert link.failure(bad).type_name == "UnreadableError"
    assert link.value(good) == 1


def test_cancelling_interrupts_sleep_and_a_loop(worker, tmp_path):
    fake = worker(STUCK)
    for name in ("sleep", "spin"):
        container = fake.fork(qualname=name)
        started = tmp_path / f"started-{name}"
        (token,) = container.link.run(arguments(str(started)))
        _wait_for_file(fake, started)
        container.link.cancel(token)
        container.interrupt()
        assert container.link.failure(token).type_name == "InputCancellation"
        container.link.stop()
        assert container.wait_exit()["exit_code"] == 0


def test_code_may_catch_its_cancellation(worker, tmp_path):
    fake = worker(STUCK)
    container = fake.fork(qualname="stubborn")
    started = tmp_path / "started"
    (token,) = container.link.run(arguments(str(started)))
    _wait_for_file(fake, started)
    container.link.cancel(token)
    container.interrupt()
    assert container.link.value(token) == "so be it"


def test_waiting_inputs_are_cancelled_and_recalled_while_user_code_runs(worker, tmp_path):
    fake = worker(STUCK)
    container = fake.fork(qualname="sleep")
    link = container.link
    started = tmp_path / "started"
    running, dropped, recalled, kept = link.run(arguments(str(started)), *[arguments("/dev/null")] * 3)
    _wait_for_file(fake, started)
    link.cancel(dropped)
    link.recall(recalled, running)
    container.interrupt()
    link.wait(lambda: len(link.recalled) == 2)
    assert link.recalled == [[dropped], [recalled]], "what has started is not given back"
    link.recall(kept)
    link.cancel(running)
    container.interrupt()
    assert link.failure(running).type_name == "InputCancellation"
    link.wait(lambda: len(link.recalled) == 3)
    assert link.recalled[2] == [kept]
    assert set(link.results) == {running}, "inputs that were dropped or given back have no result"


def test_interrupting_without_a_reason_changes_nothing(worker):
    container = worker("def f(n): return sum(range(n))").fork(qualname="f")
    link = container.link
    tokens = link.run(*[arguments(100_000) for _ in range(50)])
    for _ in range(50):
        container.interrupt()
    assert [link.value(token) for token in tokens] == [4999950000] * 50


def test_stop_finishes_what_runs_and_gives_back_the_rest(worker, tmp_path):
    fake = worker(
        """
        def work(path, gate):
            open(path, "w").close()
            open(gate).read()
            return "done"
        """
    )
    container = fake.fork(qualname="work")
    link = container.link
    gate, started = str(tmp_path / "gate"), tmp_path / "started"
    os.mkfifo(gate)
    running, waiting = link.run(arguments(str(started), gate), arguments(str(started), gate))
    _wait_for_file(fake, started)
    link.stop()
    container.interrupt()
    link.wait(lambda: link.recalled)
    assert link.recalled == [[waiting]]
    with open(gate, "w"):
        pass
    assert link.value(running) == "done"
    assert container.wait_exit()["exit_code"] == 0
    assert link.said_bye


def test_sigterm_interrupts_and_reports_nothing(worker, tmp_path):
    fake = worker(STUCK)
    container = fake.fork(qualname="sleep")
    link = container.link
    started = tmp_path / "started"
    _, waiting = link.run(arguments(str(started)), arguments("/dev/null"))
    _wait_for_file(fake, started)
    os.kill(container.pid, signal.SIGTERM)
    assert container.wait_exit()["exit_code"] == 0
    assert link.said_bye
    assert not link.results, "the input runs again elsewhere"
    assert link.recalled == [[waiting]]


def test_sigterm_ends_an_idle_container(worker):
    container = worker("def f(): pass").fork(qualname="f")
    link = container.link
    os.kill(container.pid, signal.SIGTERM)
    assert container.wait_exit()["exit_code"] == 0
    assert link.said_bye


def test_a_single_use_container_ends_after_one_input(worker):
    container = worker("def f(x): return x").fork(qualname="f", single_use=True)
    link = container.link
    first, second = link.run(arguments(1), arguments(2))
    assert link.value(first) == 1
    assert container.wait_exit()["exit_code"] == 0
    assert link.recalled == [[second]]


def test_user_code_may_break_its_surroundings(worker):
    container = worker(
        """
        import os, signal, sys

        def vandal():
            os.closerange(0, 150)
            os.chdir("/")
            os.umask(0o777)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            os.environ.clear()
            sys.stdout = None
            return "still here"
        """
    ).fork(qualname="vandal")
    link = container.link
    assert link.call() == "still here"
    assert link.call() == "still here"


def test_user_code_may_even_close_the_link(worker):
    link = (
        worker(
            """
        import os

        def close():
            os.closerange(3, 1024)
            return "still here"
        """
        )
        .fork(qualname="close")
        .link
    )
    (token,) = link.run(arguments())
    assert link.value(token) == "still here"
    assert len(link.hellos) == 2
    assert link.hellos[1]["running"] == [[token, CALL, 0, 1]], "what has no result yet is named"


def test_current_input_is_known_and_the_environment_says_where(worker):
    container = worker(
        """
        import os
        from jitney.runner import state

        def where():
            return (state.is_local(), state.current_function_call_id(), state.current_input_id(),
                    os.environ["JITNEY_IS_REMOTE"], os.environ["JITNEY_TASK_ID"], os.environ["MINE"])
        """
    ).fork(qualname="where", env={"MINE": "1"})
    call = "fc-" + "0" * 22
    expected = (False, call, f"in-{'0' * 22}-7", "1", container.name, "1")
    link = container.link
    assert link.value(link.run(arguments(), first_index=7)[0]) == expected


def test_what_was_printed_arrives_also_without_a_newline(worker):
    container = worker(
        """
        import sys

        def talk():
            print("a line")
            print("a part", end="")
            print("an error", file=sys.stderr)
        """
    ).fork(qualname="talk")
    container.link.call()
    container.worker.wait(lambda: container.stdout == "a line\na part" and container.output[2] == b"an error\n")


def test_a_fork_that_comes_back_from_user_code_ends_quietly(worker):
    container = worker(
        """
        import os, sys

        def split(code):
            pid = os.fork()
            if pid == 0:
                if code: sys.exit(code)
                return "child"
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        """
    ).fork(qualname="split")
    link = container.link
    assert link.call(0) == 0
    assert link.call(5) == 5
    assert all(count == 1 for count in link.result_counts.values())


def test_large_values_go_by_shared_memory_and_durable_ones_by_files(worker, server, tmp_path):
    link = worker("def double(data): return data + data").fork(qualname="double").link
    data = os.urandom(300_000)
    assert link.call(data) == data + data
    assert next(iter(link.results.values())).payload[:1] == b"S"
    small = os.urandom(40_000)
    (token,) = link.run(arguments(small), durable=True, first_index=4)
    assert link.value(token) == small + small
    reference = link.results[token].payload
    assert payload.referenced_file(reference) == f"fc-{'0' * 22}.4.out"
    assert os.listdir(server.blobs) == [f"fc-{'0' * 22}.4.out"]


def test_many_large_results_take_several_frames(worker):
    link = worker("def f(x): return [bytes(200_000) for _ in x]").fork(qualname="f", batched=True).link
    tokens = link.run(*[arguments(n) for n in range(60)], batch=True)
    assert [link.value(token) for token in tokens] == [bytes(200_000)] * 60
    assert link.frames == 3


def test_a_rejected_container_ends(worker, server):
    server.reject = "who are you?"
    container = worker("def f(): pass").fork(qualname="f")
    assert container.wait_exit()["exit_code"] == 1
    assert b"who are you?" in container.output[2]


def test_a_damaged_frame_is_ignored(worker):
    link = worker("def f(x): return x").fork(qualname="f").link
    link.send(protocol.pack(protocol.RUN, b"\xff" * 10))
    link.send(protocol.pack(99, b"from a newer server"))
    assert link.call(1) == 1


def _wait_for_file(fake, path):
    """The file that user code makes when it has started."""
    fake.poll(path.exists)
