"""Which runtime a worker has: what this machine can do, strictest first, and what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from jitney.values.isolation import Isolation

if TYPE_CHECKING:
    from jitney.drivers.walls.probe import Finding

AUTO = "auto"


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """A tier on this machine. `why` it cannot be had; '' when it can."""

    isolation: Isolation
    why: str = ""
    remedy: str = ""


def survey() -> tuple[Tier, ...]:
    """Every tier, strictest first. Tries what has to be tried: some tens of milliseconds."""
    return tuple(_PROBES[one](one) for one in sorted(_PROBES, key=lambda one: -one.strength))


def choose(asked: str, tiers: Callable[[], tuple[Tier, ...]] = survey) -> str:
    """The name of the runtime driver: that which was asked for, or the strictest that this machine can do.

    An engine is never chosen by itself: it is somebody's to share, and slower to start with. Nor is gVisor, whose
    system calls cost fifty times as much: both have to be asked for.
    """
    if asked != AUTO:
        return asked
    for tier in tiers():
        if tier.isolation in (Isolation.NAMESPACES, Isolation.PROCESS) and not tier.why:
            return tier.isolation.value
    return Isolation.PROCESS.value


def _namespaces(isolation: Isolation) -> Tier:
    from jitney.drivers.walls.probe import probe

    found: Finding = probe()
    return Tier(isolation=isolation, why=found.why, remedy=found.remedy)


def _process(isolation: Isolation) -> Tier:
    return Tier(isolation=isolation)


def _missing(isolation: Isolation) -> Tier:
    return Tier(isolation=isolation, why="this version has no driver for it")


_PROBES: dict[Isolation, Callable[[Isolation], Tier]] = {
    Isolation.GVISOR: _missing,
    Isolation.NAMESPACES: _namespaces,
    Isolation.OCI: _missing,
    Isolation.PROCESS: _process,
}
