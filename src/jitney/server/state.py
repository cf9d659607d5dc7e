"""The objects of the data plane: inputs, calls, containers, pools. They hold state; `router` and `fleet` change it.

Mutable and slotted, for they are the hot path: a map of a million inputs makes a million `Input`s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from jitney.core import routing
from jitney.core.admission import Load
from jitney.core.autoscale import PoolView
from jitney.core.fairqueue import FairQueue
from jitney.core.lifecycle import call as input_life
from jitney.core.retries import Failures
from jitney.runner.protocol import run_header
from jitney.values import ids
from jitney.values.calls import CallKind, CallRecord, Output
from jitney.values.containers import ContainerRecord, Exit, Phase
from jitney.values.functions import FunctionSpec

NO_FAILURES = Failures()


class Sink(Protocol):
    """Where the results of a call go: a client's link, or the store."""

    def outputs(self, call: Call, outputs: list[Output]) -> None:
        """Inputs of `call` have ended."""

    def items(self, call: Call, first: int, payloads: list[bytes]) -> None:
        """The generator of `call` yielded."""

    def failed(self, item: Input) -> None:
        """An attempt of `item` failed and it will run again."""


class Input:
    """One input of a call and where it is in its life."""

    __slots__ = ("attempt", "call", "failures", "index", "leased_at_ms", "payload", "phase", "queued_at_ms", "token")

    def __init__(self, call: Call, index: int, payload: bytes, queued_at_ms: int) -> None:
        self.call = call
        self.index = index
        self.payload = payload
        self.phase = input_life.Phase.QUEUED
        self.token = 0
        self.attempt = 0
        self.failures = NO_FAILURES
        self.queued_at_ms = queued_at_ms
        self.leased_at_ms = 0

    def move(self, event: input_life.Event) -> None:
        """Advance by the table."""
        self.phase = input_life.advance(self.phase, event)


class Call:
    """One call: its inputs that have not ended, and counts of those that have."""

    __slots__ = (
        "by_file",
        "cancelled",
        "created_at_ms",
        "ended_at_ms",
        "failed",
        "header",
        "id",
        "inputs",
        "inputs_complete",
        "kind",
        "method",
        "outstanding",
        "pool",
        "sink",
        "succeeded",
    )

    def __init__(
        self, call_id: str, pool: Pool, method: str, kind: CallKind, sink: Sink, now_ms: int, *, by_file: bool = False
    ) -> None:
        self.id = call_id
        self.by_file = by_file  # a container calls: large results go by files, as it sees no shared memory but its own
        self.pool = pool
        self.method = method
        self.kind = kind
        self.sink = sink
        self.header = run_header(call_id, method, kind.is_durable, by_file)
        self.outstanding: dict[int, Input] = {}
        self.inputs = 0
        self.inputs_complete = False
        self.succeeded = 0
        self.failed = 0
        self.cancelled = False
        self.created_at_ms = now_ms
        self.ended_at_ms: int | None = None

    @property
    def is_generator(self) -> bool:
        """Whether the called method yields."""
        method = self.pool.spec.method(self.method)
        return bool(method and method.is_generator)

    @property
    def is_over(self) -> bool:
        """Whether every input that there will be has ended."""
        return (self.inputs_complete or self.cancelled) and not self.outstanding

    def record(self) -> CallRecord:
        """The call as a value."""
        return CallRecord(
            call_id=self.id,
            function_id=self.pool.function_id,
            function_name=self.pool.spec.name,
            app_id=self.pool.app_id,
            method=self.method,
            kind=self.kind,
            created_at_ms=self.created_at_ms,
            ended_at_ms=self.ended_at_ms,
            inputs=self.inputs,
            inputs_complete=self.inputs_complete or self.cancelled,
            succeeded=self.succeeded,
            failed=self.failed,
            cancelled=self.cancelled,
        )


class RunnerPeer(Protocol):
    """The link to a container's runner."""

    def send(self, frame: bytes) -> None:
        """Queue a frame; a link that has broken drops it."""

    def close(self) -> None:
        """Hang up."""


