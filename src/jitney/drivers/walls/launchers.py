"""Launchers, of which one waits: half of the time that a wall takes is the start of the Python that makes it.

A launcher (runner.wall.launch) is started with a socket, and does nothing until the worker says which wall to make. So
one can be started ahead of need, for any wall; when it is taken, the next one is started a little later, out of the way
of the wall that is being made. It ends by itself when the worker's end of its socket closes.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Mapping, Sequence

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.leftovers import OOM_SCORE_ADJ

REFILL_S = 1.0


class Launcher:
    """One that waits for its wall. Whoever takes it closes `control`, and collects `process`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [*argv, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    env=dict(env),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                self.control.close()
                raise
        procfs.set_oom_score_adj(self.process.pid, OOM_SCORE_ADJ)
        self.control.setblocking(False)

    def end(self) -> None:
        """It is not needed."""
        self.control.close()
        self.process.kill()
        self.process.wait()


class Launchers:
    """See the module. All have the same program and environment."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._argv = argv
        self._env = env
        self._waiting: Launcher | None = None
        self._refill: asyncio.TimerHandle | None = None

    def pids(self) -> set[int]:
        """Of the one that waits."""
        return {self._waiting.process.pid} if self._waiting is not None else set()

    def prepare(self) -> None:
        """Have one wait, from now on."""
        self._refill = None
        if self._waiting is None:
            self._waiting = Launcher(self._argv, self._env)

    def take(self) -> Launcher:
        """One: that which waits, if it lives.

        Raises:
            OSError: no process can be started.
        """
        launcher, self._waiting = self._waiting, None
        if self._refill is None:
            self._refill = asyncio.get_running_loop().call_later(REFILL_S, self._prepare_again)
        if launcher is not None:
            if launcher.process.poll() is None:
                return launcher
            launcher.end()
        return Launcher(self._argv, self._env)

    def _prepare_again(self) -> None:
        try:
            self.prepare()
        except OSError:
            return  # whoever needs one will hear why

    def close(self) -> None:
        """None waits any more."""
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None
