"""The templates of this machine: which are warm, who waits for which, which go. Decisions only.

A template is COLD (known, no process), OPENING, OPEN or BROKEN. One that could not be loaded is not tried again for a
while (RETRY_MS, doubled each time): whoever asks meanwhile gets the same failure, so that a module that cannot be
imported costs one import, and not one for each input that waits.

Open ones are kept warm within a budget of number and memory; beyond it the least valuable idle one goes
(`core.templates`), and one that started nothing for `idle_ms` goes in any case. Busy ones never do. One at a time, and
only while no container waits for another, templates are made ahead of need.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from jitney.core import templates as choice
from jitney.core.templates import Budget, Choice, Known
from jitney.values.containers import TemplateSpec

TEMPLATES_MAX = 16
MEMORY_KIB = 4 * 1024 * 1024
IDLE_MS = 600_000
RETRY_MS = 1_000  # after the first failure; doubled for each further one
RETRY_MS_MAX = 30_000
AHEAD_MS_MAX = 300_000  # an import that nobody waits for may never end
KNOWN_MAX = 256


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
    cause: str = ""  # the container whose log has what it printed; "": none yet
    waiting: list[str] = []
    live: set[str] = set()
    used_at_ms: int = 0
    opening_at_ms: int = 0
    failure: bytes = b""

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it now."""
        return not self.live and not self.waiting and self.warmth is not Warmth.OPENING

    @property
    def has_process(self) -> bool:
        """Whether it takes memory."""
        return self.warmth in (Warmth.OPEN, Warmth.OPENING)

    @property
    def ahead_until_ms(self) -> int | None:
        """How long it may load, where nobody waits for it."""
        if self.warmth is not Warmth.OPENING or self.waiting:
            return None
        return self.opening_at_ms + (self.spec.snapshot.timeout_ms if self.spec.snapshot else AHEAD_MS_MAX)


class Answer(msgspec.Struct, frozen=True):
    """What a container that wants a template is told: `run` it, or wait (and `open` it first), or its `failure`."""

    run: bool = False
    open: bool = False
    failure: bytes = b""
    close: tuple[TemplateSpec, ...] = ()  # these go, to make room
    adopt: bool = False  # what the template prints, or has printed, belongs to the log of this container