class Container:
    """One container and the inputs that it holds, oldest first."""

    __slots__ = (
        "app_id",
        "busy_ns",
        "created_at_ms",
        "created_wall_ms",
        "ended_at_ms",
        "exit",
        "foreign",
        "head_since_ms",
        "id",
        "idle_since_ms",
        "inflight",
        "inputs_done",
        "link",
        "link_lost_at_ms",
        "node_id",
        "phase",
        "phases_ms",
        "pid",
        "pool",
        "ready_at_ms",
        "recalled",
        "start_note",
        "stop_reason",
    )

    def __init__(self, container_id: str, pool: Pool, app_id: str, node_id: str, now_ms: int) -> None:
        self.id = container_id
        self.pool = pool
        self.app_id = app_id
        self.node_id = node_id
        self.phase = Phase.STARTING
        self.link: RunnerPeer | None = None
        self.link_lost_at_ms: int | None = None
        self.inflight: dict[int, Input] = {}
        self.foreign: dict[int, tuple[str, int]] = {}  # token -> (call id, index): leased before a server restart
        self.head_since_ms = now_ms
        self.idle_since_ms = now_ms
        self.created_at_ms = now_ms
        self.created_wall_ms = 0
        self.ready_at_ms: int | None = None
        self.ended_at_ms: int | None = None
        self.inputs_done = 0
        self.busy_ns = 0
        self.pid: int | None = None
        self.exit: Exit | None = None
        self.recalled = False
        self.stop_reason = ""
        self.phases_ms: dict[str, float] = {}
        self.start_note = ""

    @property
    def takes_inputs(self) -> bool:
        """Whether inputs may be pushed to it now."""
        return self.phase is Phase.READY and self.link is not None

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing."""
        return not self.inflight and not self.foreign

    def record(self) -> ContainerRecord:
        """The container as a value."""
        return ContainerRecord(
            container_id=self.id,
            function_id=self.pool.function_id,
            function_name=self.pool.spec.name,
            app_id=self.app_id,
            node_id=self.node_id,
            phase=self.phase,
            created_at_ms=self.created_wall_ms,
            ready_at_ms=self._wall(self.ready_at_ms),
            ended_at_ms=self._wall(self.ended_at_ms),
            inputs_done=self.inputs_done,
            busy_ms=self.busy_ns // 1_000_000,
            pid=self.pid,
            exit=self.exit,
            phases_ms=self.phases_ms,
            start_note=self.start_note,
        )

    def _wall(self, at_ms: int | None) -> int | None:
        return None if at_ms is None else self.created_wall_ms + at_ms - self.created_at_ms


class Pool:
    """The containers of one function (or class with parameters, or variant) and the queue in front of them."""

    def __init__(
        self, function_id: str, app_id: str, spec: FunctionSpec, *, is_held: bool = False, secrets_of: str = ""
    ) -> None:
        self.secrets_of = secrets_of or app_id  # the app whose secrets without a name it may have
        self.is_held = is_held  # of one container that is there for a person: see server.held
        self.function_id = function_id
        self.app_id = app_id
        self.spec = spec
        self.scaling = spec.scaling  # live: update_autoscaler changes it
        self.queue: FairQueue[Input] = FairQueue()
        self.containers: dict[str, Container] = {}
        self.awaited: set[str] = set()  # containers that outlived the last server and have not said what they hold
        self.waiting = 0  # inputs that wait for their retry
        self.service_ns: float | None = None
        self.succeeded = 0
        self.failed = 0
        self.failed_starts = 0
        self.last_failure_at_ms = 0
        self.failure = b""  # of the last start that failed
        self.stopped = False
        self.why = ""  # of the last scaling decision

    @property
    def ready(self) -> list[Container]:
        """Containers that take inputs."""
        return [container for container in self.containers.values() if container.takes_inputs]

    @property
    def running(self) -> int:
        """Inputs that containers hold."""
        return sum(len(container.inflight) for container in self.containers.values())

    def capacity(self, containers: int) -> int:
        """How many inputs one of `containers` may hold now."""
        return routing.capacity(self.spec.max_inputs, self.service_ns, len(self.queue), containers)

    def load(self, queued_bytes: int) -> Load:
        """What admission sees."""
        return Load(len(self.queue) + self.waiting, self.running, queued_bytes)

    def view(self, now_ms: int) -> PoolView:
        """What the autoscaler sees."""
        phases = [container.phase for container in self.containers.values()]
        draining = phases.count(Phase.DRAINING)
        return PoolView(
            scaling=self.scaling,
            target_inputs=self.spec.target_inputs,
            queued=len(self.queue),
            running=sum(len(c.inflight) for c in self.containers.values() if c.phase is not Phase.DRAINING),
            draining=draining,
            starting=phases.count(Phase.STARTING) + phases.count(Phase.BOOTING),
            ready=phases.count(Phase.READY),
            service_ns=self._service_ns(now_ms),
            idle_for_ms=tuple(
                (container.id, now_ms - container.idle_since_ms)
                for container in self.containers.values()
                if container.phase is Phase.READY and container.is_idle
            ),
            failed_starts=self.failed_starts,
            last_failure_at_ms=self.last_failure_at_ms,
        )

    def _service_ns(self, now_ms: int) -> float | None:
        """The measured service time; longer, where half of the busy containers have been at it for longer already."""
        if self.service_ns is None:
            return None
        ages_ms = sorted(now_ms - one.head_since_ms for one in self.containers.values() if one.inflight)
        return max(self.service_ns, ages_ms[(len(ages_ms) - 1) // 2] * 1e6) if ages_ms else self.service_ns

    def input_states(self, call_id: str) -> Iterator[tuple[Input, str]]:
        """Inputs of a call that containers hold, with the container's id."""
        for container in self.containers.values():
            for item in container.inflight.values():
                if item.call.id == call_id:
                    yield item, container.id


def input_id(item: Input) -> str:
    """The id of an input."""
    return ids.input_id(item.call.id, item.index)
