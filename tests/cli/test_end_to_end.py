"""`jitney` as a person uses it, with the whole platform behind it."""

import json
import os
import signal

import pytest

from jitney.compose import folder, processes

pytestmark = pytest.mark.e2e

PROGRAM = """
    import enum
    import os
    import sys
    import jitney

    app = jitney.App("shapes")


    @app.function()
    def square(x: int) -> int:
        print("squaring", x)
        return x * x


    @app.function()
    def count(n: int):
        for i in range(n):
            yield i


    @app.function()
    def fail(x: int = 3):
        def deeper():
            raise ValueError(f"{x} is not allowed")
        deeper()


    @app.function()
    def noisy():
        print("\\x1b[2J\\x1b[31mred\\x1b[0m", flush=True)
        print("to stderr", file=sys.stderr, flush=True)


    @app.cls()
    class Scaler:
        factor: int = jitney.parameter(default=2)

        @jitney.method()
        def scale(self, x: int) -> int:
            return self.factor * x


    @app.local_entrypoint()
    def main(n: int = 4, label: str = "sum"):
        print(label, sum(square.map(range(n))))


    @app.local_entrypoint()
    def broken():
        fail.remote(5)
"""


@pytest.fixture(scope="module")
def project(shared):
    shared.write("shapes.py", PROGRAM)
    return shared


def test_an_entry_point_with_flags(project):
    out, err = project.run("run", "shapes.py::main", "--n", "10", "--label", "total")
    assert "total 285" in out.splitlines()
    assert "squaring 3" in out
    assert "10 inputs, 0 failed" in err


def test_a_function_with_flags(project):
    out, _ = project.run("run", "shapes.py::square", "--x", "12")
    assert "144" in out.splitlines()


def test_a_generator_prints_as_it_goes(project):
    out, _ = project.run("run", "-q", "shapes.py::count", "--n", "3")
    assert out.split() == ["0", "1", "2"]


def test_a_method_with_its_class(project):
    assert project.run("run", "-q", "shapes.py::Scaler.scale", "--x", "5")[0] == "10\n"
    assert project.run("run", "-q", "shapes.py::Scaler.scale", "--x", "5", "--factor", "7")[0] == "35\n"


def test_quiet_shows_results_only(project):
    out, err = project.run("run", "-q", "shapes.py::square", "--x", "3")
    assert (out, err) == ("9\n", "")


def test_the_result_in_a_file(project):
    project.run("run", "-q", "-w", "out.json", "shapes.py::square", "--x", "3")
    assert json.loads((project.place / "out.json").read_text()) == 9


def test_output_of_containers_is_safe_and_goes_where_it_was_written(project):
    out, err = project.run("run", "shapes.py::noisy")
    assert out == "\x1b[31mred\x1b[0m\n"
    assert "to stderr" in err.splitlines()


def test_help_lists_the_flags(project):
    out, _ = project.run("run", "shapes.py::main", "--help")
    assert "--n INTEGER" in out
    assert "[default: 4]" in out


def test_user_exceptions_have_both_tracebacks_and_none_of_our_frames(project):
    _, err = project.run("run", "shapes.py::broken", code=1)
    assert "in the container:" in err
    assert "in deeper" in err
    assert "fail.remote(5)" in err
    assert "ValueError: 5 is not allowed" in err
    assert "jitney/client" not in err
    assert "jitney/runner" not in err
    assert "jitney/cli" not in err


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (["shapes.py"], 2, "name one"),
        (["shapes.py::squre", "--x", "1"], 3, "did you mean 'square'"),
        (["shapes.py::square"], 2, "Missing option '--x'"),
        (["shapes.py::square", "--x", "y"], 2, "not a valid integer"),
        (["shaeps.py"], 3, "did you mean"),
    ],
)
def test_mistakes(project, arguments, code, text):
    _, err = project.run("run", *arguments, code=code)
    assert text in err
    assert "Traceback" not in err


def test_a_file_that_does_not_import(project):
    project.write("broken_file.py", "import jitney\nx = 1 / 0\n")
    _, err = project.run("run", "broken_file.py", code=1)
    assert "ZeroDivisionError" in err
    assert "importlib" not in err


def test_an_option_that_is_refused_says_where(project):
    project.write("refused.py", "import jitney\napp = jitney.App()\n@app.function(tiemout=3)\ndef f(): ...\n")
    _, err = project.run("run", "refused.py", code=2)
    assert "refused.py:3" in err
    assert "Traceback" not in err


def test_deploy_look_and_stop(project):
    out, _ = project.run("deploy", "shapes.py", "--tag", "one")
    assert "deployed shapes as version 1" in out
    project.write("caller.py", "import jitney\nprint(jitney.Function.from_name('shapes', 'square').remote(6))\n")
    assert "36" in project.python("caller.py").splitlines()
    apps = json.loads(project.run("app", "list", "--json")[0])
    assert [app["name"] for app in apps if app["state"] == "deployed"] == ["shapes"]
    history = json.loads(project.run("app", "history", "shapes", "--json")[0])
    assert history[0]["tag"] == "one"
    assert "squaring 6" in project.run("app", "logs", "shapes")[0]
    containers = json.loads(project.run("container", "list", "--app", "shapes", "--json")[0])
    assert containers[0]["function_name"] == "square"
    assert "squaring 6" in project.run("container", "logs", containers[0]["container_id"], "--tail", "1")[0]
    project.run("app", "stop", "shapes")
    project.run("app", "logs", "nothing-of-that-name", code=3)


