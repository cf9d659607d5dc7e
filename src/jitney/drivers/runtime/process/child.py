"""The process of a template without a wall: a child of the worker."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.exits import collect_exit, watch_exit
from jitney.drivers.runtime.forking.leftovers import OOM_SCORE_ADJ, send
from jitney.drivers.runtime.process.render import TemplateRecipe
from jitney.values.containers import Exit


class OwnChild:
    """See `forking.template.Child`."""

    def __init__(self, recipe: TemplateRecipe, control_fd: int, output_fds: list[int]) -> None:
        out, err = output_fds
        self._process = subprocess.Popen(
            recipe.argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=recipe.cwd,
            env=recipe.env,
            pass_fds=[control_fd],
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._is_alive = True
        procfs.set_oom_score_adj(self.pid, OOM_SCORE_ADJ)

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """See the protocol."""

        def ended() -> None:
            self._is_alive = False
            how = collect_exit(self.pid)
            self._process.returncode = 0  # it was collected: Popen need not try
            on_ended(how)

        watch_exit(self.pid, ended)

    def kill(self) -> None:
        """See the protocol."""
        if self._is_alive:
            send(self.pid, signal.SIGKILL)  # Popen would collect one that has just ended, and its exit would be lost
