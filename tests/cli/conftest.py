"""The command line as a person uses it: processes of its own, in a folder of its own."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from jitney.compose import folder, processes
from jitney.wire.home import Home


class Shell:
    """Runs `jitney` in one folder, with one server."""

    def __init__(self, place, home):
        self.place = place
        self.home = Home(home)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JITNEY_")}
        self.environment = {
            **kept,
            "JITNEY_HOME": str(home),
            "JITNEY_RUNTIME": "process",
            "JITNEY_HTTP_PORT": "0",
            "NO_COLOR": "1",
        }

    def write(self, name, text):
        """A file of the user's."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, *arguments, **environment):
        """A command that goes on while the test does."""
        return subprocess.Popen(
            [sys.executable, "-m", "jitney", *map(str, arguments)],
            cwd=self.place,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, code=0, timeout=50, **environment):
        """(stdout, stderr) of a command that ends with `code`."""
        with self.start(*arguments, **environment) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                log = self.home.server_log.read_text() if self.home.server_log.exists() else ""
                pytest.fail(f"{arguments} did not end\n{out}\n{err}\n{log}")
        assert process.returncode == code, f"{arguments}: {process.returncode}\n{out}\n{err}"
        return out, err

    def python(self, script):
        """What a script of the user's prints."""
        done = subprocess.run(
            [sys.executable, script], cwd=self.place, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self):
        """Leave nothing behind."""
        for lock in (folder.server_lock(self.home), folder.worker_lock(self.home)):
            pid = lock.holder()
            if pid and lock.path.name == "lock":
                processes.terminate(pid)
                processes.wait_for_end(self.home, timeout_ms=15_000, force=True)
            elif pid:
                os.kill(pid, signal.SIGTERM)
        folder.clear(self.home)


@pytest.fixture
def shell(tmp_path):
    """A folder with no server yet."""
    made = Shell(tmp_path / "project", tmp_path / "home")
    made.place.mkdir()
    yield made
    made.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder whose server serves the tests of a module."""
    made = Shell(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("homes") / "home")
    yield made
    made.end()