class TemplatePool:
    """See the module."""

    def __init__(
        self, *, templates_max: int = TEMPLATES_MAX, memory_kib: int = MEMORY_KIB, idle_ms: int = IDLE_MS
    ) -> None:
        self.templates: dict[TemplateSpec, Template] = {}
        self.known: dict[TemplateSpec, Known] = {}
        self._budget = Budget(count=templates_max, memory_kib=memory_kib)
        self._idle_ms = idle_ms
        self._is_settled = True

    # -------------------------------------------------------------------------------------------- starting

    def want(self, spec: TemplateSpec, container_id: str, now_ms: int) -> Answer:
        """A container is to be started from `spec`."""
        template = self.templates.get(spec)
        known = self._know(spec)
        self.known[spec] = msgspec.structs.replace(known, uses=known.uses.used(now_ms))
        if template is None:
            template = self.templates[spec] = Template(spec=spec)
        template.used_at_ms = now_ms
        adopts = template.has_process and not template.cause
        if template.warmth is Warmth.OPEN:
            template.live.add(container_id)
            template.cause = template.cause or container_id
            return Answer(run=True, adopt=adopts)
        if template.warmth is Warmth.BROKEN and now_ms < known.retry_at_ms:
            return Answer(failure=template.failure)
        template.waiting.append(container_id)
        if template.warmth is not Warmth.OPENING:
            close = self.over_budget(now_ms, incoming=1)
            self._open(template, container_id, now_ms)
            return Answer(open=True, close=tuple(one.spec for one in close))
        template.cause = template.cause or container_id
        return Answer(adopt=adopts)

    def opened(self, spec: TemplateSpec, now_ms: int, kib: int = 0) -> list[str]:
        """It is warm, with so much memory: the containers that are to be started from it now, the first one first."""
        template = self._opening(spec)
        if template is None:
            return []
        self.known[spec] = msgspec.structs.replace(
            self._know(spec),
            cost_ms=float(now_ms - template.opening_at_ms),
            size_kib=kib,
            was_open=True,
            has_died=False,
            is_asked=False,
            failures=0,
            retry_at_ms=0,
        )
        template.warmth, template.used_at_ms = Warmth.OPEN, now_ms
        waiting, template.waiting = template.waiting, []
        template.live.update(waiting)
        self._is_settled = False
        return waiting

    def broken(self, spec: TemplateSpec, failure: bytes, now_ms: int) -> list[str]:
        """It cannot be made: the containers that fail with it."""
        template = self._opening(spec)
        if template is None:
            return []
        known = self._know(spec)
        self.known[spec] = msgspec.structs.replace(
            known,
            retry_at_ms=now_ms + _pause_ms(known.failures),
            failures=known.failures + 1,
            has_died=known.was_open,
        )
        template.warmth, template.failure, template.used_at_ms = Warmth.BROKEN, failure, now_ms
        waiting, template.waiting = template.waiting, []
        self._prune()
        self._is_settled = False
        return waiting

    def _opening(self, spec: TemplateSpec) -> Template | None:
        """None when it was given up meanwhile."""
        template = self.templates.get(spec)
        return template if template is not None and template.warmth is Warmth.OPENING else None

    def _open(self, template: Template, cause: str, now_ms: int) -> None:
        template.warmth, template.cause, template.opening_at_ms = Warmth.OPENING, cause, now_ms

    # -------------------------------------------------------------------------------------------- ending

    def lost(
        self, spec: TemplateSpec, container_id: str, now_ms: int, *, is_outdated: bool = False
    ) -> list[TemplateSpec]:
        """It had died when a container was to be started from it, or lives and is of no use (`is_outdated`): then it is
        to be closed, unless a new one is on its way already. Its containers go on."""
        template = self.templates.get(spec)
        if template is None:
            return []
        template.live.discard(container_id)
        if not is_outdated:
            self.died(spec, now_ms)
        elif template.warmth is Warmth.OPEN:
            template.warmth = Warmth.COLD
            self._is_settled = False
            return [spec]
        return []

    def died(self, spec: TemplateSpec, now_ms: int) -> None:
        """Its process has ended, and not because it was closed. Its containers go on."""
        template = self.templates.get(spec)
        if template is None or template.warmth is not Warmth.OPEN:
            return
        template.warmth = Warmth.COLD
        known = self._know(spec)
        self.known[spec] = msgspec.structs.replace(
            known, has_died=True, deaths=known.deaths + 1, retry_at_ms=now_ms + _pause_ms(known.deaths)
        )
        self._is_settled = False

    def ended(self, spec: TemplateSpec, container_id: str, now_ms: int) -> None:
        """A container that was started from it is gone."""
        template = self.templates.get(spec)
        if template is not None and container_id in template.live:
            template.live.discard(container_id)
            template.used_at_ms = now_ms
            self.known[spec] = msgspec.structs.replace(self._know(spec), deaths=0)
            if not template.live:
                self._is_settled = False

    def give_up(self, spec: TemplateSpec, container_id: str) -> list[TemplateSpec]:
        """A container waits no longer; its template is to be closed where nobody else does.

        An import that nobody waits for may never end.
        """
        template = self.templates[spec]
        template.waiting.remove(container_id)
        if template.waiting or template.warmth is not Warmth.OPENING:
            return []
        del self.templates[spec]
        self._is_settled = False
        return [spec]

    def too_idle(self, now_ms: int) -> list[TemplateSpec]:
        """Those that were idle for too long, or load too long: they are forgotten, and to be closed."""
        idle = [t for t in self.templates.values() if self._ages(t) and now_ms - t.used_at_ms >= self._idle_ms]
        late = [t for t in self.templates.values() if t.ahead_until_ms is not None and now_ms >= t.ahead_until_ms]
        for template in late:
            known = self._know(template.spec)
            self.known[template.spec] = msgspec.structs.replace(known, failures=known.failures + 1, is_asked=False)
        self._is_settled = False  # also: what broke may be tried again by now
        return self._forget(idle + late)

    def _ages(self, template: Template) -> bool:
        return template.is_idle and not self._know(template.spec).is_kept

    def deadlines(self, now_ms: int) -> Iterator[int]:
        """When each idle one has been so for too long, and when one that broke may be made again ahead of need."""
        for template in self.templates.values():
            if self._ages(template):
                yield template.used_at_ms + self._idle_ms
            elif template.ahead_until_ms is not None:
                yield template.ahead_until_ms
        yield from (
            one.retry_at_ms for one in self._absent() if now_ms < one.retry_at_ms and choice.reason(one, now_ms)
        )

    def images(self) -> set[str]:
        """What templates are made from."""
        return {template.spec.image_id for template in self.templates.values()}

    def forget_idle(self, image_id: str) -> list[TemplateSpec]:
        """Those of an image that nobody would miss: they are forgotten, and to be closed."""
        for spec in [spec for spec in self.known if spec.image_id == image_id and spec not in self.templates]:
            del self.known[spec]
        return self._forget([t for t in self.templates.values() if t.spec.image_id == image_id and t.is_idle])

    def clear(self) -> list[TemplateSpec]:
        """Forget all: those that are to be closed."""
        return self._forget(list(self.templates.values()))

    # -------------------------------------------------------------------------------------------- choosing

    def over_budget(self, now_ms: int, *, incoming: int = 0) -> tuple[Choice, ...]:
        """Those that go for the others' sake: they are forgotten, and to be closed."""
        present = [one for one in self.templates.values() if one.has_process]
        idle = [self._know(one.spec) for one in present if one.is_idle]
        busy = [self._know(one.spec) for one in present if not one.is_idle]
        going = choice.evictions(idle, busy, self._budget, now_ms, incoming=incoming)
        self._forget([self.templates[one.spec] for one in going])
        return going

    def ask(self, spec: TemplateSpec, *, keep: bool) -> None:
        """Make it ahead of need; and again whenever it is gone, where it is to be kept."""
        template = self.templates.get(spec)
        known = self._know(spec)
        is_there = template is not None and template.has_process
        self.known[spec] = msgspec.structs.replace(
            known, is_asked=not is_there, is_kept=keep or known.is_kept, failures=0, deaths=0, retry_at_ms=0
        )
        self._is_settled = False

    def withdraw(self, spec: TemplateSpec) -> list[TemplateSpec]:
        """Nobody asks for it any more: it is to be closed where it was being made for that only."""
        known = self.known.get(spec)
        if known is not None:
            self.known[spec] = msgspec.structs.replace(known, is_asked=False, is_kept=False)
        template = self._opening(spec)
        if template is None or template.waiting:
            return []
        del self.templates[spec]
        self._is_settled = False
        return [spec]

    def settle(self, now_ms: int) -> tuple[tuple[Choice, ...], Choice | None]:
        """(those that are to be closed for the others' sake, one that is to be opened ahead of need)."""
        if self._is_settled:
            return (), None
        self._is_settled = True
        return self.over_budget(now_ms), self.refill(now_ms)

    def refill(self, now_ms: int) -> Choice | None:
        """The one to open now ahead of need. None also while another opens: those that are waited for come first."""
        if any(one.warmth is Warmth.OPENING for one in self.templates.values()):
            return None
        present = [self._know(one.spec) for one in self.templates.values() if one.has_process]
        found = choice.refill(self._absent(), present, self._budget, now_ms)
        if found is not None:
            template = self.templates.setdefault(found.spec, Template(spec=found.spec))
            template.used_at_ms = now_ms
            self._open(template, "", now_ms)
        return found

    def _absent(self) -> list[Known]:
        return [one for one in self.known.values() if not (t := self.templates.get(one.spec)) or not t.has_process]

    def _know(self, spec: TemplateSpec) -> Known:
        known = self.known.get(spec)
        if known is None:
            known = self.known[spec] = Known(spec=spec)
            self._prune()
        return known

    def _prune(self) -> None:
        """Bound what is remembered of templates without a process."""
        if len(self.known) > KNOWN_MAX:
            for one in sorted(self._absent(), key=lambda one: (one.is_kept, one.uses.at_ms))[: KNOWN_MAX // 4]:
                if one.spec not in self.templates:
                    del self.known[one.spec]
        gone = [one for one in self.templates.values() if one.is_idle and not one.has_process]
        for template in sorted(gone, key=lambda one: one.used_at_ms)[: max(len(gone) - self._budget.count, 0)]:
            del self.templates[template.spec]

    def _forget(self, templates: list[Template]) -> list[TemplateSpec]:
        for template in templates:
            del self.templates[template.spec]
            known = self.known.get(template.spec)
            if known is not None:
                self.known[template.spec] = msgspec.structs.replace(known, has_died=False)
        return [t.spec for t in templates if t.has_process]


def _pause_ms(times: int) -> int:
    """Before it is tried again, when it went wrong so often before."""
    return min(RETRY_MS << min(times, 16), RETRY_MS_MAX)
