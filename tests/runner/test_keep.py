"""The keeper and its sitters, as plain processes: no wall is needed to hear what they say."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from jitney.runner import template_protocol as protocol
from jitney.runner.keep import looks
from jitney.runner.keep.spawned import NotStarted, spawn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
WAIT_S = 10
KEEPER = """
import sys
from jitney.runner import process
from jitney.runner.keep import keeper
process.prepare_prctl()
process.adopt_orphans()  # as process 1 does
keeper.SCRATCH = sys.argv[2]
keeper.main()
"""
ENV = {"PATH": os.environ.get("PATH", os.defpath)}
FOREVER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
# Leaves one behind in a session of its own, tells its number, and goes on or ends.
LEAVES = """
import subprocess, sys, time
left = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
print(left.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


class Peer:
    """The other end of a socket that frames come from."""

    def __init__(self, sock):
        self.sock = sock
        self._splitter = protocol.Splitter()
        self._heard = []

    def say(self, kind, given=(), **fields):
        protocol.send_frame(self.sock, protocol.pack({"kind": kind, **fields}), given)

    def hear(self, kind):
        """The next message of a kind; others are kept."""
        while True:
            for number, message in enumerate(self._heard):
                if message["kind"] == kind:
                    return self._heard.pop(number)
            assert select.select([self.sock], [], [], WAIT_S)[0], f"no {kind}, but {self._heard}"
            data = self.sock.recv(65536)
            assert data, f"the end, and no {kind}, but {self._heard}"
            self._heard += self._splitter.feed(data)

    def ends(self):
        """Whether the other side hangs up."""
        while select.select([self.sock], [], [], WAIT_S)[0]:
            if not self.sock.recv(65536):
                return True
        return False


class Kept(Peer):
    """A keeper that runs."""

    def __init__(self, folder):
        self._opened = ExitStack()
        (folder / "scratch").mkdir()
        path = str(folder / "k")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            self.process = subprocess.Popen([sys.executable, "-c", KEEPER, path, str(folder / "scratch")])
            server.settimeout(WAIT_S)
            super().__init__(self._opened.enter_context(server.accept()[0]))

    def start(self, argv, name="p", **fields):
        """The pid of a process, and what it prints."""
        read, write = os.pipe()
        self.say(
            "start", [0, write, write], process=name, argv=argv, env=ENV, cwd="/", descriptors=3, joins=0, **fields
        )
        os.close(write)
        output = self._opened.enter_context(os.fdopen(read))
        started = self.hear("started")
        if started["pid"]:
            self._opened.callback(kill, started["pid"])
        return started, output

    def command(self, argv, container="ta-1", tty=None, cwd="/"):
        """A sitter, what it prints, and where it reads."""
        mine, its = socket.socketpair()
        fed, feed = os.pipe()
        shown, show = os.pipe()
        given = [its.fileno(), fed, show] if tty else [its.fileno(), fed, show, show]
        self.say(
            "command", given, container=container, argv=argv, env=ENV, cwd=cwd, tty=tty, rlimits={},
            descriptors=len(given), joins=0,
        )  # fmt: skip
        its.close()
        os.close(fed)
        os.close(show)
        self._opened.callback(os.close, feed)
        return Peer(self._opened.enter_context(mine)), self._opened.enter_context(os.fdopen(shown)), feed

    def close(self):
        try:
            self.say("end")
        except OSError:
            pass  # it has ended
        self._opened.close()
        self.process.wait(WAIT_S)


@pytest.fixture
def kept(tmp_path):
    made = Kept(tmp_path)
    yield made
    made.close()


def kill(pid):
    """A process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def is_gone(pid):
    """Wait for the end of a process that is no child of ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], WAIT_S)[0])
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------ programs


