"""Which runtime a worker has: what this machine can do, strictest first, and what was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
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


def survey(wanted: Collection[Isolation] = tuple(Isolation)) -> tuple[Tier, ...]:
    """Every tier that is wanted, strictest first. Tries what has to be tried: some hundred milliseconds for all."""
    return tuple(_PROBES[one](one) for one in sorted(wanted, key=lambda one: -one.strength))


def own() -> tuple[Tier, ...]:
    """Those that the platform makes by itself."""
    return survey((Isolation.NAMESPACES, Isolation.PROCESS))


def choose(asked: str, tiers: Callable[[], tuple[Tier, ...]] = own) -> str:
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


def builds_behind_walls(runtime: str, tiers: Callable[[], tuple[Tier, ...]] = own) -> bool:
    """Whether steps of image builds run behind our own walls: always but for plain processes, where there can be any.

    Containers of an engine, or of gVisor, are no place to build in; but what they keep out must not run on the machine
    as it is built.
    """
    if runtime in (Isolation.PROCESS, Isolation.NAMESPACES):
        return runtime == Isolation.NAMESPACES  # which fails where there can be none, and is not quietly less
    return any(tier.isolation is Isolation.NAMESPACES and not tier.why for tier in tiers())


def why_network_is_the_engines(wanted: str, *, has_own: bool) -> str:
    """Why containers of an engine have its own network; '' where they have ours, or there is no engine to ask.

    `wanted`: the worker's setting; `has_own`: whether this worker can make networks.
    """
    from jitney.drivers.runtime.oci import render, where

    found = where.find(os.environ, uid=os.getuid())
    is_rootless = not found.why and not where.is_roots(found.path)
    return render.why_the_engines(wanted, render.Engine(is_rootless=is_rootless), has_own=has_own)


def _namespaces(isolation: Isolation) -> Tier:
    from jitney.drivers.walls.probe import probe

    found: Finding = probe()
    return Tier(isolation=isolation, why=found.why, remedy=found.remedy)


def _process(isolation: Isolation) -> Tier:
    return Tier(isolation=isolation)


def _oci(isolation: Isolation) -> Tier:
    from jitney.drivers.runtime.oci import where

    found = where.find(os.environ, uid=os.getuid())
    return Tier(isolation=isolation, why=found.why, remedy=found.remedy)


def _gvisor(isolation: Isolation) -> Tier:
    from jitney.drivers.runtime.gvisor.probe import probe

    found = probe()
    return Tier(isolation=isolation, why=found.why, remedy=found.remedy)


_PROBES: dict[Isolation, Callable[[Isolation], Tier]] = {
    Isolation.GVISOR: _gvisor,
    Isolation.NAMESPACES: _namespaces,
    Isolation.OCI: _oci,
    Isolation.PROCESS: _process,
}
