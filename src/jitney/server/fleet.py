"""Containers and the nodes that they run on: starting, watching, draining, counting.

The fleet applies what core.autoscale and core.placement decide, and moves containers by core.lifecycle.container. It
speaks to workers by commands (`Node.send`) and hears of containers twice: from the worker (the process) and from the
runner's own link (ready, results). Either may come first, late, twice or never.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from jitney.core import autoscale, placement
from jitney.core.lifecycle import container as life
from jitney.core.lifecycle.container import Event
from jitney.runner import protocol
from jitney.server.router import Router, failure
from jitney.server.state import Container, Pool
from jitney.values import ids
from jitney.values.calls import Status
from jitney.values.containers import ContainerRecord, Exit, Launch, NodeInfo, Phase, TemplateSpec
from jitney.wire.messages import workers as wm

log = logging.getLogger("jitney.fleet")

SCALE_INTERVAL_S = 0.002  # a pool is looked at no more often
LINK_LOST_MS = 20_000  # a container whose link is gone this long, without an exit report, is lost
STOP_GRACE_MS = 30_000
ENDED_KEPT = 1_000  # ended containers kept in memory for lists


class Node:
    """A machine with a worker: what it has, and how to reach it."""

    def __init__(self, info: NodeInfo, send: Callable[[wm.WorkerCommand], None]) -> None:
        self.info = info
        self.send = send
        self.connected = True
        self.containers: dict[str, Container] = {}

    def view(self) -> placement.NodeView:
        """What placement sees."""
        wants = [container.pool.spec.resources for container in self.containers.values()]
        return placement.NodeView(
            node_id=self.info.node_id,
            cpu_milli=self.info.cpu_milli,
            memory_mib=self.info.memory_mib,
            used_cpu_milli=sum(placement.reserved_cpu_milli(want) for want in wants),
            used_memory_mib=sum(want.memory_mib for want in wants),
            connected=self.connected,
        )


class RunnerPaths(msgspec.Struct, frozen=True, kw_only=True):
    """What every runner is told of the machine it is on (part of Launch.config)."""

    runner_socket: str
    link_socket: str
    segments: str
    blobs: str
    home: str


class Fleet:
    """All nodes and containers of a server. Implements `router.Effects`."""

    def __init__(
        self,
        *,
        paths: RunnerPaths,
        container_token: Callable[[str], str],
        entropy: Callable[[int], bytes],
        wall_ms: Callable[[], int],
    ) -> None:
        self.router: Router
        self.nodes: dict[str, Node] = {}
        self.containers: dict[str, Container] = {}
        self.ended: deque[ContainerRecord] = deque(maxlen=ENDED_KEPT)
        self.on_ended: list[Callable[[Container], None]] = []
        self._paths = paths
        self._container_token = container_token
        self._entropy = entropy
        self._wall_ms = wall_ms
        self._loop = asyncio.get_running_loop()
        self._woken: dict[str, float] = {}
        self._node_attached = asyncio.Event()

    # ------------------------------------------------------------------------------------------- Effects

    def now_ms(self) -> int:
        """Monotonic milliseconds, of the loop's clock."""
        return int(self._loop.time() * 1000)

    def wall_ms(self) -> int:
        """Unix milliseconds."""
        return self._wall_ms()

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Run `action` after a delay."""
        self._loop.call_later(delay_ms / 1000, action)

    def wake(self, pool: Pool) -> None:
        """Scale the pool in this turn; a pool that was just scaled waits SCALE_INTERVAL_S."""
        now = self._loop.time()
        at = self._woken.get(pool.function_id, 0.0)
        if at > now:
            return  # a turn is planned already
        self._woken[pool.function_id] = due = max(at + SCALE_INTERVAL_S, now)
        if due > now:
            self._loop.call_at(due, self.scale, pool)
        else:
            self.scale(pool)

    def interrupt(self, container: Container) -> None:
        """SIGURG, by the worker."""
        self._command(container, wm.InterruptContainer(container_id=container.id))

    def kill(self, container: Container, reason: str) -> None:
        """SIGKILL, by the worker."""
        self.stop(container, reason, grace_ms=0)

    # ------------------------------------------------------------------------------------------- scaling

    def scale(self, pool: Pool) -> None:
        """Load, decide, apply: start or drain containers of one pool."""
        if pool.stopped:
            return
        now_ms = self.now_ms()
        decision = autoscale.decide(pool.view(now_ms), now_ms)
        if decision.why != pool.why and (decision.start or decision.drain):
            log.info("scale %s to %d: %s", pool.spec.name, decision.desired, decision.why)
        pool.why = decision.why
        for _ in range(decision.start):
            if not self._start_one(pool, now_ms):
                break
        for container_id in decision.drain:
            container = pool.containers.get(container_id)
            if container is not None:  # the end of one may have drained the next already
                self.drain(container, "idle for its scaledown window")

    def _start_one(self, pool: Pool, now_ms: int) -> bool:
        nodes = [node.view() for node in self.nodes.values()]
        placed = placement.place(pool.spec.resources, nodes)
        if isinstance(placed, placement.Unplaceable):
            if placed.never:
                body = failure(
                    Status.INIT_FAILURE, f"no machine can hold a container of {pool.spec.name}: {placed.describe()}"
                )
                self.router.fail_queued(pool, Status.INIT_FAILURE, body)
            pool.why = placed.describe()
            for container_id in placement.give_way(pool.spec.resources, nodes, self._idle(pool, now_ms)):
                self.drain(self.containers[container_id], f"it was idle, and {pool.spec.name} needs its place")
            return False
        node = self.nodes[placed.node_id]
        container = Container(
            ids.make(ids.CONTAINER, self._entropy(ids.ENTROPY_BYTES)), pool, pool.app_id, placed.node_id, now_ms
        )
        container.created_wall_ms = self._wall_ms()
        self._add(container, node)
        node.send(wm.StartContainer(launch=self.launch(container)))
        return True

    def _idle(self, wanting: Pool, now_ms: int) -> list[placement.Idle]:
        """Idle containers of other pools, beyond their min_containers."""
        found = []
        for pool in self.router.pools.values():
            if pool is wanting or pool.queue:
                continue
            free = [container for container in pool.ready if container.is_idle]
            for container in free[: max(0, len(pool.ready) - pool.scaling.min_containers)]:
                found.append(
                    placement.Idle(
                        container_id=container.id,
                        node_id=container.node_id,
                        resources=pool.spec.resources,
                        idle_ms=now_ms - container.idle_since_ms,
                    )
                )
        return found

    def _add(self, container: Container, node: Node) -> None:
        self.containers[container.id] = container
        container.pool.containers[container.id] = container
        node.containers[container.id] = container

    def launch(self, container: Container) -> Launch:
        """All that a worker needs to start the container."""
        spec = container.pool.spec
        token = self._container_token(container.id)
        config: dict[str, Any] = {
            **msgspec.to_builtins(self._paths),
            "container": container.id,
            "token": token,
            "function": spec.name,
            "function_id": container.pool.function_id,
            "app_id": container.app_id,
            "qualname": spec.qualname,
            "is_class": spec.is_class,
            "pickled": b64encode(spec.pickled).decode(),
            "parameters": b64encode(spec.parameters).decode(),
            "methods": msgspec.to_builtins(spec.methods),
            "max_inputs": spec.max_inputs,
            "concurrent": spec.concurrency is not None,
            "batched": spec.batching is not None,
            "single_use": spec.single_use,
        }
        template = TemplateSpec(
            image_id=spec.image_id, source_id=spec.source_id, module=spec.module, main_module=spec.main_module
        )
        return Launch(
            container_id=container.id,
            function_id=container.pool.function_id,
            app_id=container.app_id,
            token=token,
            template=template,
            config=config,
            env=spec.env,
            resources=spec.resources,
            startup_timeout_ms=spec.startup_timeout_ms,
        )

    def drain(self, container: Container, reason: str) -> None:
        """Let it finish what it runs and go; what it has not begun comes back."""
        if container.phase in (Phase.READY, Phase.BOOTING, Phase.STARTING):
            container.stop_reason = container.stop_reason or reason
            self._move(container, Event.DRAIN)
            if container.link is not None:
                container.link.send(protocol.pack_json(protocol.STOP, {"grace_ms": STOP_GRACE_MS}))
            else:
                self._command(container, wm.StopContainer(container_id=container.id, grace_ms=STOP_GRACE_MS))

    def stop(self, container: Container, reason: str, *, grace_ms: int) -> None:
        """End it: SIGTERM, and SIGKILL after the grace (0: at once). The exit report settles its inputs."""
        container.stop_reason = container.stop_reason or reason
        if container.phase not in life.FINAL:
            self._move(container, Event.DRAIN)
            self._command(container, wm.StopContainer(container_id=container.id, grace_ms=grace_ms))

    def stop_pool(self, pool: Pool, reason: str, *, grace_ms: int = 2_000) -> int:
        """No more inputs, no more containers; gives the number of containers that are being ended."""
        pool.stopped = True
        self.router.fail_queued(pool, Status.TERMINATED, failure(Status.TERMINATED, reason))
        live = [container for container in pool.containers.values() if container.phase not in life.FINAL]
        for container in live:
            if container.is_idle and container.link is not None:
                self.drain(container, reason)
            else:
                self.stop(container, reason, grace_ms=grace_ms)
        return len(live)

    # ------------------------------------------------------------------------------------------- reports

    def spawned(self, report: wm.ContainerStarted) -> None:
        """The worker: the process lives."""
        container = self.containers.get(report.container_id)
        if container is not None:
            container.pid = report.pid
            self._move(container, Event.SPAWNED)

    def became_ready(self, container: Container) -> None:
        """The runner: start-up code has run, inputs are welcome."""
        fresh = container.ready_at_ms is None
        self._move(container, Event.READY)
        if fresh:
            container.ready_at_ms = container.idle_since_ms = self.now_ms()
            container.pool.failed_starts = 0
        self.router.dispatch(container.pool)

    def start_failed(self, container: Container, body: bytes) -> None:
        """The runner: start-up code raised. The same code would raise again: what is queued fails with it."""
        container.stop_reason = "its start-up failed"
        self._start_failure(container, body, deterministic=True)

    def exited(self, report: wm.ContainerExited) -> None:
        """The worker: the process is gone, and all of its output has been reported."""
        container = self.containers.get(report.container_id)
        if container is None:
            return
        container.exit = report.exit
        never_ready = container.ready_at_ms is None and container.phase is not Phase.DRAINING
        if never_ready and container.stop_reason != "its start-up failed":
            why = f"a container of {container.pool.spec.name} ended before it was ready: {report.exit.describe()}"
            body = report.failure or failure(Status.INIT_FAILURE, why)
            self._start_failure(container, body, deterministic=bool(report.failure))
        self._gone(container, Event.EXITED, report.exit)

    def _start_failure(self, container: Container, body: bytes, *, deterministic: bool) -> None:
        pool = container.pool
        pool.failed_starts += 1
        pool.last_failure_at_ms = self.now_ms()
        if deterministic or pool.failed_starts >= autoscale.FAILED_STARTS_MAX:
            self.router.fail_queued(pool, Status.INIT_FAILURE, body)
        elif pool.queue:
            until = autoscale.backoff_until_ms(pool.failed_starts, pool.last_failure_at_ms)
            self.later(until - pool.last_failure_at_ms + 1, lambda: self.scale(pool))

    def _gone(self, container: Container, event: Event, exit: Exit | None) -> None:
        """The container is no more: settle its inputs, forget it, see whether another is needed."""
        ours = container.phase is Phase.DRAINING
        self._move(container, event)
        container.ended_at_ms = self.now_ms()
        link, container.link = container.link, None
        if link is not None:
            link.close()
        self.containers.pop(container.id, None)
        container.pool.containers.pop(container.id, None)
        node = self.nodes.get(container.node_id)
        if node is not None:
            node.containers.pop(container.id, None)
        self.ended.append(container.record())
        if ours and container.stop_reason or exit is None:
            status, why = Status.INTERNAL_FAILURE, container.stop_reason or "the container was lost"
        else:
            status, why = Status.CRASH, f"the container of {container.pool.spec.name} ended: {exit.describe()}"
        self.router.lost(container, status, why)
        for listener in self.on_ended:
            listener(container)
        for pool in list(self.router.pools.values()):  # its place is free: whoever waits for one may have it
            if pool.queue or pool is container.pool:
                self.wake(pool)

    # ------------------------------------------------------------------------------------------- nodes

    def attach(self, info: NodeInfo, running: tuple[wm.RunningContainer, ...], node: Node) -> None:
        """A worker reports for duty. Containers that it does not have are gone; ones that we do not know are adopted."""
        known = self.nodes.get(info.node_id)
        self.nodes[info.node_id] = node
        self._node_attached.set()
        alive = {item.container_id for item in running}
        node.containers = dict(known.containers) if known else {}
        for container in list(node.containers.values()):  # all are counted before any is replaced
            if container.id not in alive:
                if container.phase is Phase.STARTING:
                    node.send(wm.StartContainer(launch=self.launch(container)))  # the command was lost with the link
                else:
                    self._gone(container, Event.LOST, None)
        for item in running:
            if item.container_id not in self.containers:
                self._adopt(item, node)
        for pool in self.router.pools.values():
            self.scale(pool)

    def _adopt(self, item: wm.RunningContainer, node: Node) -> None:
        pool = self.router.pools.get(item.function_id)
        if pool is None or pool.stopped:
            node.send(wm.StopContainer(container_id=item.container_id, grace_ms=2_000))
            return
        container = Container(item.container_id, pool, item.app_id, node.info.node_id, self.now_ms())
        container.created_wall_ms = item.started_at_ms
        container.pid = item.pid
        container.phase = life.advance(container.phase, Event.SPAWNED)
        self._add(container, node)

    async def wait_node(self, timeout_s: float) -> None:
        """Until a worker attaches, or the time is over."""
        self._node_attached.clear()
        try:
            await asyncio.wait_for(self._node_attached.wait(), timeout_s)
        except TimeoutError:
            pass

    def detach(self, node: Node) -> None:
        """A worker's link broke: its containers go on, over their own links, while it comes back."""
        node.connected = False

    # ------------------------------------------------------------------------------------------- watching

    def check(self) -> None:
        """A few times a second: starts that take too long, links that stay away, timeouts, idle containers."""
        now_ms = self.now_ms()
        for container in list(self.containers.values()):
            age_ms = now_ms - container.created_at_ms
            spec = container.pool.spec
            if container.phase in (Phase.STARTING, Phase.BOOTING) and age_ms > spec.startup_timeout_ms:
                why = f"{spec.name} was not ready within its startup_timeout of {spec.startup_timeout_ms / 1000:g} s"
                container.stop_reason = "its start-up failed"
                self._move(container, Event.START_TIMEOUT)
                self._start_failure(container, failure(Status.INIT_FAILURE, why), deterministic=False)
                self._command(container, wm.StopContainer(container_id=container.id, grace_ms=0))
            lost_at_ms = container.link_lost_at_ms
            if container.link is None and lost_at_ms is not None and now_ms - lost_at_ms > LINK_LOST_MS:
                self._command(container, wm.StopContainer(container_id=container.id, grace_ms=0))
                self._gone(container, Event.LOST, None)
                continue
            self.router.check(container, now_ms)
        for pool in list(self.router.pools.values()):
            if pool.containers or pool.queue or pool.scaling.min_containers:
                self.scale(pool)

    def _move(self, container: Container, event: Event) -> None:
        container.phase = life.advance(container.phase, event)

    def _command(self, container: Container, command: wm.WorkerCommand) -> None:
        node = self.nodes.get(container.node_id)
        if node is not None and node.connected:
            node.send(command)