@pytest.mark.parametrize("program, code", [("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)])
def test_a_program_that_cannot_run_has_the_code_of_a_shell(program, code):
    with pytest.raises(NotStarted) as failed:
        spawn({"argv": [program], "env": ENV, "cwd": "/"}, [0, 1, 2])
    assert failed.value.code == code
    assert program in str(failed.value)


def test_a_folder_that_cannot_be_entered_is_named():
    with pytest.raises(NotStarted, match="no-such-folder"):
        spawn({"argv": ["true"], "env": ENV, "cwd": "/no-such-folder"}, [0, 1, 2])


def test_a_process_is_started_and_its_end_is_told(kept):
    started, output = kept.start(["sh", "-c", "echo $0; exit 3", "{fd}"])
    assert output.read() == "3\n"
    ended = kept.hear("ended")
    assert (ended["process"], ended["pid"]) == ("p", started["pid"])
    assert os.waitstatus_to_exitcode(ended["status"]) == 3


def test_a_process_that_cannot_be_started_says_why(kept):
    started, _ = kept.start(["no-such-program"])
    assert (started["pid"], "no-such-program" in started["message"]) == (0, True)


def test_a_signal_and_a_kill_reach_a_process(kept):
    started, _ = kept.start(FOREVER)
    kept.say("signal", pid=started["pid"], signum=signal.SIGTERM)
    assert os.WTERMSIG(kept.hear("ended")["status"]) == signal.SIGTERM
    started, output = kept.start([sys.executable, "-c", LEAVES, "600"])
    left = int(output.readline())
    kept.say("kill", pid=started["pid"])
    assert os.WTERMSIG(kept.hear("ended")["status"]) == signal.SIGKILL
    assert is_gone(left)


# ------------------------------------------------------------------------------------------------ containers


def test_a_container_gets_a_folder_and_loses_it(kept, tmp_path):
    folder = tmp_path / "scratch/ta-1"
    kept.say("prepare", container="ta-1", folders=[str(folder / "a/b")], cwd=str(folder / "a/b"))
    assert kept.hear("prepared")["message"] == ""
    (folder / "a/b/file").write_text("x")
    kept.say("clean", container="ta-1", pid=0, spared=[], seen=0)
    kept.hear("cleaned")
    assert not folder.exists()


def test_a_folder_that_is_taken_or_missing_is_a_reason(kept, tmp_path):
    (tmp_path / "scratch/ta-1").write_text("")
    kept.say("prepare", container="ta-1", folders=[], cwd="/")
    assert "cannot be made" in kept.hear("prepared")["message"]
    kept.say("prepare", container="ta-2", folders=[], cwd="/no-such-folder")
    assert "/no-such-folder" in kept.hear("prepared")["message"]


def test_what_comes_from_a_dead_template_is_swept_but_not_its_containers(kept):
    started, output = kept.start([sys.executable, "-c", LEAVES, "0"])
    stray = int(output.readline())
    assert kept.hear("ended")["pid"] == started["pid"]
    _, output = kept.start([sys.executable, "-c", LEAVES, "0"], name="q")
    container = int(output.readline())
    assert kept.hear("ended")["process"] == "q"
    kept.say("clean", container="ta-1", pid=0, spared=[container], seen=1)  # one end has not been heard of yet
    kept.hear("cleaned")
    assert looks.is_alive(stray)
    kept.say("clean", container="ta-1", pid=0, spared=[container], seen=2)
    kept.hear("cleaned")
    ended = kept.hear("ended")
    assert (ended["process"], ended["pid"]) == ("", stray)
    assert looks.is_alive(container)
    kill(container)


def test_memory_is_looked_at_and_ends_what_has_too_much(kept):
    eats = "import sys; x = b'x' * 200_000_000; sys.stdin.read(); import time; time.sleep(600)"
    started, _ = kept.start([sys.executable, "-S", "-c", eats])
    kept.say("watch", pid=started["pid"], limit_kib=100_000)
    over = kept.hear("over")
    assert over["kib"] > 100_000
    assert os.WTERMSIG(kept.hear("ended")["status"]) == signal.SIGKILL


def test_what_is_used_is_told_and_can_be_asked_for(kept):
    started, _ = kept.start(FOREVER)
    kept.say("watch", pid=started["pid"], limit_kib=0)
    usage = kept.hear("usage")
    assert (usage["pid"], usage["processes"]) == (started["pid"], 1)
    kept.say("look", pid=started["pid"])
    assert kept.hear("look")["kib"] > 1_000


def test_without_the_worker_all_of_it_ends(kept):
    kept.start(["true"])
    kept.hear("ended")
    kept.sock.shutdown(socket.SHUT_WR)
    assert kept.process.wait(WAIT_S) == 0


def test_told_to_end_it_does_not_wait(kept):
    kept.start(FOREVER)
    kept.say("end")
    assert kept.ends()


# ------------------------------------------------------------------------------------------------ commands


def test_a_command_reads_prints_and_ends(kept):
    sitter, output, feed = kept.command(["sh", "-c", "read x; echo got $x; exit 4"])
    sitter.hear("started")
    os.write(feed, b"it\n")
    assert sitter.hear("ended")["code"] == 4
    assert output.read() == "got it\n"
    assert sitter.ends()


def test_a_command_that_is_not_there_says_so(kept):
    sitter, _, _ = kept.command(["no-such-command"])
    failed = sitter.hear("failed")
    assert (failed["code"], "no-such-command" in failed["message"]) == (127, True)


def test_a_terminal_is_carried_over_pipes(kept):
    shows = "stty size; read x; echo got $x; test -t 0 && test -t 1 && echo a terminal"
    sitter, output, feed = kept.command(["sh", "-c", shows], tty=[31, 97])
    sitter.hear("started")
    assert output.readline().strip() == "31 97"
    os.write(feed, b"it\n")
    assert sitter.hear("ended")["code"] == 0
    assert output.read().split() == ["it", "got", "it", "a", "terminal"]


def test_a_terminal_that_nobody_reads_makes_its_command_wait_and_loses_nothing(kept):
    sitter, output, _ = kept.command([sys.executable, "-c", "print('x' * 500_000)"], tty=[24, 80])
    sitter.hear("started")
    assert len(output.read().strip()) == 500_000
    assert sitter.hear("ended")["code"] == 0


@pytest.mark.parametrize("how", ["kill", "hang up", "clean"])
def test_a_command_ends_with_all_that_it_has_started(kept, how):
    sitter, output, _ = kept.command([sys.executable, "-c", LEAVES, "600"])
    pid = sitter.hear("started")["pid"]
    left = int(output.readline())
    if how == "kill":
        sitter.say("kill")
        assert sitter.hear("ended")["code"] == 137
    elif how == "hang up":
        sitter.sock.close()
    else:
        kept.say("clean", container="ta-1", pid=0, spared=[], seen=0)
        kept.hear("cleaned")
        assert sitter.ends()
    assert is_gone(pid)
    assert is_gone(left)


def test_what_a_command_leaves_goes_on_until_its_container_ends(kept):
    sitter, output, _ = kept.command([sys.executable, "-c", LEAVES, "0"])
    sitter.hear("started")
    left = int(output.readline())
    assert sitter.hear("ended")["code"] == 0
    kept.say("clean", container="ta-2", pid=0, spared=[], seen=0)
    kept.hear("cleaned")
    assert looks.is_alive(left)
    kept.say("clean", container="ta-1", pid=0, spared=[], seen=0)
    kept.hear("cleaned")
    assert is_gone(left)
