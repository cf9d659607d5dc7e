"""The life of an input. A call is done when each of its inputs is.

    queued ──lease──▶ leased ──succeed / fail──▶ done
      ▲  ▲              │ │
      │  └── give_back ─┘ └─ postpone ─▶ waiting ──due──▶ queued

`LEASE` hands the input to a container with a token that is never used again; `GIVE_BACK` takes it from one that did not
get to it or that is gone; `POSTPONE` is a retry with a delay. `DONE` is final: the first accepted result wins, and the
fence (the token) keeps later ones out, so no `SUCCEED` is ever seen in `DONE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from jitney.core.lifecycle.container import InvalidTransition


class Phase(StrEnum):
    """Where an input is."""

    QUEUED = "queued"
    LEASED = "leased"
    WAITING = "waiting"
    DONE = "done"


class Event(StrEnum):
    """What can happen to an input."""

    LEASE = "lease"
    GIVE_BACK = "give_back"
    POSTPONE = "postpone"
    DUE = "due"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


P, E = Phase, Event
TRANSITIONS: Mapping[tuple[Phase, Event], Phase] = {
    (P.QUEUED, E.LEASE): P.LEASED,
    (P.QUEUED, E.FAIL): P.DONE,  # the pool cannot start containers, or the app has stopped
    (P.QUEUED, E.CANCEL): P.DONE,
    (P.QUEUED, E.SUCCEED): P.DONE,  # a container that outlived the server's last run had it
    (P.LEASED, E.GIVE_BACK): P.QUEUED,
    (P.LEASED, E.POSTPONE): P.WAITING,
    (P.LEASED, E.SUCCEED): P.DONE,
    (P.LEASED, E.FAIL): P.DONE,
    (P.LEASED, E.CANCEL): P.DONE,
    (P.WAITING, E.DUE): P.QUEUED,
    (P.WAITING, E.FAIL): P.DONE,
    (P.WAITING, E.CANCEL): P.DONE,
}
FINAL = frozenset({P.DONE})
IGNORED: frozenset[tuple[Phase, Event]] = frozenset({(P.DONE, E.CANCEL), (P.DONE, E.DUE), (P.DONE, E.FAIL)})


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`.

    Raises:
        InvalidTransition: the pair is in neither table.
    """
    if (phase, event) in IGNORED:
        return phase
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise InvalidTransition(f"a {phase} input cannot see {event}") from None
