"""The templates of this machine: which are warm, who waits for which, which go. Decisions only.

A template is COLD (known, no process), OPENING, OPEN or BROKEN. One that could not be loaded is not tried again for a
while (RETRY_MS, doubled each time): whoever asks meanwhile gets the same failure, so that a module that cannot be
imported costs one import, and not one for each input that waits. Open ones are kept warm; beyond the limit the longest
idle one goes, and one that started nothing for `idle_ms` goes in any case. Busy ones never do.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from jitney.values.containers import TemplateSpec

TEMPLATES_MAX = 16
IDLE_MS = 600_000
RETRY_MS = 1_000  # after the first failure; doubled for each further one
RETRY_MS_MAX = 30_000


class Warmth(StrEnum):
    """Where a template is."""

    COLD = "cold"
    OPENING = "opening"
    OPEN = "open"
    BROKEN = "broken"


class Template(msgspec.Struct, kw_only=True):
    """A template, the containers that were started from it, and those that wait for it."""

    spec: TemplateSpec
    warmth: Warmth = Warmth.COLD
    waiting: list[str] = []
    live: set[str] = set()
    used_at_ms: int = 0
    failure: bytes = b""
    failures: int = 0
    retry_at_ms: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it now."""
        return not self.live and not self.waiting and self.warmth is not Warmth.OPENING


class Answer(msgspec.Struct, frozen=True):
    """What a container that wants a template is told: `run` it, or wait (and `open` it first), or its `failure`."""

    run: bool = False
    open: bool = False
    failure: bytes = b""
    close: tuple[TemplateSpec, ...] = ()  # these go, to make room


class TemplatePool:
    """See the module."""

    def __init__(self, *, templates_max: int = TEMPLATES_MAX, idle_ms: int = IDLE_MS) -> None:
        self.templates: dict[TemplateSpec, Template] = {}
        self._templates_max = templates_max
        self._idle_ms = idle_ms

    def want(self, spec: TemplateSpec, container_id: str, now_ms: int) -> Answer:
        """A container is to be started from `spec`."""
        template = self.templates.get(spec)
        close: tuple[TemplateSpec, ...] = ()
        if template is None:
            close = tuple(self._make_room())
            template = self.templates[spec] = Template(spec=spec)
        template.used_at_ms = now_ms
        if template.warmth is Warmth.OPEN:
            template.live.add(container_id)
            return Answer(run=True)
        if template.warmth is Warmth.BROKEN and now_ms < template.retry_at_ms:
            return Answer(failure=template.failure)
        is_opening = template.warmth is Warmth.OPENING
        template.warmth = Warmth.OPENING
        template.waiting.append(container_id)
        return Answer(open=not is_opening, close=close)

    def opened(self, spec: TemplateSpec, now_ms: int) -> list[str]:
        """It is warm: the containers that are to be started from it now, in the order in which they came."""
        template = self._opening(spec)
        if template is None:
            return []
        template.warmth, template.failures, template.used_at_ms = Warmth.OPEN, 0, now_ms
        waiting, template.waiting = template.waiting, []
        template.live.update(waiting)
        return waiting

    def broken(self, spec: TemplateSpec, failure: bytes, now_ms: int) -> list[str]:
        """It cannot be made: the containers that fail with it."""
        template = self._opening(spec)
        if template is None:
            return []
        template.retry_at_ms = now_ms + min(RETRY_MS << min(template.failures, 16), RETRY_MS_MAX)
        template.failures += 1
        template.warmth, template.failure, template.used_at_ms = Warmth.BROKEN, failure, now_ms
        waiting, template.waiting = template.waiting, []
        return waiting

    def _opening(self, spec: TemplateSpec) -> Template | None:
        """None when it was given up meanwhile."""
        template = self.templates.get(spec)
        return template if template is not None and template.warmth is Warmth.OPENING else None

    def lost(self, spec: TemplateSpec, container_id: str) -> None:
        """It had died when a container was to be started from it."""
        template = self.templates.get(spec)
        if template is not None:
            template.live.discard(container_id)
            if template.warmth is Warmth.OPEN:
                template.warmth = Warmth.COLD

    def ended(self, spec: TemplateSpec, container_id: str, now_ms: int) -> None:
        """A container that was started from it is gone."""
        template = self.templates.get(spec)
        if template is not None and container_id in template.live:
            template.live.discard(container_id)
            template.used_at_ms = now_ms

    def give_up(self, spec: TemplateSpec, container_id: str) -> bool:
        """A container waits no longer; True when the template is to be closed, as nobody else does.

        An import that nobody waits for may never end.
        """
        template = self.templates[spec]
        template.waiting.remove(container_id)
        if template.waiting or template.warmth is not Warmth.OPENING:
            return False
        del self.templates[spec]
        return True

    def too_idle(self, now_ms: int) -> list[TemplateSpec]:
        """Those that were idle for too long: they are forgotten, and to be closed."""
        found = [t for t in self.templates.values() if t.is_idle and now_ms - t.used_at_ms >= self._idle_ms]
        return self._forget(found)

    def deadlines(self) -> Iterator[int]:
        """When each idle one has been so for too long."""
        return (t.used_at_ms + self._idle_ms for t in self.templates.values() if t.is_idle)

    def clear(self) -> list[TemplateSpec]:
        """Forget all: those that are to be closed."""
        return self._forget(list(self.templates.values()))

    def _make_room(self) -> list[TemplateSpec]:
        excess = len(self.templates) + 1 - self._templates_max
        idle = sorted((t for t in self.templates.values() if t.is_idle), key=lambda t: t.used_at_ms)
        return self._forget(idle[: max(excess, 0)])

    def _forget(self, templates: list[Template]) -> list[TemplateSpec]:
        for template in templates:
            del self.templates[template.spec]
        return [t.spec for t in templates if t.warmth in (Warmth.OPEN, Warmth.OPENING)]
