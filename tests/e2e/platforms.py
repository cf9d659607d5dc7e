"""A whole platform in a folder of its own, used the way a user does: by scripts and by the command line."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from jitney.compose import folder
from jitney.drivers.runtime.forking import procfs
from jitney.runner.template_protocol import GRACE_S
from jitney.wire.home import Home

PROGRAMS = Path(__file__).parent / "programs"
POLL_S = 0.02
COMMAND_S = 40
END_S = GRACE_S + 10


def eventually(probe, timeout=15.0, why=""):
    """The first true value of `probe()`; fails when there is none in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {why or 'what was waited for'}; last: {value!r}")
        time.sleep(POLL_S)  # sleep: real processes give us no event to wait for


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()

    def json(self):
        return json.loads(self.out)


class Platform:
    """One JITNEY_HOME, a folder for the user's files, and ways to use and to look at what runs there."""

    def __init__(self, root, home=None):
        self.place = root / "project"
        self.place.mkdir(parents=True, exist_ok=True)
        self.home = Home(home or root / "home")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JITNEY_")}
        self.environment = {
            **kept,
            "JITNEY_HOME": str(self.home.root),
            "JITNEY_HTTP_PORT": "0",
            "JITNEY_RUNTIME": "process",  # programs leave word of what they did in files beside them
            "NO_COLOR": "1",
        }
        self._open = []

    # ------------------------------------------------------------------ the user's files and commands

    def write(self, name, text):
        """A file of the user's."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def bring(self, program):
        """A file of `programs/`, among the user's."""
        return Path(shutil.copy(PROGRAMS / program, self.place))

    def start(self, *command, **environment):
        """A command that goes on while the test does, in a session of its own."""
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=self.place,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._open.append(process)
        return process

    def finish(self, process, code=0, timeout=COMMAND_S):
        """Wait for the end of a started command."""
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"{process.args} did not end in {timeout} s\n{out}\n{err}\n{self.log()}")
        assert code is None or process.returncode == code, (
            f"{process.args} ended with {process.returncode}, not {code}\n{out}\n{err}\n{self.log()}"
        )
        return Done(process.returncode, out, err)

    def python(self, script, *arguments, code=0, timeout=COMMAND_S, **environment):
        """Run a script of the user's to its end."""
        return self.finish(self.start(sys.executable, script, *arguments, **environment), code, timeout)

    def jitney(self, *arguments, code=0, timeout=COMMAND_S, **environment):
        """Run a command line to its end."""
        return self.finish(self.start_jitney(*arguments, **environment), code, timeout)

    def start_jitney(self, *arguments, **environment):
        """A command line that goes on while the test does."""
        return self.start(sys.executable, "-m", "jitney", *arguments, **environment)

    # ------------------------------------------------------------------ what runs

    def server(self):
        """The pid of the server, or None."""
        return folder.server_lock(self.home).holder()

    def worker(self):
        """The pid of the worker, or None."""
        return folder.worker_lock(self.home).holder()

    def templates(self):
        """Pids of the processes that containers are forked from."""
        worker = self.worker()
        return [pid for pid in procfs.children(worker) if b"jitney.runner" in cmdline(pid)] if worker else []

    def containers(self, function="", **options):
        """The living containers, as `jitney container list` has them."""
        flags = [f"--{name}" for name, given in options.items() if given]
        listed = self.jitney("container", "list", "--json", *flags).json()
        return [one for one in listed if not function or one["function_name"] == function]

    def calls(self):
        """The calls, as `jitney call list` has them."""
        return self.jitney("call", "list", "--json").json()

    def processes(self):
        """All processes that name this home in their environment or command line: (pid, command)."""
        needle = os.fsencode(self.home.root)
        found = []
        for pid in procfs.pids():
            if pid == os.getpid() or any(pid == one.pid for one in self._open):
                continue
            stat = procfs.stat(pid)
            if stat is None or stat.state in ("Z", "X"):
                continue
            command = cmdline(pid)
            if needle in command or needle in environ(pid):
                found.append((pid, command.replace(b"\0", b" ").decode(errors="replace")))
        return found

    def log(self, lines=40):
        """The end of the server's and the worker's logs, for the message of a failed assertion."""
        parts = []
        for path in (self.home.server_log, self.home.worker_log):
            text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
            parts.append("\n".join([f"--- {path.name}", *text]))
        return "\n".join(parts)

    def kill_server(self):
        """SIGKILL, and wait until it is gone; gives its pid."""
        pid = self.server()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.server() != pid, why="the server dies")
        return pid

    # ------------------------------------------------------------------ the end

    def leftovers(self):
        """What there should be nothing of when the server has ended."""
        left = [f"process {pid}: {command}" for pid, command in self.processes()]
        if self.home.containers.exists():
            left += [str(path) for path in self.home.containers.iterdir() if not path.name.startswith((".", "running"))]
        left += [str(path) for name in ("link.sock", "runner.sock") if (path := self.home.socket(name)).exists()]
        left += [str(path) for path in self.home.segments.glob("*/*")]
        return left

    def end(self):
        """As a user ends it; then nothing may be left."""
        for process in self._open:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self._open.clear()
        if self.server() is not None:
            self.jitney("down")
        elif (worker := self.worker()) is not None:  # its server was killed
            os.kill(worker, signal.SIGTERM)
            eventually(lambda: self.worker() is None, END_S, "the worker ends")
        try:
            eventually(lambda: not self.leftovers(), 3.0)
        except pytest.fail.Exception:
            pytest.fail("\n".join(["left behind:", *self.leftovers(), self.log()]))

    def clean(self):
        """Whatever the test did: no process outlives it."""
        for pid, _ in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.home.segments, ignore_errors=True)
        shutil.rmtree(
            self.home.sockets.parent, ignore_errors=True
        )  # it may be elsewhere, where the home's path is long


def cmdline(pid):
    """The command line of a process; b'' when it is gone."""
    return _read(f"/proc/{pid}/cmdline")


def environ(pid):
    """The environment that a process was started with; b'' when it is gone."""
    return _read(f"/proc/{pid}/environ")


def _read(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def load(path):
    """Import a file as a user's program does that it was imported by."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
