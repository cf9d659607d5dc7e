"""Commands in containers, as the worker's state machine and its outbox see them."""

from __future__ import annotations

import pytest

from jitney.ports.runtime import ContainerHandle
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.exec import CHUNK_BYTES_MAX, ExecSpec
from jitney.wire.messages import workers
from jitney.worker import events
from jitney.worker.outbox import BATCH_BYTES_MAX, Outbox
from jitney.worker.state import WorkerState

SPEC = TemplateSpec(image_id="im-a")
HANDLE = ContainerHandle(container_id="c1", pid=7)


def opening(container_id: str = "c1") -> workers.OpenExec:
    return workers.OpenExec(exec_id="ex-1", container_id=container_id, spec=ExecSpec(argv=("ls",)))


@pytest.fixture
def state() -> WorkerState:
    """c1 runs, and c2 waits for its template."""
    state = WorkerState()
    for name, spec in (("c1", SPEC), ("c2", TemplateSpec(image_id="im-b"))):
        launch = Launch(container_id=name, function_id="fu-1", app_id="ap-1", token="t", template=spec, config={})
        state.handle(workers.StartContainer(launch=launch), 0)
    state.handle(events.TemplateOpened(SPEC), 1)
    state.handle(events.ContainerUp(HANDLE), 2)
    return state


def test_a_command_goes_to_the_container_that_runs(state):
    assert state.handle(opening(), 3) == [events.Interact(opening(), HANDLE, "im-a")]
    feed = workers.FeedExec(exec_id="ex-1", data=b"x")
    assert state.handle(feed, 4) == [events.Interact(feed)]


def test_a_container_that_starts_at_this_moment_is_waited_for(state):
    assert state.handle(opening("c2"), 3) == [events.Interact(opening("c2"), None, "im-b")]


def test_a_container_that_is_not_here_takes_none(state):
    [sent] = state.handle(opening("c3"), 3)
    assert (sent.report.exec_id, sent.report.code) == ("ex-1", "not_found")
    assert sent.report.reason == "container c3 has ended"


def test_commands_end_with_the_link(state):
    assert events.EndCommands() not in state.handle(events.LinkLost(), 3)
    state.handle(events.LinkRestored(), 4)
    state.handle(opening(), 5)
    assert events.EndCommands() in state.handle(events.LinkLost(), 6)
    state.handle(events.LinkRestored(), 7)
    assert events.EndCommands() not in state.handle(events.LinkLost(), 8)


def test_only_containers_that_run_are_measured(state):
    for names in ((), ("c1", "c2", "c3")):
        asked = workers.StatsContainers(request_id="1", container_ids=names)
        assert state.handle(asked, 3) == [events.Measure("1", (HANDLE,))]


def test_output_of_commands_leaves_in_batches_that_fit_a_frame():
    outbox, count = Outbox(), 3 * BATCH_BYTES_MAX // CHUNK_BYTES_MAX
    for seq in range(count):
        outbox.add(workers.ExecOutput(exec_id="ex-1", seq=seq, fd=1, data=bytes(CHUNK_BYTES_MAX)))
    seqs = []
    while batch := outbox.take():
        assert sum(len(report.data) for report in batch) <= BATCH_BYTES_MAX
        seqs += [report.seq for report in batch]
        outbox.acknowledged()
    assert seqs == list(range(count))
