"""The one place at which a container can be written down: after the import, and before it is any particular one.

Here it holds no socket and no pipe of the worker's. It stops itself (SIGSTOP), is written down, and goes on (SIGCONT):
as itself, or as one of many that were made from what was written. None knows which it is, so all do the same: they
connect to the worker's door, hear RESUME, and take random numbers and an environment of their own.
"""

from __future__ import annotations

import os
import signal
import socket

from jitney.runner import process
from jitney.runner.boot import Control


def pause(control: Control, door: str) -> Control:
    """Let go of the worker, stop, and when that is over give the socket to whoever had us go on."""
    process.flush_output()
    control.sock.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    signal.raise_signal(signal.SIGSTOP)
    process.reseed()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(door)
    return Control(sock.detach())


def refresh(before: dict[str, str], now: dict[str, str]) -> None:
    """Make the environment, which was `before` the import, that of `now`; what the import has changed stays."""
    for name in {*before, *now}:
        if os.environ.get(name) != before.get(name):
            continue
        if name in now:
            os.environ[name] = now[name]
        else:
            del os.environ[name]
