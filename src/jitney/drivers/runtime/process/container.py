"""One container: from the request for a fork until nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.loading import note_line
from jitney.drivers.runtime.forking.scratch import MODE, ScratchFolders
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.process.render import ContainerRecipe
from jitney.ports.runtime import ContainerHandle, Output, StartFailed
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, Launch
from jitney.values.images import BuiltImage


class Container:
    """What the runtime knows of a container. `template` is None for one that is a child of this process."""

    def __init__(
        self, launch: Launch, image: BuiltImage, recipe: ContainerRecipe, scratch: ScratchFolders, output: Output
    ) -> None:
        loop = asyncio.get_running_loop()
        self.id = launch.container_id
        self.launch = launch
        self.image = image
        self.recipe = recipe
        self.template: TemplateProcess | None = None
        self.handle: ContainerHandle | None = None
        self.started: asyncio.Future[ContainerHandle] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.asked_at = loop.time()
        self.was_killed = False  # by us: not by the kernel for want of memory
        self.view: dict[str, Any] | None = None  # of the file system, where it has one of its own
        self.note = ""  # for its log: why it was not forked, where it was not
        self.over_kib = 0  # what it used when it passed its memory limit
        self.stop_watch: Callable[[], None] | None = None
        self._scratch = scratch
        self._output = output
        try:
            self._folder = scratch.take(self.id)
        except OSError as error:
            raise StartFailed(f"its folder {recipe.cwd} cannot be made: {error.strerror or error}") from error
        try:
            for folder in recipe.folders:
                os.makedirs(folder, mode=MODE, exist_ok=True)
            if not recipe.cwd.startswith(self._folder) and not os.path.isdir(recipe.cwd):
                raise _no_workdir(recipe.cwd)
            self.capture = Capture(self.id, output)
        except StartFailed:
            scratch.give_back(self._folder)
            raise
        except OSError as error:
            scratch.give_back(self._folder)
            raise StartFailed(f"no folder, or no pipes, for it: {error.strerror or error}") from error

    def message(self) -> dict[str, object]:
        """What a template is asked for."""
        return {
            "container": self.id,
            "config": self.launch.config,
            "env": self.recipe.env,
            "cwd": self.recipe.cwd,
            "rlimits": self.recipe.rlimits,
            **({"view": self.view} if self.view is not None else {}),
        }

    def judge(self, exit: Exit, kernel_was_short: Callable[[], bool]) -> Exit:
        """Whether it was memory that ended it."""
        if exit.signal != signal.SIGKILL:
            return exit
        by_kernel = not self.was_killed and kernel_was_short()
        if not by_kernel and not self.over_kib:
            return exit
        used_kib = self.over_kib or exit.max_rss_kib  # the kernel's may be that of whoever started it
        return Exit(signal=exit.signal, oom_killed=True, cpu_ms=exit.cpu_ms, max_rss_kib=used_kib)

    def forked(self, pid: int, note: str = "") -> ContainerHandle:
        """The process exists. `note` is for its log."""
        stat = procfs.stat(pid)
        took_ms = (asyncio.get_running_loop().time() - self.asked_at) * 1000
        self.handle = ContainerHandle(
            container_id=self.id,
            pid=pid,
            start_ticks=stat.start_ticks if stat else 0,
            fork_ms=round(took_ms, 3),
            note=note,
        )
        if note:
            self._output([note_line(self.id, note)])
        self.capture.begin()
        return self.handle

    def is_running(self) -> bool:
        """Whether its first process lives: its pid was not given to another one meanwhile."""
        if self.handle is None or self.ended.done():
            return False
        stat = procfs.stat(self.handle.pid)
        return stat is None or stat.start_ticks == self.handle.start_ticks

    def clean(self) -> None:
        """Deliver the rest of its output, and remove its folder."""
        if self.stop_watch is not None:
            self.stop_watch()
            self.stop_watch = None
        self.capture.finish()
        self._scratch.give_back(self._folder)

    @property
    def folder(self) -> str:
        """Its scratch folder."""
        return self._folder


def _no_workdir(path: str) -> StartFailed:
    reason = f"the image's workdir {path} is not a folder of this machine: make it, or give a relative one"
    return StartFailed(reason, encode_failure_text("InvalidError", reason, module="jitney.errors"))
