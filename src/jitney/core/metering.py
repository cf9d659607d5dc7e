"""What containers did, in sums: for the closing line of a run."""

from __future__ import annotations

from collections.abc import Sequence

from jitney.values.apps import RunSummary
from jitney.values.containers import ContainerRecord


def summarize(
    containers: Sequence[ContainerRecord], *, now_ms: int, started_at_ms: int, inputs: int, failed: int
) -> RunSummary:
    """Sums over containers. Idle is the time between ready and end in which a container worked on nothing."""
    busy_ms = idle_ms = cold_starts = 0
    for record in containers:
        busy_ms += record.busy_ms
        if record.ready_at_ms is not None:
            cold_starts += 1
            ended_at_ms = now_ms if record.ended_at_ms is None else record.ended_at_ms
            idle_ms += max(0, ended_at_ms - record.ready_at_ms - record.busy_ms)
    return RunSummary(
        inputs=inputs,
        failed=failed,
        containers=len(containers),
        cold_starts=cold_starts,
        wall_ms=now_ms - started_at_ms,
        busy_ms=busy_ms,
        idle_ms=idle_ms,
    )
