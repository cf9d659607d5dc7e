"""The templates of this runtime: started, kept, and ended."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.bounding import ImportWatch, limit_of, remedy_of
from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.leftovers import OOM_SCORE_ADJ
from jitney.drivers.runtime.forking.loading import Loaded, load_message, without_snapshot
from jitney.drivers.runtime.forking.sdk import command_env, sdk_paths
from jitney.drivers.runtime.forking.template import LoadOutput, TemplateProcess
from jitney.drivers.runtime.process.checkpoints import Checkpoints, Cold, Request
from jitney.drivers.runtime.process.child import OwnChild
from jitney.drivers.runtime.process.render import TemplateRecipe, render_template
from jitney.errors import StartupError
from jitney.ports.checkpoints import Restored
from jitney.ports.runtime import Output, TemplateFailed
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted
from jitney.wire.home import Home

RAISE_OWN_LIMIT = "Load less as the module is imported, or raise the limit in memory= of the function."


def marker_of(home: Home) -> str:
    """What the environment of every template of this server folder holds (see leftovers)."""
    return sha256(os.fsencode(home.root)).hexdigest()[:16]


class Templates:
    """See the module. `children` has the pids of all that live: the callers' set, kept up to date here."""

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str],
        children: set[int],
        checkpoints: Checkpoints,
        *,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
        limit_mib: int = 0,
    ) -> None:
        self._home = home
        self._limit_mib = limit_mib
        self._environ = environ
        self._children = children
        self._checkpoints = checkpoints
        self._on_exited = on_exited
        self._on_death = on_death
        self._open: dict[TemplateSpec, TemplateProcess] = {}  # those to fork from
        self._loaded: dict[TemplateSpec, Loaded] = {}  # how those were loaded
        self._cold: dict[TemplateSpec, Loaded] = {}  # whose import starts threads: each container imports for itself
        self.on_lost: Callable[[TemplateSpec], None] | None = None  # told of each open one that dies
        self._processes: set[TemplateProcess] = set()  # all that live: also those that load, or were closed
        self._attendants: dict[TemplateProcess, tuple[int, ...]] = {}  # of those that were restored

    def find(self, spec: TemplateSpec) -> TemplateProcess | None:
        """The template to fork from."""
        return self._open.get(spec)

    def is_cold(self, spec: TemplateSpec) -> bool:
        """Whether the template is open, and its containers cannot be forked."""
        return spec in self._cold

    def loaded(self, spec: TemplateSpec) -> Loaded | None:
        """How an open template was loaded."""
        return self._loaded.get(spec) or self._cold.get(spec)

    def is_open(self, template: TemplateProcess) -> bool:
        """Whether containers may still be forked from it."""
        return template in self._open.values()

    def pids(self) -> set[int]:
        """Of every process here that lives."""
        return {template.pid for template in self._processes}

    async def open(
        self,
        spec: TemplateSpec,
        image: BuiltImage,
        cause: str,
        output: Output,
        view: dict[str, Any] | None,
        volumes: Sequence[Mounted],
    ) -> None:
        """Make a template ready; `view`: see runner.view, where it can read `volumes`.

        Raises:
            TemplateFailed: it cannot be.
        """
        if spec in self._open or spec in self._cold:
            return
        written_down = await self._checkpoints.find(spec, image)
        if written_down is not None:
            self._cold[spec] = written_down
            return
        template = await self.load(spec, image, cause, output, view=view, volumes=volumes)
        loaded = template.loaded
        if loaded.is_snapshot_to_blame and not await self._may_checkpoint(spec, image):
            template.kill()
            template = await self.load(without_snapshot(spec), image, cause, _nowhere)
        if not template.loaded.can_fork:
            self._cold[spec] = loaded
            template.kill()
        elif template.is_alive:
            self._open[spec], self._loaded[spec] = template, loaded

    async def _may_checkpoint(self, spec: TemplateSpec, image: BuiltImage) -> bool:
        return spec.checkpoint and not await self._checkpoints.why_not(spec, image)

    async def cold(
        self,
        spec: TemplateSpec,
        image: BuiltImage,
        cause: str,
        output: Output,
        view: dict[str, Any] | None = None,
        limit_mib: int | None = None,
    ) -> Cold:
        """The process of a container that cannot be forked; `view`: see runner.view; `limit_mib`: its own memory.

        One with volumes is in no checkpoint: it has joined its own mounts before it imports.

        Raises:
            TemplateFailed: its import fails.
        """
        loaded = self._cold[spec]
        if not spec.checkpoint or view is not None:
            plain = await self.load(spec, image, cause, output, is_cold=True, view=view, limit_mib=limit_mib)
            return Cold(plain, loaded.note)
        source = (str(self._home.sources / spec.source_id),) if spec.source_id else ()
        request = Request(
            spec=spec,
            image=image,
            loaded=loaded,
            env=self._recipe(spec, image, 0, is_cold=True).env,
            needs=(image.python_path, *source),
            load=lambda checkpoint: self.load(
                spec, image, cause, output, is_cold=True, checkpoint=checkpoint, limit_mib=limit_mib
            ),
            adopt=lambda restored, control: self._adopt(restored, control, cause, output),
        )
        made = await self._checkpoints.start(request)
        if loaded.is_snapshot_to_blame and not await self._may_checkpoint(spec, image):
            self._cold.pop(spec, None)  # forking without the snapshot is better than what there is now
        return made

    def forget(self, spec: TemplateSpec) -> TemplateProcess | None:
        """Nothing more is forked from it; the process, if there is one, is the caller's to end."""
        self._cold.pop(spec, None)
        self._loaded.pop(spec, None)
        return self._open.pop(spec, None)

    async def load(
        self,
        spec: TemplateSpec,
        image: BuiltImage,
        cause: str,
        output: Output,
        *,
        is_cold: bool = False,
        checkpoint: bool = False,
        view: dict[str, Any] | None = None,
        volumes: Sequence[Mounted] = (),
        limit_mib: int | None = None,
    ) -> TemplateProcess:
        """A process that has imported the module, within the memory of templates, or of the container that it will be.

        Raises:
            TemplateFailed: it cannot be.
        """
        watch = ImportWatch(limit_mib or limit_of(spec, self._limit_mib))
        try:
            template = self._start(spec, image, cause, output, is_cold, watch.judge)
        except OSError as error:
            reason = f"the image's interpreter {image.python_path} cannot be started: {error.strerror or error}"
            raise TemplateFailed(_failure(reason)) from error
        source = str(self._home.sources / spec.source_id) if spec.source_id else ""
        template.advice = remedy_of(spec, watch.limit_mib) if limit_mib is None else RAISE_OWN_LIMIT
        watch.begin(template.pid, template.kill)
        try:
            await template.load(load_message(spec, source, checkpoint=checkpoint, view=view, volumes=volumes))
        except BaseException:
            template.kill()
            raise
        finally:
            watch.end()
        return template

    def env(self, spec: TemplateSpec, image: BuiltImage) -> dict[str, str]:
        """The variables that such a template is started with, for commands in its containers."""
        return command_env(self._recipe(spec, image, 0).env, sdk_paths(self._home, image))

    def _recipe(self, spec: TemplateSpec, image: BuiltImage, fd: int, *, is_cold: bool = False) -> TemplateRecipe:
        return render_template(
            spec,
            image,
            home=self._home,
            environ=self._environ,
            sdk=sdk_paths(self._home, image),
            marker=marker_of(self._home),
            control_fd=fd,
            is_cold=is_cold,
        )

    def _start(
        self,
        spec: TemplateSpec,
        image: BuiltImage,
        cause: str,
        output: Output,
        is_cold: bool,
        judge: Callable[[Exit], Exit],
    ) -> TemplateProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                recipe = self._recipe(spec, image, theirs.fileno(), is_cold=is_cold)
                printer = LoadOutput(output)
                capture = Capture(cause, printer)
                try:
                    child = OwnChild(recipe, theirs.fileno(), capture.child_fds)
                except BaseException:
                    capture.finish()
                    raise
                template = TemplateProcess(
                    child,
                    ours,
                    capture,
                    printer,
                    is_cold=is_cold,
                    on_exited=self._on_exited,
                    on_death=self._died,
                    judge=judge,
                )
            except BaseException:
                ours.close()
                raise
        self._processes.add(template)
        self._children.add(template.pid)
        return template

    def _adopt(self, restored: Restored, control: socket.socket, cause: str, output: Output) -> TemplateProcess:
        """A process that was made from a checkpoint, as one of ours."""
        procfs.set_oom_score_adj(restored.pid, OOM_SCORE_ADJ)
        printer = LoadOutput(output)
        template = TemplateProcess(
            restored,
            control,
            Capture(cause, printer),
            printer,
            is_cold=True,
            on_exited=self._on_exited,
            on_death=self._died,
        )
        self._processes.add(template)
        self._attendants[template] = restored.attendants()
        self._children.update((template.pid, *self._attendants[template]))
        return template

    def _died(self, template: TemplateProcess) -> None:
        self._processes.discard(template)
        self._children.difference_update((template.pid, *self._attendants.pop(template, ())))
        for spec, one in list(self._open.items()):
            if one is template:
                self.forget(spec)
                if self.on_lost is not None:
                    self.on_lost(spec)
        self._on_death(template)

    async def close(self) -> None:
        """End all."""
        processes = list(self._processes)
        for template in processes:
            template.kill()
        await asyncio.gather(*(template.dead for template in processes))


def _nowhere(_: object) -> bool:
    """What an import prints that is done again."""
    return True


def _failure(message: str) -> bytes:
    return encode_failure_text(StartupError.__name__, message, module=StartupError.__module__)
