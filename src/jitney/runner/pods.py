"""Forking containers into pods: what a template behind a wall does otherwise than one without."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jitney.runner.wall import enter, filters, landlock


class Pods:
    """Made in the template once; what a fork needs is ready in memory then."""

    def __init__(self) -> None:
        self._own_pids = enter.own_pid_namespace()
        self._program = filters.program("container", os.uname().machine)
        filters.load()
        landlock.abi()

    def fork(self, pod: int) -> int:
        """As os.fork; the child is born in the pod's pid namespace.

        Raises:
            OSError: the pod has ended, or there is no room for a process.
        """
        enter.aim(pod)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:  # not in the child, to whom our own namespace is out of reach
                enter.aim_back(self._own_pids)
        return pid

    def enter(self, given: Sequence[int]) -> None:
        """In the child: join the pod and its control groups (the descriptors of the request), and drop everything."""
        pod, *joins = given
        os.close(self._own_pids)
        enter.enter(pod, joins, self._program)