def test_calls_are_listed_and_shown(project):
    project.write(
        "durable.py",
        """
        import jitney
        app = jitney.App("durable")

        @app.function()
        def double(x):
            return 2 * x

        @app.local_entrypoint()
        def main():
            call = double.spawn(4)
            print(call.object_id, call.get(timeout=30))
        """,
    )
    call_id, value = project.run("run", "-q", "durable.py")[0].split()
    assert value == "8"
    shown = json.loads(project.run("call", "show", call_id, "--json")[0])
    assert shown["call"]["succeeded"] == 1
    assert call_id in project.run("call", "list")[0]
    project.run("call", "show", "fc-0000000000000000000000", code=3)


def test_doctor_with_a_server(project):
    findings = {f["id"]: f for f in json.loads(project.run("doctor", "--json")[0])}
    assert findings["server"]["what"].startswith("runs as pid")
    assert findings["store"]["severity"] == "ok"
    assert findings["http"]["what"].startswith("http://127.0.0.1:")


def test_ctrl_c_stops_the_run_and_says_so(project):
    project.write(
        "slow.py",
        """
        import time
        import jitney
        app = jitney.App("slow")

        @app.function()
        def wait():
            print("waiting", flush=True)
            time.sleep(600)
        """,
    )
    with project.start("run", "slow.py") as process:
        while "waiting" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping the run; Ctrl-C again leaves at once" in err
    assert "Traceback" not in err
    running = json.loads(project.run("app", "list", "--json")[0])
    assert not [app for app in running if app["name"] == "slow"]


def test_up_and_down(shell):
    out, _ = shell.run("up", "--background")
    pid = folder.server_lock(shell.home).holder()
    assert f"pid {pid}" in out
    assert "runs already" in shell.run("up", "--background")[0]
    _, err = shell.run("up", code=4)
    assert str(shell.home.root) in err
    assert str(pid) in err
    assert "has ended" in shell.run("down")[0]
    assert folder.server_lock(shell.home).holder() is None
    assert folder.worker_lock(shell.home).holder() is None
    assert shell.home.read_server_info() is None


def test_a_foreground_server_says_when_it_is_ready_and_ends_on_ctrl_c(shell):
    with shell.start("up") as process:
        lines = []
        while not any("is ready" in line for line in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert folder.worker_lock(shell.home).holder() is None


def test_a_killed_server_leaves_the_worker_to_the_next_one(shell):
    shell.write("shapes.py", PROGRAM)
    shell.run("up", "--background")
    shell.run("run", "-q", "shapes.py::square", "--x", "3")
    server, worker = folder.server_lock(shell.home).holder(), folder.worker_lock(shell.home).holder()
    os.kill(server, signal.SIGKILL)
    assert processes.wait_for_end(shell.home, timeout_ms=5_000)
    assert folder.worker_lock(shell.home).holder() == worker
    assert shell.run("run", "-q", "shapes.py::square", "--x", "4")[0] == "16\n"
    assert folder.worker_lock(shell.home).holder() == worker
    shell.run("down")


def test_a_server_without_work_stops_by_itself(shell):
    shell.write("shapes.py", PROGRAM)
    shell.run("run", "-q", "shapes.py::square", "--x", "3", JITNEY_IDLE_STOP_MS="300")
    assert processes.wait_for_end(shell.home, timeout_ms=30_000)


def test_a_module_of_a_package(project):
    project.write("pack/__init__.py", "")
    project.write("pack/sums.py", "def total(values):\n    return sum(values)\n")
    project.write(
        "pack/jobs.py",
        """
        import jitney
        from pack.sums import total
        app = jitney.App("jobs")

        @app.function()
        def add(a: int, b: int) -> int:
            return total([a, b])
        """,
    )
    assert project.run("run", "-q", "-m", "pack.jobs", "--a", "2", "--b", "3")[0] == "5\n"
    assert project.run("run", "-q", "pack/jobs.py", "--a", "2", "--b", "3")[0] == "5\n"


def test_detached_the_call_is_durable_and_its_id_is_told(project):
    out, err = project.run("run", "-d", "shapes.py::square", "--x", "6")
    assert "36" in out.splitlines()
    call_id = next(word.rstrip(":") for word in err.split() if word.startswith("fc-"))
    assert json.loads(project.run("call", "show", call_id, "--json")[0])["call"]["kind"] == "spawn"


def test_a_terminal_gets_a_live_display_that_leaves_nothing_behind(project):
    import pty
    import subprocess
    import sys

    project.write(
        "mapped.py",
        """
        import time
        import jitney
        app = jitney.App("mapped")

        @app.function(max_containers=2)
        def work(x):
            time.sleep(0.1)
            return x

        @app.local_entrypoint()
        def main():
            print("sum", sum(work.map(range(20))))
        """,
    )
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "jitney", "run", "mapped.py"],
        cwd=project.place,
        env={**project.environment, "TERM": "xterm", "COLUMNS": "100"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:
            pass  # how a terminal says that nobody writes to it any more
        os.close(master)
    text = shown.decode()
    assert process.returncode == 0
    assert "sum 190" in text
    assert "/20" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0
    assert "20 inputs, 0 failed" in text


def test_a_restart_keeps_warm_containers(shell):
    shell.write(
        "warm.py",
        """
        import os
        import jitney
        app = jitney.App("warm")

        @app.function(min_containers=1)
        def pid():
            return os.getpid()

        if __name__ == "__main__":
            print(jitney.Function.from_name("warm", "pid").remote())
        """,
    )
    shell.run("up", "--background")
    shell.run("deploy", "warm.py")
    before = shell.python("warm.py")
    shell.run("down", "--keep-containers")
    shell.run("up", "--background")
    assert shell.python("warm.py") == before
    shell.run("down")
    assert folder.worker_lock(shell.home).holder() is None
