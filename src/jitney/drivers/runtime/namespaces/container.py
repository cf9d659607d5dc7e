"""One container behind a wall: from the request for a fork until nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.namespaces.enclosure import Enclosure
from jitney.drivers.walls.wall import Pod, send_signal
from jitney.ports.limits import Group
from jitney.ports.runtime import ContainerHandle, Output, StartFailed
from jitney.values.containers import Exit, Launch


class Container:
    """What the runtime knows of a container. `inner_pid` is its number in the wall's own pid namespace."""

    def __init__(self, launch: Launch, enclosure: Enclosure, output: Output) -> None:
        loop = asyncio.get_running_loop()
        self.id = launch.container_id
        self.launch = launch
        self.enclosure = enclosure
        self.output = output
        self.template: TemplateProcess | None = None
        self.pod: Pod | None = None
        self.group: Group | None = None
        self.handle: ContainerHandle | None = None
        self.inner_pid = 0
        self.started: asyncio.Future[ContainerHandle] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.is_ending = False
        self.was_killed = False
        self.over_quota = ""
        self.over_kib = 0
        self.asked_at = loop.time()
        self.on_end: list[Callable[[], None]] = []
        self._pidfd = -1
        try:
            self.capture = Capture(self.id, output)
        except OSError as error:
            raise StartFailed(f"no pipes for it: {error.strerror or error}") from error

    @property
    def address(self) -> str:
        """On its wall's network; '' without one."""
        return self.enclosure.address_of(self.pod) if self.pod is not None else ""

    def forked(self, inner_pid: int, pidfd: int, note: str) -> ContainerHandle:
        """The process exists. The descriptor is ours from now on."""
        self.inner_pid = inner_pid
        self._pidfd = pidfd
        pid = procfs.pid_of(pidfd)
        stat = procfs.stat(pid)
        self.handle = ContainerHandle(
            container_id=self.id,
            pid=pid,
            start_ticks=stat.start_ticks if stat else 0,
            fork_ms=round((asyncio.get_running_loop().time() - self.asked_at) * 1000, 3),
            note=note,
        )
        self.capture.begin()
        return self.handle

    def signal(self, signum: int) -> None:
        """To its first process."""
        if self._pidfd >= 0:
            send_signal(self._pidfd, signum)

    def kill(self) -> None:
        """All of it, at once."""
        self.was_killed = True
        self.signal(signal.SIGKILL)  # first: it may be on its way into the pod
        if self.pod is not None:
            self.pod.kill()

    def close(self) -> None:
        """Nothing of it lives: deliver the rest of its output."""
        self.capture.finish()
        for action in self.on_end:
            action()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
