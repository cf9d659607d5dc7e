"""What containers did and used, in sums."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jitney.values.apps import RunSummary
from jitney.values.containers import ContainerRecord

NS_PER_S = 1_000_000_000
SAMPLE_GAP_MAX_NS = 10 * NS_PER_S


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


class MemoryTime(msgspec.Struct, frozen=True, kw_only=True):
    """Memory multiplied with time, summed over samples: between two of them, memory is taken to change evenly.

    Over a gap that is longer than samples are apart (a machine that slept), the lesser of both ends is taken: nothing
    is counted that nobody saw.
    """

    at_ns: int
    memory_bytes: int
    byte_ns: int = 0

    @property
    def byte_s(self) -> int:
        """In whole bytes times seconds."""
        return self.byte_ns // NS_PER_S

    def until(self, now_ns: int, memory_bytes: int) -> MemoryTime:
        """With one sample more. A clock that goes back counts nothing."""
        elapsed_ns = max(0, now_ns - self.at_ns)
        if elapsed_ns > SAMPLE_GAP_MAX_NS:
            mean = min(self.memory_bytes, memory_bytes)
        else:
            mean = (self.memory_bytes + memory_bytes) // 2
        return MemoryTime(
            at_ns=max(self.at_ns, now_ns), memory_bytes=memory_bytes, byte_ns=self.byte_ns + mean * elapsed_ns
        )
