"""`jitney shell` and `jitney container exec` at a real terminal: a pseudo terminal is what the user sits at."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from tests.cli.conftest import Shell
from tests.e2e.platforms import cmdline, eventually

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.process.exec import TTY_BOOTSTRAP

pytestmark = pytest.mark.e2e

WAIT_S = 30
PROGRAM = """
    import time
    import jitney

    app = jitney.App("rooms")


    @app.function(env={"COLOUR": "red"}, cpu=0.5)
    def rest(s: float = 600):
        time.sleep(s)
"""


class Terminal:
    """A terminal with a command in it, which has it as its controlling one."""

    def __init__(self, shell, *arguments, rows=24, cols=80):
        self.master, self.slave = pty.openpty()
        self.resize(rows, cols)
        self.seen = b""
        self.before = termios.tcgetattr(self.slave)
        python = sys.executable
        self.process = subprocess.Popen(
            [python, "-I", "-S", "-c", TTY_BOOTSTRAP, "1", python, python, "-m", "jitney", *map(str, arguments)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=shell.place,
            env={**shell.environment, "TERM": "dumb"},
            start_new_session=True,
        )

    def resize(self, rows, cols):
        """The window gets another size; the kernel tells whoever is in it."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, text):
        """Wait until this has been shown, after what was waited for before; gives what came before it."""
        wanted, deadline = text.encode(), time.monotonic() + WAIT_S
        while wanted not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            if not ready:
                pytest.fail(f"{text!r} was never shown: {self.seen.decode(errors='replace')}")
            self.seen += os.read(self.master, 65_536)
        shown, _, self.seen = self.seen.partition(wanted)
        return shown.decode(errors="replace")

    def end(self, code):
        """Wait for the end of the command."""
        try:
            assert self.process.wait(WAIT_S) == code
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end: {self.rest()}")

    def rest(self):
        """What is left to see."""
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65_536)
        return self.seen.decode(errors="replace")

    @property
    def is_as_before(self):
        """Whether the terminal is as the command found it."""
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture(scope="module", params=["process", "auto"])
def project(request, tmp_path_factory):
    """A server of its own for each runtime: containers without a wall, and what is the best here."""
    made = Shell(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("homes") / "home")
    made.environment["JITNEY_RUNTIME"] = request.param
    made.write("rooms.py", PROGRAM)
    yield made
    made.end()


@pytest.fixture
def at_terminal(project):
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options):
            terminal = Terminal(project, *arguments, **options)
            stack.callback(terminal.close)
            return terminal

        yield start


@pytest.fixture
def container(project):
    """The id of a container that works on something."""
    with project.start("run", "-q", "rooms.py::rest") as running:
        yield eventually(lambda: next((c["container_id"] for c in living(project) if c["phase"] == "ready"), None))
        running.send_signal(signal.SIGINT)
        running.communicate()
    eventually(lambda: not living(project))


def living(project):
    return json.loads(project.run("container", "list", "--json")[0])


def runs(word):
    """Whether a process has this in its command line, and is no client of ours."""
    found = [cmdline(pid) for pid in procfs.pids()]
    return any(word.encode() in one and b"jitney" not in one for one in found)


# ---------------------------------------------------------------------------------------------- shell


def test_a_shell_is_a_terminal_of_the_size_of_ours(project, at_terminal):
    terminal = at_terminal("shell", "rooms.py::rest", "--cmd", "sh", rows=31, cols=97)
    terminal.type("echo begin-$((40+2)) $COLOUR\n")
    terminal.until("begin-42 red")
    terminal.type("stty size; tty; ps -o tty= -p $$\n")
    terminal.until("31 97")
    terminal.until("/dev/pts/")
    terminal.resize(50, 132)
    eventually(lambda: shows_size(terminal, "50 132"))
    terminal.type("exit 4\n")
    terminal.end(4)
    assert terminal.is_as_before
    eventually(lambda: not living(project))


def shows_size(terminal, size):
    terminal.type("stty size; echo done-$((1+1))\n")
    return size in terminal.until("done-2")


