"""The templates of this runtime: each in an enclosure of its own."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.loading import Loaded, behind_wall, load_message, without_snapshot
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.namespaces.bounding import TemplateBounds
from jitney.drivers.runtime.namespaces.enclosure import Enclosure
from jitney.drivers.walls import render
from jitney.drivers.walls.wall import WallFailed, WallGone
from jitney.errors import StartupError
from jitney.ports.limits import LimitsFailed
from jitney.ports.runtime import Output, TemplateFacts, TemplateFailed
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted


class Opened:
    """An open template. `template` is None where containers cannot be forked: each imports for itself."""

    def __init__(self, enclosure: Enclosure, template: TemplateProcess | None, loaded: Loaded) -> None:
        self.enclosure = enclosure
        self.template = template
        self.loaded = loaded

    @property
    def note(self) -> str:
        """Why containers are not forked from all that they could have had."""
        return self.loaded.note


class Templates:
    """See the module."""

    def __init__(
        self,
        enclose: Callable[[TemplateSpec, BuiltImage], Awaitable[Enclosure]],
        bound: Callable[[str, TemplateSpec], TemplateBounds],
        *,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._enclose = enclose
        self._bound = bound
        self._spawn = spawn
        self._numbers = itertools.count(1)
        self._on_exited = on_exited
        self._on_death = on_death
        self._open: dict[TemplateSpec, Opened] = {}
        self.on_lost: Callable[[TemplateSpec], None] | None = None  # told of each open one that dies

    def find(self, spec: TemplateSpec) -> Opened | None:
        """The open template."""
        return self._open.get(spec)

    def pids(self) -> set[int]:
        """Of those that are open."""
        return {opened.template.pid for opened in self._open.values() if opened.template is not None}

    async def open(
        self, spec: TemplateSpec, image: BuiltImage, cause: str, output: Output, volumes: Sequence[Mounted]
    ) -> None:
        """Make a template ready; `volumes`: what it can read.

        Raises:
            TemplateFailed: it cannot be.
        """
        if spec in self._open:
            return
        enclosure = await self._enclose(spec, image)
        try:
            template = await self._load(enclosure, spec, cause, output, volumes)
            loaded = behind_wall(spec, template.loaded)
            if not loaded.can_fork:
                template.kill()
                await template.dead
                usable = None
                if loaded.is_snapshot_to_blame:
                    usable = await self._load(enclosure, without_snapshot(spec), "", _nowhere)
                template = usable  # type: ignore[assignment]
        except BaseException:
            enclosure.close()
            raise
        if enclosure.wall.is_alive:
            self._open[spec] = Opened(enclosure, template, loaded)

    async def _load(
        self, enclosure: Enclosure, spec: TemplateSpec, cause: str, output: Output, volumes: Sequence[Mounted] = ()
    ) -> TemplateProcess:
        try:
            bounds = self._bound(f"t{next(self._numbers)}-{enclosure.name}", spec)
        except LimitsFailed as error:
            raise TemplateFailed(_failure(str(error))) from error
        template = await self._start(enclosure, bounds, cause, output)
        template.advice = bounds.remedy(spec)
        enclosure.stock.refill(render.SHM_MIB)  # pods are made while the module is imported
        try:
            if volumes:
                wall = enclosure.wall
                mounts = [render.render_mount(one, replaces=False) for one in volumes]
                await wall.mount(wall.child(enclosure.template), mounts)
            await template.load(load_message(spec, render.HOME if spec.source_id else "", volumes=volumes))
        except (WallFailed, WallGone) as error:
            template.kill()
            why = str(error) or "its wall fell"
            raise TemplateFailed(_failure(f"its volumes cannot be mounted: {why}")) from error
        except BaseException:
            template.kill()
            raise
        bounds.loaded()
        return template

    async def _start(self, enclosure: Enclosure, bounds: TemplateBounds, cause: str, output: Output) -> TemplateProcess:
        def died(template: TemplateProcess) -> None:
            self._spawn(bounds.remove())
            self._died(template)

        try:
            template = await enclosure.start_template(
                cause, output, bounds.joins, on_exited=self._on_exited, on_death=died, judge=bounds.judge
            )
        except BaseException as error:
            self._spawn(bounds.remove())
            if not isinstance(error, WallFailed | WallGone):
                raise
            why = str(error) or "its wall fell"
            reason = f"the image's interpreter {enclosure.image.python_path} cannot be started: {why}"
            raise TemplateFailed(_failure(reason)) from error
        bounds.begin(template.pid, template.kill)
        return template

    def _died(self, template: TemplateProcess) -> None:
        for spec, opened in list(self._open.items()):
            if opened.template is template:
                self._drop(spec)
        self._on_death(template)

    def lost(self, enclosure: Enclosure) -> None:
        """A wall has ended by itself."""
        for spec, opened in list(self._open.items()):
            if opened.enclosure is enclosure:
                self._drop(spec)

    def _drop(self, spec: TemplateSpec) -> None:
        self._open.pop(spec).enclosure.close()
        if self.on_lost is not None:
            self.on_lost(spec)

    def close(self, spec: TemplateSpec) -> None:
        """Nothing more is started from it. Its wall, and what runs behind it, go on while there are containers."""
        opened = self._open.pop(spec, None)
        if opened is not None:
            opened.enclosure.close()

    def close_all(self) -> None:
        """Forget all."""
        for spec in list(self._open):
            self.close(spec)

    def facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """About an open one."""
        opened = self._open.get(spec)
        if opened is None:
            return None
        return opened.loaded.facts(procfs.private_kib(opened.template.pid) if opened.template is not None else 0)


def _nowhere(lines: object) -> bool:
    return True


def _failure(message: str) -> bytes:
    return encode_failure_text(StartupError.__name__, message, module=StartupError.__module__)
