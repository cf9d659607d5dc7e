"""The runtime itself, whoever makes its boxes."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jitney.drivers.runtime.forking.marker import marker_of
from jitney.drivers.runtime.forking.scratch import remove_tree
from jitney.drivers.runtime.kept.box import Box, Boxes
from jitney.drivers.runtime.kept.keeper import BoxFailed, BoxGone
from jitney.drivers.runtime.kept.life import Containers
from jitney.drivers.runtime.kept.render import CODE_ENTRIES_MAX, ETC, BoxOrder, render_order
from jitney.drivers.runtime.kept.templates import Templates
from jitney.drivers.runtime.kept.volumes import Volumes
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.render import Outside
from jitney.ports.interactive import ContainerGone, ExecSession, ExecSpec, OnOutput
from jitney.ports.limits import Limiter
from jitney.ports.mounting import MountFailed
from jitney.ports.runtime import (
    Capabilities,
    ContainerHandle,
    Output,
    StartFailed,
    Stats,
    TemplateFacts,
    TemplateFailed,
    TemplateGone,
)
from jitney.runner.failures import encode_failure_text
from jitney.runner.segments import prepare, prepare_scope
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted
from jitney.wire.home import Home

CONTROL_PREFIX = "k-"


class KeptRuntime:
    """Containers in boxes that somebody else makes.

    Args:
        home: the server folder.
        boxes: who makes them.
        limiter: bounds and counts what containers use, where processes of a box can enter its groups.
    """

    def __init__(self, home: Home, boxes: Boxes, *, limiter: Limiter | None) -> None:
        self._home = home
        self._boxes = boxes
        self._machine = Machine()
        # Groups that are not root's own cannot take in what the engine has put into its own.
        self._limiter = limiter if boxes.can_join and os.geteuid() == 0 else None
        self._volumes = Volumes(home, self._machine.ids)
        self._containers = Containers(self._limiter, self._volumes, shares_locks=boxes.shares_locks)
        self._templates = Templates(
            self._make_box, on_exited=self._containers.on_exited, on_death=self._containers.on_template_death
        )
        self._names = itertools.count(1)
        self._living: set[Box] = set()

    def capabilities(self) -> Capabilities:
        """See the port."""
        return Capabilities(name=self._boxes.tier, isolation=True, memory_limit=True, process_limit=True, exec=True)

    async def reap(self) -> int:
        """See the port."""
        count = await self._boxes.reap()
        if self._limiter is not None:
            await self._limiter.reap()
        await asyncio.to_thread(self._remove_folders)
        return count

    def _remove_folders(self) -> None:
        self._home.containers.mkdir(parents=True, exist_ok=True, mode=0o700)
        control = self._home.sockets.parent
        for path in (*self._home.containers.iterdir(), *control.glob(f"{CONTROL_PREFIX}*")):
            if path.is_dir() and not path.is_symlink():
                remove_tree(str(path))
            else:
                path.unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------------- templates

    async def open_template(
        self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output, volumes: Sequence[Mounted] = ()
    ) -> None:
        """See the port."""
        if not spec.isolation.allows(self._boxes.tier):  # before anything of it is imported
            raise TemplateFailed(_failure("UnsupportedError", self._too_weak(spec.isolation)))
        await self._templates.open(spec, self._machine.complete(image), cause, output)

    async def close_template(self, spec: TemplateSpec) -> None:
        """See the port."""
        self._templates.close(spec)

    async def _make_box(self, spec: TemplateSpec, image: BuiltImage) -> Box:
        """A box for a template.

        Raises:
            TemplateFailed: it cannot be made.
        """
        name = f"b{next(self._names)}-{os.getpid()}"
        folder = self._home.containers / name
        control = self._home.sockets.parent / f"{CONTROL_PREFIX}{name}"
        try:
            box = Box(
                spec,
                await asyncio.to_thread(self._order, name, spec, image, folder, control),
                folder=folder,
                control=control,
                make_shell=self._boxes.shell,
                on_orphan=self._containers.on_orphan,
                on_over=self._containers.on_over,
                on_death=self._on_box_death,
            )
        except OSError as error:
            raise TemplateFailed(_failure("StartupError", f"a folder for it cannot be made: {error}")) from error
        except BoxFailed as error:
            raise TemplateFailed(_failure("StartupError", str(error))) from error
        self._living.add(box)
        box.dead.add_done_callback(lambda _: self._living.discard(box))
        try:
            await box.open()
        except (BoxFailed, BoxGone) as error:
            reason = f"the wall around it cannot be made: {error}"
            raise TemplateFailed(_failure("StartupError", reason)) from error
        return box

    def _order(self, name: str, spec: TemplateSpec, image: BuiltImage, folder: Path, control: Path) -> BoxOrder:
        outside = self._machine.outside(self._home, spec, image, folder)
        for path in (outside.sockets, outside.blobs):
            os.makedirs(path, exist_ok=True)
        prepare(str(self._home.segments))
        prepare_scope(str(self._home.segments), os.path.basename(outside.segments))
        return render_order(
            name,
            marker_of(self._home),
            spec,
            image,
            outside,
            control=str(control),
            code=_code_of(outside),
            etc=[one for one in ETC if os.path.exists(f"/etc/{one}")],
        )

    def _on_box_death(self, box: Box) -> None:
        self._templates.lost(box)
        self._containers.on_box_death(box)

    def template_facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """See ports.runtime.TemplateInsight."""
        return self._templates.facts(spec)

    def watch_templates(self, on_death: Callable[[TemplateSpec], None]) -> None:
        """See ports.runtime.TemplateInsight."""
        self._templates.on_lost = on_death

    # -------------------------------------------------------------------------------------------- containers

    @property
    def attaches(self) -> Literal[True]:
        """See ports.attaching."""
        return True

    async def start(self, launch: Launch, image: BuiltImage, output: Output) -> ContainerHandle:
        """See the port."""
        why = self._too_weak(launch.isolation) if not launch.isolation.allows(self._boxes.tier) else ""
        if not why and launch.network != launch.template.network:
            why = "its network policy is another one than that of its template, which all of its containers have"
        if why:
            raise StartFailed(why, _failure("UnsupportedError", why))
        if not launch.mounts and not launch.attached:
            opened = self._templates.find(launch.template)
            if opened is None:
                raise TemplateGone
            return await self._containers.start(launch, opened, output)
        try:
            opened = await self._templates.alone(
                launch.template, self._machine.complete(image), launch.container_id, output
            )
        except TemplateFailed as failed:
            raise StartFailed("no wall of its own can be made for it", failed.payload) from failed
        try:
            return await self._containers.start(launch, opened, output)
        finally:
            if launch.container_id not in self._containers.living:
                opened.box.containers.discard(launch.container_id)
                opened.box.retire()

    async def remount(self, handle: ContainerHandle, mounted: Mounted) -> None:
        """See ports.mounting."""
        container = self._containers.living.get(handle.container_id)
        if container is None or container.is_ending:
            raise MountFailed("the container has ended")
        await self._volumes.attach(container.box, [mounted], replaces=True)

    async def discard(self, container_id: str = "") -> None:
        """See ports.mounting."""
        await self._volumes.discard(container_id)

    def _too_weak(self, asked: object) -> str:
        return (
            f"isolation={str(asked)!r} is asked for, and this worker has {str(self._boxes.tier)!r}\n"
            "`jitney doctor` says what this machine can do; `runtime` in [worker] of config.toml chooses"
        )

    async def wait(self, handle: ContainerHandle) -> Exit:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is None:
            return self._containers.ended.get(handle.container_id, Exit())
        return await asyncio.shield(container.ended)

    def signal(self, handle: ContainerHandle, signum: int) -> None:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is not None and not container.is_ending:
            container.signal(signum)

    async def destroy(self, handle: ContainerHandle) -> None:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is not None:
            if not container.is_ending:
                container.kill()
            await asyncio.shield(container.ended)

    def stats(self, handle: ContainerHandle) -> Stats | None:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is None or container.is_ending:
            return None
        return self._containers.stats(container)

    async def exec(self, handle: ContainerHandle, spec: ExecSpec, on_output: OnOutput) -> ExecSession:
        """See ports.interactive."""
        container = self._containers.living.get(handle.container_id)
        if container is None or container.is_ending:
            raise ContainerGone
        fork = self._containers.fork_of(container)
        return await self._containers.commands.start(container, fork, spec, on_output)

    # -------------------------------------------------------------------------------------------- for tests

    def end_template(self, spec: TemplateSpec) -> None:
        """Its process ends, as if by a bug."""
        opened = self._templates.find(spec)
        if opened is not None and opened.template is not None:
            opened.template.kill()

    def template_pids(self) -> set[int]:
        """Of the open templates, as their boxes number them."""
        return self._templates.pids()

    def boxes(self) -> dict[str, Box]:
        """Those that live, by name."""
        return {box.name: box for box in self._living}

    async def close(self) -> None:
        """See the port."""
        handles = [one.handle for one in self._containers.living.values() if one.handle is not None]
        await asyncio.gather(*(self.destroy(handle) for handle in handles))
        self._templates.close_all()
        boxes = list(self._living)
        for box in boxes:
            box.kill()
        await asyncio.gather(*(box.dead for box in boxes))
        await self._containers.close()
        if self._limiter is not None:
            await self._limiter.close()
        await self._boxes.close()


def _code_of(outside: Outside) -> list[str]:
    """What is in the folder of the user's code.

    Raises:
        BoxFailed: more than can be mounted one by one, where that may be needed.
    """
    if not outside.source:
        return []
    entries = sorted(os.listdir(outside.source))
    if len(entries) > CODE_ENTRIES_MAX:
        raise BoxFailed(
            f"the code has {len(entries)} files and folders at its top, over {CODE_ENTRIES_MAX}\nput them into folders"
        )
    return entries


def _failure(kind: str, message: str) -> bytes:
    return encode_failure_text(kind, message, module="jitney.errors")