def test_ctrl_c_goes_inside(at_terminal):
    terminal = at_terminal("shell", "rooms.py::rest", "--cmd", "env 'PS1=next> ' sh")
    terminal.until("next> ")
    terminal.type("sleep 51234\n")
    eventually(lambda: runs("sleep\x0051234"))
    assert not terminal.is_as_before
    terminal.type("\x03")
    eventually(lambda: not runs("sleep\x0051234"))
    terminal.until("^C")
    terminal.until("next> ")  # a shell drops what is typed while it is interrupted
    terminal.type("echo after-$?\n")
    terminal.until("after-130")
    terminal.type("\x04")
    terminal.end(0)
    assert terminal.is_as_before


def test_full_screen_keys_arrive_as_they_are(at_terminal):
    show = "import sys, tty; tty.setraw(0); print('go', end='\\r\\n', flush=True); print(sys.stdin.buffer.raw.read(3))"
    terminal = at_terminal("shell", "--cmd", f'python3 -c "{show}"')
    terminal.until("go")
    terminal.type("\x1b[A")
    terminal.until("b'\\x1b[A'")
    terminal.end(0)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_whatever_ends_the_client_gives_the_terminal_back_and_ends_the_container(project, at_terminal, number, code):
    terminal = at_terminal("shell", "rooms.py::rest", "--cmd", "sh")
    terminal.type("echo ready-$((1+1)); sleep 61234\n")
    terminal.until("ready-2")
    eventually(lambda: runs("sleep\x0061234"))
    assert not terminal.is_as_before
    terminal.process.send_signal(number)
    terminal.end(code)
    eventually(lambda: terminal.is_as_before)
    eventually(lambda: not runs("sleep\x0061234"))
    eventually(lambda: not living(project))


def test_a_shell_that_loses_its_container_says_so(project, at_terminal):
    terminal = at_terminal("shell", "rooms.py::rest", "--cmd", "sh")
    terminal.type("echo ready-$((1+1))\n")
    terminal.until("ready-2")
    [one] = living(project)
    project.run("container", "stop", one["container_id"])
    terminal.end(137)
    assert f"container {one['container_id']} has ended" in terminal.rest()
    assert terminal.is_as_before


def test_a_shell_without_a_terminal_is_a_pipe(project):
    out, _ = project.run("shell", "rooms.py::rest", "--cmd", "sh -c 'echo $COLOUR; test -t 0 || echo no terminal'")
    assert out == "red\nno terminal\n"
    _, err = project.run("shell", "rooms.py::rest", "--cmd", "no-such-command", code=127)
    assert "no-such-command" in err


def test_the_function_can_be_imported_in_its_shell(project):
    look = "import rooms, sys; print(rooms.app.name, 'sitecustomize' in sys.modules)"
    out, _ = project.run("shell", "rooms.py::rest", "--cmd", f'python -c "{look}"')
    assert out == "rooms True\n"


def test_no_code_of_the_function_runs_in_its_shell(project):
    project.write("loud.py", PROGRAM + '\n    print("imported in", __import__("os").getpid())\n')
    out, _ = project.run("shell", "loud.py::rest", "--cmd", "echo only this")
    assert out.splitlines()[-1] == "only this"
    assert out.count("imported in") == 1  # here, to find the function


def test_what_cannot_have_a_shell_says_why(project):
    project.write("two.py", PROGRAM + "\n\n    @app.function()\n    def other(): ...\n")
    assert "name one: `jitney shell two.py::other`" in project.run("shell", "two.py", code=2)[1]
    assert "did you mean 'rest'?" in project.run("shell", "rooms.py::rset", code=3)[1]
    assert "no file nowhere.py" in project.run("shell", "nowhere.py", code=3)[1]
    assert "not closed" in project.run("shell", "--cmd", "echo 'x", code=2)[1].replace("No closing", "not closed")
    assert "are asked for" in project.run("shell", "--memory", "900000000", code=5)[1]


# ---------------------------------------------------------------------------------------------- exec


