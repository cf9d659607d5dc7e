"""What a probe is: one attempt, what came of it, and what is expected of each tier."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from jitney.testing.probes.targets import Targets

TIERS = ("process", "oci", "namespaces", "gvisor")  # the values of `Isolation`, which containers may not have

FAMILIES = (
    "archives",
    "devices",
    "files",
    "kernel",
    "mounts",
    "network",
    "privileges",
    "processes",
    "procfs",
    "resources",
    "sockets",
)


class Verdict(StrEnum):
    """What came of an attempt."""

    DENIED = "denied"
    ALLOWED = "allowed"
    LIMITED = "limited"  # went on up to a limit that is the container's own
    SKIPPED = "skipped"  # not tried, or it says nothing here


class Outcome(NamedTuple):
    """A verdict and what was seen."""

    verdict: Verdict
    detail: str = ""


Run = Callable[[Targets], Outcome]


class Probe(NamedTuple):
    """`tries` is what it attempts. `expected`: tier -> the verdicts that are as promised."""

    name: str  # family.name
    tries: str
    run: Run
    expected: dict[str, frozenset[Verdict]]
    needs: tuple[str, ...] = ()  # fields of Targets, without which there is nothing to try
    limit: str = ""  # would exhaust the machine: is run only where this is limited (see Targets.limits)


DENIED, ALLOWED, LIMITED = frozenset({Verdict.DENIED}), frozenset({Verdict.ALLOWED}), frozenset({Verdict.LIMITED})
SKIPPED = frozenset({Verdict.SKIPPED})
# As it may be: the rights of the user who runs it, or an engine's settings, decide; or it is a sandbox's own kernel
# that is asked, which has nothing of the machine to give; or process 1, which for forks of a box is one of them.
ANY = frozenset(Verdict)
HELD = DENIED | LIMITED

_registered: dict[str, Probe] = {}


def probe(
    *,
    process: frozenset[Verdict] = ANY,
    oci: frozenset[Verdict] = DENIED,
    namespaces: frozenset[Verdict] = DENIED,
    gvisor: frozenset[Verdict] = DENIED,
    needs: tuple[str, ...] = (),
    limit: str = "",
) -> Callable[[Run], Run]:
    """Make a probe of a function whose docstring says what it tries."""

    def register(run: Run) -> Run:
        name = f"{run.__module__.rpartition('.')[2]}.{run.__name__}"
        expected = {"process": process, "oci": oci, "namespaces": namespaces, "gvisor": gvisor}
        tries = " ".join((run.__doc__ or "").split())
        _registered[name] = Probe(name, tries, run, expected, needs, limit)
        return run

    return register


@functools.lru_cache(maxsize=1)
def all_probes() -> tuple[Probe, ...]:
    """Every probe, by family and in the order of the files."""
    for family in FAMILIES:
        importlib.import_module(f"jitney.testing.probes.{family}")
    return tuple(sorted(_registered.values(), key=lambda one: FAMILIES.index(one.name.partition(".")[0])))


def denied(detail: str = "") -> Outcome:
    """It was refused."""
    return Outcome(Verdict.DENIED, detail)


def allowed(detail: str = "") -> Outcome:
    """It worked."""
    return Outcome(Verdict.ALLOWED, detail)


def limited(detail: str = "") -> Outcome:
    """It worked up to a limit."""
    return Outcome(Verdict.LIMITED, detail)


def skipped(detail: str = "") -> Outcome:
    """It was not tried."""
    return Outcome(Verdict.SKIPPED, detail)
