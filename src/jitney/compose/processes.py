"""The processes of this machine: starting the server and the worker so that they outlive who started them.

Each is started in a session of its own with its output in a file: the Ctrl-C and the closing of a terminal do
not reach it. The module that runs is a light one: it puts the server on its socket before it imports what
only the HTTP side needs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jitney.compose import folder
from jitney.errors import ConnectionError
from jitney.wire.home import Home

LOG_BYTES_MAX = 8 * 1024 * 1024  # of server.log and worker.log; the older half goes to `.old`
POLL_S = 0.005
START_S_MAX = 30.0
# Set by the tools that watch this process (coverage, profilers, debuggers) and by the user; a server is none
# of it.
DROPPED = ("PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT")


def server_argv(home: Home, *, background: bool = True, flags: Sequence[str] = ()) -> list[str]:
    """The command that runs the server of a folder."""
    return [sys.executable, "-P", "-m", "jitney.compose.server", str(home.root),
            *(["--background"] if background else []), *flags]  # fmt: skip


def worker_argv(home: Home) -> list[str]:
    """The command that runs the worker of a folder."""
    return [sys.executable, "-P", "-m", "jitney.compose.worker", str(home.root)]


def start(argv: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in its own session, its output at the end of `log`, away from our folder and input."""
    rotate(log)
    environ = os.environ if environ is None else environ
    clean = {name: value for name, value in environ.items() if name not in DROPPED}
    with log.open("ab") as output:
        os.fchmod(output.fileno(), 0o600)
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**clean, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


def rotate(log: Path) -> None:
    """Move a log aside that has grown over its limit."""
    try:
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.old"))
    except FileNotFoundError:
        pass


def start_server(home: Home, flags: Sequence[str] = ()) -> int:
    """Start a server in the background and wait until it answers; its pid. One that runs already is as good.

    Raises:
        ConnectionError: it ended, or was not ready in time; with the last lines that it said.
    """
    folder.prepare(home)
    process = start(server_argv(home, flags=flags), home.server_log)
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        info = home.read_server_info()
        if info is not None and info.pid == running(home):
            return info.pid
        if process.poll() is not None and running(home) is None:
            raise ConnectionError(
                f"the server ended while it started (exit code {process.returncode})\n" + last_lines(home.server_log),
                hint=f"`jitney doctor` checks this machine; all that it said is in {home.server_log}",
            )
        time.sleep(POLL_S)
    raise ConnectionError(
        f"the server was not ready after {START_S_MAX:g} s\n{last_lines(home.server_log)}",
        hint=f"see {home.server_log}, and `jitney doctor`",
    )


def running(home: Home) -> int | None:
    """The pid of the server that has the folder; None when none runs."""
    return folder.server_lock(home).holder()


def wait_for_end(home: Home, timeout_ms: int, *, force: bool = False) -> bool:
    """Wait until no server has the folder; whether that came. `force`: kill it when the time is up."""
    if _wait(lambda: running(home) is None, timeout_ms):
        return True
    pid = running(home)
    if not force or not pid:
        return pid is None
    _signal(pid, signal.SIGKILL)
    return _wait(lambda: running(home) is None, timeout_ms)


def terminate(pid: int) -> None:
    """Ask a process to end by SIGTERM."""
    _signal(pid, signal.SIGTERM)


def _wait(condition: Callable[[], bool], timeout_ms: int) -> bool:
    deadline = time.monotonic() + timeout_ms / 1000
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log, for an error."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