def test_a_command_in_a_container_and_its_exit_code(project, container):
    out, err = project.run("container", "exec", container, "sh", "-c", "echo $COLOUR; echo no >&2; exit 9", code=9)
    assert (out, err) == ("red\n", "no\n")
    out, _ = project.run(
        "container", "exec", "-e", "COLOUR=blue", "-w", "/", container, "sh", "-c", "echo $COLOUR $PWD"
    )
    assert out == "blue /\n"
    _, err = project.run("container", "exec", container, "no-such-command", code=127)
    assert err.startswith("error: ")
    assert "no-such-command" in err
    project.run("container", "exec", container, "/etc/passwd", code=126)
    project.run("container", "exec", container, "sh", "-c", "kill -TERM $$", code=143)
    near = container[:-1] + ("a" if container[-1] != "a" else "b")
    assert f"did you mean '{container}'?" in project.run("container", "exec", near, "true", code=3)[1]
    assert "NAME=VALUE" in project.run("container", "exec", "-e", "=", container, "true", code=2)[1]
    assert "needs a terminal" in project.run("container", "exec", "-it", container, "sh", code=2)[1]


def test_input_and_output_of_any_size_go_through_as_they_are(project, container):
    data = os.urandom(3_000_000)
    done = subprocess.run(
        [sys.executable, "-m", "jitney", "container", "exec", "-i", container, "cat"],
        input=data,
        capture_output=True,
        env=project.environment,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_a_reader_that_has_enough_ends_the_command(project, container):
    with subprocess.Popen(
        [sys.executable, "-m", "jitney", "container", "exec", container, "sh", "-c", "exec yes 71234"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=project.environment,
    ) as client:
        assert client.stdout.readline() == b"71234\n"
        client.stdout.close()
        assert client.wait(WAIT_S) == 128 + signal.SIGPIPE
    eventually(lambda: not runs("yes\x0071234"))


def test_ctrl_c_without_a_terminal_inside_is_a_signal_and_the_second_ends_it(project, container):
    trap = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with project.start("container", "exec", container, "sh", "-c", trap) as client:
        assert client.stdout.readline() == "ready\n"
        client.send_signal(signal.SIGINT)
        out, _ = client.communicate(timeout=WAIT_S)
        assert (out, client.returncode) == ("caught\n", 5)
    stubborn = "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done"
    with project.start("container", "exec", container, "sh", "-c", stubborn, "word-81234") as client:
        assert client.stdout.readline() == "ready\n"
        client.send_signal(signal.SIGINT)
        assert client.stdout.readline() == "caught\n"
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=WAIT_S)
        assert client.returncode == 130
    eventually(lambda: not runs("word-81234"))


def test_a_killed_client_ends_the_command_and_not_the_container(project, container, at_terminal):
    terminal = at_terminal("container", "exec", "-it", container, "sh")
    seconds = 90_000_000 + os.getpid()  # another run of these tests may be looking too
    terminal.type(f"echo ready-$((1+1)); sleep {seconds}\n")
    terminal.until("ready-2")
    eventually(lambda: runs(f"sleep\0{seconds}"))
    terminal.process.kill()
    terminal.process.wait()
    eventually(lambda: not runs(f"sleep\0{seconds}"), timeout=40)
    assert [one["container_id"] for one in living(project)] == [container]


# ---------------------------------------------------------------------------------------------- stats


def test_stats_of_a_container(project, container):
    [row] = json.loads(project.run("container", "stats", "--json")[0])
    assert row["container"]["container_id"] == container
    assert row["measured"]["usage"]["processes"] >= 1
    assert row["measured"]["usage"]["memory_kib"] > 1_000
    table = project.run("container", "stats", container)[0].splitlines()
    assert table[0].split()[:3] == ["ID", "FUNCTION", "CPU"]
    assert table[1].split()[:2] == [container, "rest"]
    assert "no container" in project.run("container", "stats", "ta-none", code=3)[1]


def test_watching_goes_on_until_ctrl_c(project, container):
    with project.start("container", "stats", "--watch", "--json") as client:
        looks = [json.loads(client.stdout.readline()) for _ in range(2)]
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=WAIT_S)
    assert [look[0]["container"]["container_id"] for look in looks] == [container] * 2
    assert looks[1][0]["cpu_percent"] is not None
    assert client.returncode == 0


def test_no_containers_is_said_so(project):
    eventually(lambda: not living(project))
    assert project.run("container", "stats")[0] == "no containers\n"
