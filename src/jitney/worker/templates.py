"""Opening and closing templates as `worker.state` says: each is a task, and its outcome the next event."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from jitney.errors import JitneyError
from jitney.ports.runtime import Output, Runtime, StartFailed, TemplateFacts, TemplateFailed, TemplateInsight
from jitney.runner.failures import decode_failure
from jitney.values.containers import TemplateSpec
from jitney.values.images import BuiltImage
from jitney.worker import events
from jitney.worker.held import HeldOutput
from jitney.worker.snapshots import Snapshots
from jitney.worker.state import startup_failure

log = logging.getLogger("jitney.worker")


class Templates:
    """See the module.

    Args:
        snapshots: what they may read of volumes.
        image: finds what they are made from.
        output: where what they print goes.
        feed: takes events.
        spawn: runs tasks.
        on_closed: called when one has closed.
    """

    def __init__(
        self,
        runtime: Runtime,
        snapshots: Snapshots,
        *,
        image: Callable[[str], BuiltImage],
        output: Output,
        feed: Callable[[object], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_closed: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._snapshots = snapshots
        self._image = image
        self._output = output
        self._feed = feed
        self._spawn = spawn
        self._on_closed = on_closed
        self._opening: dict[TemplateSpec, asyncio.Task[None]] = {}
        self._closing: dict[TemplateSpec, asyncio.Task[None]] = {}
        self._held: dict[TemplateSpec, HeldOutput] = {}  # of those that were opened ahead
        if isinstance(runtime, TemplateInsight):
            runtime.watch_templates(self._on_death)

    def images_closing(self) -> set[str]:
        """What those that are closing are made from."""
        return {spec.image_id for spec in self._closing}

    async def closed(self, image_id: str) -> None:
        """Until those of an image that are closing have closed."""
        closing = [task for spec, task in self._closing.items() if spec.image_id == image_id]
        if closing:
            await asyncio.wait(closing)

    def open(self, instruction: events.OpenTemplate) -> None:
        """Begin to open one."""
        spec, output = instruction.spec, self._output
        if not instruction.cause:
            output = self._held[spec] = HeldOutput(self._output)
        self._opening[spec] = self._spawn(self._open(spec, instruction.cause, output, self._closing.get(spec)))

    async def _open(self, spec: TemplateSpec, cause: str, output: Output, closing: asyncio.Task[None] | None) -> None:
        started_s = time.monotonic()
        try:
            if closing is not None:
                await asyncio.wait({closing})
            image = self._image(spec.image_id)
            image_s = time.monotonic() - started_s
            volumes = await self._snapshots.lend(spec)
            await self._runtime.open_template(spec, image, cause=cause, output=output, volumes=volumes)
        except Exception as error:
            await self._snapshots.give_back(spec)
            self._feed(events.TemplateBroken(spec, _failure_of(error, spec)))
        else:
            facts = self._facts(spec)
            if facts.note:
                await self._snapshots.give_back(spec)  # its snapshot is not used
            self._feed(events.TemplateOpened(spec, facts, image_ms=round(image_s * 1000, 3)))
        finally:
            if self._opening.get(spec) is asyncio.current_task():
                del self._opening[spec]

    def _facts(self, spec: TemplateSpec) -> TemplateFacts:
        facts = self._runtime.template_facts(spec) if isinstance(self._runtime, TemplateInsight) else None
        return facts or TemplateFacts()

    def _on_death(self, spec: TemplateSpec) -> None:
        self._spawn(self._snapshots.give_back(spec))  # before another is made
        self._feed(events.TemplateDied(spec))

    def adopt_output(self, instruction: events.AdoptOutput) -> None:
        """What one has printed, and prints, belongs to a container."""
        held = self._held.pop(instruction.spec, None)
        if held is not None:
            held.give(instruction.container_id)

    def close(self, instruction: events.CloseTemplate) -> None:
        """Begin to close one."""
        spec = instruction.spec
        self._held.pop(spec, None)
        self._closing[spec] = self._spawn(self._close(spec, self._opening.pop(spec, None)))

    async def _close(self, spec: TemplateSpec, opening: asyncio.Task[None] | None) -> None:
        try:
            if opening is not None:
                opening.cancel()
                await asyncio.wait({opening})
            await self._runtime.close_template(spec)
        except Exception:
            log.exception("close_failed module=%s", spec.module)
        finally:
            await self._snapshots.give_back(spec)
            if self._closing.get(spec) is asyncio.current_task():
                del self._closing[spec]
            self._on_closed()


def _failure_of(error: Exception, spec: TemplateSpec) -> bytes:
    if isinstance(error, TemplateFailed):
        reason = decode_failure(error.payload, rebuild=False).message
        log.info("template_failed module=%s reason=%s", spec.module, reason)
        return error.payload
    if not isinstance(error, StartFailed | JitneyError):
        log.error("template_failed module=%s", spec.module, exc_info=error)
    return startup_failure(str(error) or repr(error))
