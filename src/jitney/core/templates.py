"""Which warm templates are worth their memory, and which are made ahead of need.

A template saves the time that it takes to make it, each time that a container is started from it. So it is worth, for a
kibibyte, its cost times the likelihood of a start, and when memory is short the least valuable goes: a large one that
is made in a blink before a small one that takes ten seconds, however long ago either was used. Likelihood is a rate of
uses in which old ones count less (half after `HALF_LIFE_MS`): frequency and recency in one number.

Made ahead are those that somebody asked for (an app was published), those of functions that keep containers, and those
that were used lately and died. Never at the cost of one that is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from jitney.values.containers import Launch, TemplateSpec

HALF_LIFE_MS = 600_000
LIKELY_MIN = 0.5  # one use, a half-life ago: a template that died is made again
FAILURES_MAX = 3  # of one that used to work; then it is made when a container wants it


class Uses(msgspec.Struct, frozen=True):
    """How often something is used, as of a time.

    >>> Uses().used(0).used(0).likelihood(HALF_LIFE_MS)
    1.0
    """

    rate: float = 0.0
    at_ms: int = 0

    def likelihood(self, now_ms: int) -> float:
        """What is left of the uses until now."""
        return self.rate * math.exp2(-max(now_ms - self.at_ms, 0) / HALF_LIFE_MS)

    def used(self, now_ms: int) -> Uses:
        """With one use more."""
        return Uses(self.likelihood(now_ms) + 1.0, max(now_ms, self.at_ms))


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a template, whether it is there or not."""

    spec: TemplateSpec
    uses: Uses = Uses()
    cost_ms: float = 0.0  # of making it, as last measured
    size_kib: int = 0  # its own memory, as last measured
    is_kept: bool = False  # a function that keeps containers has it
    is_asked: bool = False  # somebody wants it made ahead
    was_open: bool = False
    has_died: bool = False  # by itself, since it was open
    failures: int = 0  # to make it, in a row
    deaths: int = 0  # since a container that was started from it has ended
    retry_at_ms: int = 0

    def value(self, now_ms: int) -> float:
        """Milliseconds that a kibibyte saves."""
        return max(self.cost_ms, 1.0) * self.uses.likelihood(now_ms) / max(self.size_kib, 1)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What all templates together may be."""

    count: int
    memory_kib: int


class Choice(msgspec.Struct, frozen=True):
    """A template, and why it is the one."""

    spec: TemplateSpec
    why: str


def evictions(
    idle: Sequence[Known], busy: Sequence[Known], budget: Budget, now_ms: int, *, incoming: int = 0
) -> tuple[Choice, ...]:
    """The idle templates that go so that the rest, with `incoming` new ones of unknown size, is within the budget.

    The least valuable first; kept ones after all others. One template may always stay, however large it is.
    """
    count = len(idle) + len(busy) + incoming
    memory_kib = sum(one.size_kib for one in (*idle, *busy))
    going = []
    for one in sorted(idle, key=lambda one: (one.is_kept, one.value(now_ms), one.uses.at_ms)):
        if count <= 1 or (count <= budget.count and memory_kib <= budget.memory_kib):
            break
        if count > budget.count:
            limit = f"there may be {budget.count}"
        elif one.size_kib:
            limit = f"they have {memory_kib // 1024:,} MiB, and may have {budget.memory_kib // 1024:,}"
        else:
            continue  # nothing would be gained
        value = one.value(now_ms) * 1024
        going.append(Choice(one.spec, f"{limit}; it is worth least ({value:.3g} ms saved for a MiB)"))
        count -= 1
        memory_kib -= one.size_kib
    return tuple(going)


def refill(absent: Sequence[Known], present: Sequence[Known], budget: Budget, now_ms: int) -> Choice | None:
    """The template to make now, ahead of need; None where there is none, or no room for it."""
    count = len(present)
    memory_kib = sum(one.size_kib for one in present)
    if count >= budget.count:
        return None
    wanted = [
        (one, why)
        for one in absent
        if (why := reason(one, now_ms)) and one.retry_at_ms <= now_ms and memory_kib + one.size_kib <= budget.memory_kib
    ]
    if not wanted:
        return None
    best, why = max(wanted, key=lambda found: (found[0].is_kept, found[0].is_asked, found[0].value(now_ms)))
    return Choice(best.spec, why)


def reason(one: Known, now_ms: int) -> str:
    """Why a template that is not there should be made ahead of need; '' where it should not."""
    if one.failures + one.deaths >= FAILURES_MAX or (one.failures and not one.was_open):
        return ""
    if one.is_kept:
        return "its function keeps containers"
    if one.is_asked:
        return "its app was published"
    if one.has_died and one.uses.likelihood(now_ms) >= LIKELY_MIN:
        return "it has died, and was used lately"
    return ""


def is_outdated(versions: Mapping[str, int], launch: Launch) -> bool:
    """Whether a memory snapshot is of an older version of a volume than the container will read.

    Only volumes that the function mounts read-only count: of one that it may write to, each commit of its own would
    throw the snapshot away.

    Args:
        versions: those that the snapshot was made from, by path.
        launch: with its volumes laid out.
    """
    return any(
        declared.read_only and laid_out.version > versions.get(declared.path, laid_out.version)
        for declared, laid_out in zip(launch.volumes, launch.mounts, strict=False)
    )
