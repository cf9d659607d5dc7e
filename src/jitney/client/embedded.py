"""Starting the server of a folder in the background, for a client that finds none.

Two clients that find none at once start one: the starter holds `start.lock`, and the others find its server when they
get the lock.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitney.errors import ConnectionError, InvalidError
from jitney.wire.home import Home

COMMAND = ["-m", "jitney", "up", "--background"]
START_S_MAX = 20.0
POLL_S = 0.01
LOG_LINES = 12


def is_running(home: Home) -> bool:
    """Whether a server answers in this folder."""
    info = home.read_server_info()
    return info is not None and _answers(info.socket)


def ensure_running(home: Home) -> None:
    """Return when a server answers, having started one if need be. Blocks; for a thread.

    Raises:
        ConnectionError: it did not come up; with the last lines of its log.
        InvalidError: the folder cannot be made or written to.
    """
    if is_running(home):
        return
    try:
        home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(home.root / "start.lock"):
            if not is_running(home):
                _start(home)
    except OSError as error:
        raise InvalidError(
            f"the folder {home.root} cannot be used ({error.strerror or error})",
            hint="set JITNEY_HOME to a folder that you may write to, on a disk with room",
        ) from error


def _start(home: Home) -> None:
    from_byte = home.server_log.stat().st_size if home.server_log.exists() else 0
    environment = {**os.environ, "JITNEY_HOME": str(home.root)}
    # -P: the folder of the user's script must not shadow modules of the server.
    command = [sys.executable, "-P", *COMMAND]
    with home.server_log.open("ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment, cwd="/"
        )
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        code = server.poll()
        if is_running(home):
            _leave(server)
            return
        if code:
            raise _failed(
                home, from_byte, f"it ended with exit code {code}" if code > 0 else f"signal {-code} ended it"
            )
        time.sleep(POLL_S)
    _leave(server)  # it may only be slow: then the next client finds it
    raise _failed(home, from_byte, f"it did not answer within {START_S_MAX:.0f} s")


def _leave(server: subprocess.Popen[bytes]) -> None:
    """Have nobody wait for it: it outlives this process. (Popen would complain of that when it is collected.)"""
    server.returncode = 0


def _failed(home: Home, from_byte: int, why: str) -> ConnectionError:
    try:
        with home.server_log.open("rb") as log:
            log.seek(from_byte)
            text = log.read()[-16_384:].decode(errors="replace")
    except OSError:
        text = ""
    lines = "\n".join(f"    {line}" for line in text.strip().splitlines()[-LOG_LINES:])
    said = f", having written:\n{lines}" if lines else ", and wrote nothing"
    return ConnectionError(
        f"no Jitney server runs in {home.root}, and one could not be started: {why}{said}",
        hint=f"`jitney doctor` checks this machine; `jitney up` runs the server here; its log is {home.server_log}",
    )


def _answers(path: str) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
