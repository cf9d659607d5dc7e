"""The templates of this kind of runtime: each in a box of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from jitney.drivers.runtime.forking.loading import Loaded, behind_wall, load_message, without_snapshot
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.kept.box import Box
from jitney.drivers.runtime.kept.keeper import BoxFailed, BoxGone
from jitney.drivers.walls.render import HOME
from jitney.errors import StartupError
from jitney.ports.runtime import Output, TemplateFacts, TemplateFailed, TemplateGone
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, TemplateSpec
from jitney.values.images import BuiltImage


class Opened:
    """An open template. `template` is None where containers cannot be forked: each imports for itself."""

    def __init__(self, box: Box, template: TemplateProcess | None, loaded: Loaded, kib: int) -> None:
        self.box = box
        self.template = template
        self.loaded = loaded
        self.kib = kib


class Templates:
    """See the module."""

    def __init__(
        self,
        make_box: Callable[[TemplateSpec, BuiltImage], Awaitable[Box]],
        *,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
    ) -> None:
        self._make_box = make_box
        self._on_exited = on_exited
        self._on_death = on_death
        self._numbers = itertools.count(1)
        self._open: dict[TemplateSpec, Opened] = {}
        self.on_lost: Callable[[TemplateSpec], None] | None = None  # told of each open one that dies

    def find(self, spec: TemplateSpec) -> Opened | None:
        """The open template."""
        return self._open.get(spec)

    def pids(self) -> set[int]:
        """Of those that are open."""
        return {opened.template.pid for opened in self._open.values() if opened.template is not None}

    async def open(self, spec: TemplateSpec, image: BuiltImage, cause: str, output: Output) -> None:
        """Make a template ready.

        Raises:
            TemplateFailed: it cannot be.
        """
        if spec in self._open:
            return
        opened = await self._open_box(spec, image, cause, output)
        if opened.box.has_room and (opened.template is None or opened.template.is_alive):
            self._open[spec] = opened
        else:
            opened.box.close()

    async def alone(self, spec: TemplateSpec, image: BuiltImage, container_id: str, output: Output) -> Opened:
        """An open template whose box has no other container than this one from now on.

        The first is that of `open`, whenever it has none; others are made for one container, and go with it.

        Raises:
            TemplateGone: it is not open.
            TemplateFailed: another one cannot be made.
        """
        opened = self._open.get(spec)
        if opened is None:
            raise TemplateGone
        if not opened.box.containers:
            opened.box.containers.add(container_id)
            return opened
        opened = await self._open_box(spec, image, container_id, output)
        opened.box.containers.add(container_id)
        opened.box.close()
        return opened

    async def _open_box(self, spec: TemplateSpec, image: BuiltImage, cause: str, output: Output) -> Opened:
        box = await self._make_box(spec, image)
        try:
            template: TemplateProcess | None = await self._load(box, spec, cause, output)
            assert template is not None
            loaded = behind_wall(spec, template.loaded)
            if not loaded.can_fork:
                template.kill()
                await template.dead
                template = None
                if loaded.is_snapshot_to_blame:
                    template = await self._load(box, without_snapshot(spec), "", _nowhere)
            kib = await box.keeper.look(template.pid) if template is not None else 0
        except BaseException:
            box.kill()
            await asyncio.shield(box.dead)
            raise
        return Opened(box, template, loaded, kib)

    async def _load(self, box: Box, spec: TemplateSpec, cause: str, output: Output) -> TemplateProcess:
        try:
            template = await box.start_process(
                f"t{next(self._numbers)}",
                cause,
                output,
                is_cold=False,
                on_exited=self._on_exited,
                on_death=self._died,
            )
        except (BoxFailed, BoxGone) as error:
            reason = f"the image's interpreter {box.image.python_path} cannot be started: {error}"
            raise TemplateFailed(_failure(reason)) from error
        try:
            await template.load(load_message(spec, HOME if spec.source_id else ""))
        except BaseException:
            template.kill()
            raise
        return template

    def _died(self, template: TemplateProcess) -> None:
        for spec, opened in list(self._open.items()):
            if opened.template is template:
                self._drop(spec)
        self._on_death(template)

    def lost(self, box: Box) -> None:
        """A box has ended by itself."""
        for spec, opened in list(self._open.items()):
            if opened.box is box:
                self._drop(spec)

    def _drop(self, spec: TemplateSpec) -> None:
        self._open.pop(spec).box.close()
        if self.on_lost is not None:
            self.on_lost(spec)

    def close(self, spec: TemplateSpec) -> None:
        """Nothing more is started from it. Its box, and what runs there, go on while there are containers."""
        opened = self._open.pop(spec, None)
        if opened is not None:
            opened.box.close()

    def close_all(self) -> None:
        """Forget all."""
        for spec in list(self._open):
            self.close(spec)

    def facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """About an open one."""
        opened = self._open.get(spec)
        return opened.loaded.facts(opened.kib) if opened is not None else None


def _nowhere(lines: object) -> bool:
    return True


def _failure(message: str) -> bytes:
    return encode_failure_text(StartupError.__name__, message, module=StartupError.__module__)
