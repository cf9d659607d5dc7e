"""Where the time of a container's start went.

queued     the oldest input had waited so long when the container was asked for
image      until the image was at hand on its machine
template   until there was a warm process to fork (0: there was one). Of it, `import` is the user's module, and
           `snapshot` the @enter(snap=True) methods
fork       until the container's process existed
load       until its code was found and its instance made
enter      the @enter() methods
"""

from __future__ import annotations

from collections.abc import Mapping

PHASES = ("queued", "image", "template", "fork", "load", "enter")
PARTS = {"template": ("import", "snapshot")}
NAMES = frozenset(PHASES) | frozenset(part for parts in PARTS.values() for part in parts)
SLOW_MS = 1_000
SHOWN_MS_MIN = 1.0
PHASE_MS_MAX = 1e10  # what a runner says is a tenant's word


def join(known: Mapping[str, float], reported: Mapping[str, object]) -> dict[str, float]:
    """What is known with what was reported now, by the order of `PHASES`. Unknown names and odd values are left out."""
    sane = {
        name: float(value)
        for name, value in reported.items()
        if name in NAMES and isinstance(value, int | float) and 0 <= value <= PHASE_MS_MAX
    }
    both = {**known, **sane}
    order = [name for phase in PHASES for name in (phase, *PARTS.get(phase, ()))]
    return {name: both[name] for name in order if name in both}


def is_complete(phases: Mapping[str, float]) -> bool:
    """Whether both the worker and the container have told theirs."""
    return "fork" in phases and "load" in phases


def total_ms(phases: Mapping[str, float]) -> float:
    """Of a start, from the moment at which the container was asked for.

    >>> total_ms({"queued": 900.0, "template": 30.0, "import": 20.0, "fork": 2.0})
    32.0
    """
    return sum(phases.get(name, 0.0) for name in PHASES[1:])


def largest(phases: Mapping[str, float]) -> str:
    """The phase that took longest: of one in parts, the part that is more than half of it.

    >>> largest({"queued": 5000.0, "template": 30.0, "import": 20.0, "fork": 2.0})
    'import'
    """
    name = max(PHASES[1:], key=lambda name: phases.get(name, 0.0))
    return next((part for part in PARTS.get(name, ()) if phases.get(part, 0.0) * 2 > phases.get(name, 0.0)), name)


def describe(phases: Mapping[str, float]) -> str:
    """For people: what took a millisecond or more.

    >>> describe({"queued": 0.0, "template": 1250.0, "import": 1200.0, "snapshot": 0.2, "fork": 3.0, "load": 0.4})
    'template 1.2 s (import 1.2 s), fork 3 ms'
    """
    shown = []
    for name in PHASES:
        value = phases.get(name, 0.0)
        if value < SHOWN_MS_MIN:
            continue
        parts = [f"{part} {_span(phases[part])}" for part in PARTS.get(name, ()) if phases.get(part, 0) >= SHOWN_MS_MIN]
        shown.append(f"{name} {_span(value)}" + (f" ({', '.join(parts)})" if parts else ""))
    return ", ".join(shown)


def so_far(phases: Mapping[str, float], elapsed_ms: float) -> str:
    """`describe` of a start that goes on since `elapsed_ms`: what no phase accounts for yet is the one it is in.

    >>> so_far({"queued": 0.0}, 1200.0)
    'template 1.2 s'
    >>> so_far({"template": 1200.0, "import": 1100.0, "fork": 3.0}, 5203.0)
    'template 1.2 s (import 1.1 s), fork 3 ms, enter 4.0 s'
    """
    current = "enter" if "fork" in phases else "template"
    return describe({**phases, current: max(elapsed_ms - total_ms(phases), 0.0)})


def slow_start(name: str, phases: Mapping[str, float]) -> str:
    """A line about a start of `name` that was slow; '' for one that was not.

    >>> slow_start("embed", {"template": 2100.0, "import": 1900.0, "fork": 3.0})
    'a start of embed took 2.1 s, most of it import: template 2.1 s (import 1.9 s), fork 3 ms'
    """
    total = total_ms(phases)
    if total < SLOW_MS:
        return ""
    return f"a start of {name} took {_span(total)}, most of it {largest(phases)}: {describe(phases)}"


def _span(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 999.5 else f"{ms / 1000:.1f} s"
