"""Both tables: every pair is allowed, ignored or a bug; every phase is reachable and ends."""

from __future__ import annotations

import pytest

from jitney.core.lifecycle import call, container
from jitney.core.lifecycle.container import InvalidTransition
from jitney.values.containers import Phase as ContainerPhase

MACHINES = [
    pytest.param(container, ContainerPhase, ContainerPhase.STARTING, id="container"),
    pytest.param(call, call.Phase, call.Phase.QUEUED, id="input"),
]


@pytest.mark.parametrize("machine, phases, first", MACHINES)
def test_no_pair_is_both_allowed_and_ignored(machine, phases, first):
    assert not set(machine.TRANSITIONS) & machine.IGNORED


@pytest.mark.parametrize("machine, phases, first", MACHINES)
def test_every_phase_is_reachable_and_reaches_an_end(machine, phases, first):
    step = {phase: {to for (frm, _), to in machine.TRANSITIONS.items() if frm is phase} for phase in phases}

    def reach(phase):
        seen, todo = set(), [phase]
        while todo:
            now = todo.pop()
            if now not in seen:
                seen.add(now)
                todo += step[now]
        return seen

    assert reach(first) == set(phases)
    for phase in phases:
        assert reach(phase) & machine.FINAL, f"{phase} never ends"


@pytest.mark.parametrize("machine, phases, first", MACHINES)
def test_a_pair_in_neither_table_is_a_bug(machine, phases, first):
    listed = set(machine.TRANSITIONS) | machine.IGNORED
    for phase in phases:
        for event in machine.Event:
            if (phase, event) in listed:
                machine.advance(phase, event)
            else:
                with pytest.raises(InvalidTransition):
                    machine.advance(phase, event)


def test_the_pairs_that_are_bugs():
    """A reviewed snapshot: a change here is a change of what can happen."""
    bugs = {
        f"{phase}+{event}"
        for phase in call.Phase
        for event in call.Event
        if (phase, event) not in call.TRANSITIONS and (phase, event) not in call.IGNORED
    }
    assert bugs == {
        "queued+give_back",
        "queued+postpone",
        "queued+due",
        "leased+lease",
        "leased+due",
        "waiting+lease",
        "waiting+give_back",
        "waiting+postpone",
        "waiting+succeed",
        "done+lease",
        "done+give_back",
        "done+postpone",
        "done+succeed",
    }
    assert {
        f"{phase}+{event}"
        for phase in ContainerPhase
        for event in container.Event
        if (phase, event) not in container.TRANSITIONS and (phase, event) not in container.IGNORED
    } == set()
