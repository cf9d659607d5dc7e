"""One container: from the request for a fork until nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jitney.drivers.runtime.process import procfs
from jitney.drivers.runtime.process.capture import Capture
from jitney.drivers.runtime.process.render import ContainerRecipe
from jitney.drivers.runtime.process.template import TemplateProcess
from jitney.ports.runtime import ContainerHandle, Output, StartFailed
from jitney.values.containers import Exit, Launch


class Container:
    """What the runtime knows of a container. `template` is None for one that is a child of this process."""

    def __init__(self, launch: Launch, recipe: ContainerRecipe, output: Output) -> None:
        loop = asyncio.get_running_loop()
        self.id = launch.container_id
        self.launch = launch
        self.recipe = recipe
        self.template: TemplateProcess | None = None
        self.handle: ContainerHandle | None = None
        self.started: asyncio.Future[ContainerHandle] = loop.create_future()
        self.ended: asyncio.Future[Exit] = loop.create_future()
        self.asked_at = loop.time()
        self.was_killed = False  # by us: not by the kernel for want of memory
        self.over_kib = 0  # what it used when it passed its memory limit
        self.stop_watch: Callable[[], None] | None = None
        make_folders(recipe)
        try:
            self.capture = Capture(self.id, output)
        except BaseException:
            remove_folder(recipe.folders[0])
            raise

    def message(self) -> dict[str, object]:
        """What a template is asked for."""
        return {
            "container": self.id,
            "config": self.launch.config,
            "env": self.recipe.env,
            "cwd": self.recipe.cwd,
            "rlimits": self.recipe.rlimits,
        }

    def forked(self, pid: int) -> ContainerHandle:
        """The process exists."""
        stat = procfs.stat(pid)
        took_ms = (asyncio.get_running_loop().time() - self.asked_at) * 1000
        self.handle = ContainerHandle(
            container_id=self.id,
            pid=pid,
            start_ticks=stat.start_ticks if stat else 0,
            fork_ms=round(took_ms, 3),
        )
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
        remove_folder(self.recipe.folders[0])


def make_folders(recipe: ContainerRecipe) -> None:
    """The scratch folder, and what belongs into it.

    Raises:
        StartFailed: it cannot be made; the message says why.
    """
    try:
        os.mkdir(recipe.folders[0], mode=0o700)
        for folder in recipe.folders[1:]:
            os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartFailed(f"its folder {recipe.folders[0]} cannot be made: {error.strerror or error}") from error


def remove_folder(folder: str) -> None:
    """Remove a scratch folder: at once where it is empty, otherwise in a thread, as it may be huge."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError:
        pass
    else:
        return
    trash = Path(folder).with_suffix(".trash")
    try:
        os.rename(folder, trash)
    except OSError:
        return
    asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(trash, ignore_errors=True))
