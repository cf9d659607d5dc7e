"""One container in a box: from the request for a fork until nothing of it is left."""

from __future__ import annotations

import asyncio
import signal

from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.kept.box import Box
from jitney.ports.limits import Group
from jitney.ports.runtime import ContainerHandle, Output, StartFailed
from jitney.values.containers import Exit, Launch


class Container:
    """What the runtime knows of a container. Its pid is the box's number for its first process."""

    def __init__(self, launch: Launch, box: Box, output: Output) -> None:
        loop = asyncio.get_running_loop()
        self.id = launch.container_id
        self.launch = launch
        self.box = box
        self.output = output
        self.template: TemplateProcess | None = None
        self.group: Group | None = None
        self.handle: ContainerHandle | None = None
        self.started: asyncio.Future[ContainerHandle] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.is_prepared = False
        self.is_mounted = False  # its volumes are, or may be, in its box
        self.is_forking = False  # a template was asked for it, and has not answered yet
        self.is_ending = False
        self.was_killed = False
        self.over_kib = 0  # what it used when it passed its memory limit
        self.asked_at = loop.time()
        try:
            self.capture = Capture(self.id, output)
        except OSError as error:
            raise StartFailed(f"no pipes for it: {error.strerror or error}") from error

    @property
    def pid(self) -> int:
        """0 before it runs."""
        return self.handle.pid if self.handle is not None else 0

    def forked(self, pid: int, note: str) -> ContainerHandle:
        """The process exists."""
        took_ms = (asyncio.get_running_loop().time() - self.asked_at) * 1000
        self.handle = ContainerHandle(container_id=self.id, pid=pid, fork_ms=round(took_ms, 3), note=note)
        self.capture.begin()
        return self.handle

    def signal(self, signum: int) -> None:
        """To its first process."""
        if self.handle is not None:
            self.box.keeper.signal(self.handle.pid, signum)

    def kill(self) -> None:
        """All of it, at once."""
        self.was_killed = True
        self.signal(signal.SIGSTOP)  # it starts no other process while its own are ended
        if self.handle is not None:
            self.box.keeper.kill(self.handle.pid)
        if self.group is not None:
            self.group.kill()

    def close(self) -> None:
        """Nothing of it lives: deliver the rest of its output."""
        self.capture.finish()
