"""The life of a container. Everything that changes a container's phase is in this file.

    starting ──spawned──▶ booting ──ready──▶ ready ──drain──▶ draining ──exited──▶ stopped
        │                    │                 │
        └────────── exited / start_timeout / lost ──────────▶ failed

Who sends what: the worker `SPAWNED` (the process lives) and `EXITED`; the runner, over its own link, `READY`; the
server `DRAIN` (scale-in, deploy, `container stop`), `START_TIMEOUT` and `LOST` (nothing heard for the lease). Two links
mean two orders: `READY` may come before `SPAWNED`. Reports may come twice and late; those pairs are listed in
`IGNORED`. Any other pair is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from jitney.values.containers import Phase


class Event(StrEnum):
    """What can happen to a container."""

    SPAWNED = "spawned"
    READY = "ready"
    DRAIN = "drain"
    EXITED = "exited"
    START_TIMEOUT = "start_timeout"
    LOST = "lost"


class InvalidTransition(Exception):
    """A pair that no table lists: a bug, never an operating error."""


P, E = Phase, Event
TRANSITIONS: Mapping[tuple[Phase, Event], Phase] = {
    (P.STARTING, E.SPAWNED): P.BOOTING,
    (P.STARTING, E.READY): P.READY,
    (P.STARTING, E.DRAIN): P.DRAINING,
    (P.STARTING, E.EXITED): P.FAILED,
    (P.STARTING, E.START_TIMEOUT): P.FAILED,
    (P.STARTING, E.LOST): P.FAILED,
    (P.BOOTING, E.READY): P.READY,
    (P.BOOTING, E.DRAIN): P.DRAINING,
    (P.BOOTING, E.EXITED): P.FAILED,
    (P.BOOTING, E.START_TIMEOUT): P.FAILED,
    (P.BOOTING, E.LOST): P.FAILED,
    (P.READY, E.DRAIN): P.DRAINING,
    (P.READY, E.EXITED): P.FAILED,
    (P.READY, E.LOST): P.FAILED,
    (P.DRAINING, E.EXITED): P.STOPPED,
    (P.DRAINING, E.LOST): P.STOPPED,
}
FINAL = frozenset({P.STOPPED, P.FAILED})
IGNORED: frozenset[tuple[Phase, Event]] = frozenset(
    {(phase, event) for phase in FINAL for event in Event}
    | {
        (P.BOOTING, E.SPAWNED),
        (P.READY, E.SPAWNED),
        (P.READY, E.READY),
        (P.READY, E.START_TIMEOUT),
        (P.DRAINING, E.SPAWNED),
        (P.DRAINING, E.READY),
        (P.DRAINING, E.DRAIN),
        (P.DRAINING, E.START_TIMEOUT),
    }
)


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`.

    Raises:
        InvalidTransition: the pair is in neither table.

    >>> advance(Phase.STARTING, Event.SPAWNED)
    <Phase.BOOTING: 'booting'>
    """
    if (phase, event) in IGNORED:
        return phase
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise InvalidTransition(f"a {phase} container cannot see {event}") from None
