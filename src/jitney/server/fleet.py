"""Containers and the nodes that they run on: starting, watching, draining, counting.

The fleet applies what core.autoscale and core.placement decide, and moves containers by core.lifecycle.container. It
speaks to workers by commands (`Node.send`) and hears of containers twice: from the worker (the process) and from the
runner's own link (ready, results). Either may come first, late, twice or never.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from jitney.core import autoscale, phases
from jitney.core.lifecycle import container as life
from jitney.core.lifecycle.container import Event
from jitney.runner import protocol
from jitney.server import scaling
from jitney.server.router import Router, failure
from jitney.server.scaling import Node, RunnerPaths, Scaler
from jitney.server.state import Container, Pool
from jitney.server.watch import Watch
from jitney.values.calls import Status
from jitney.values.containers import ContainerRecord, Exit, NodeInfo, Phase
from jitney.values.isolation import Isolation
from jitney.wire.messages import workers as wm

log = logging.getLogger("jitney.fleet")

SCALE_INTERVAL_S = 0.002  # a pool is looked at no more often
LINK_LOST_MS = 20_000  # a container whose link is gone this long, without an exit report, is lost
AWAITED_MS = 5_000  # one that outlived the last server has this long to say what it holds, before others may get it
STOP_GRACE_MS = 30_000
ENDED_KEPT = 1_000  # ended containers kept in memory for lists


class Fleet:
    """All nodes and containers of a server. Implements `router.Effects`."""

    def __init__(
        self,
        *,
        tokens: Iterator[int],
        paths: RunnerPaths,
        container_token: Callable[[str], str],
        entropy: Callable[[int], bytes],
        wall_ms: Callable[[], int],
        isolation: Isolation = Isolation.PROCESS,
    ) -> None:
        self.router = Router(self, tokens)
        self._watch = Watch(self.router)
        self.nodes: dict[str, Node] = {}
        self.containers: dict[str, Container] = {}
        self.ended: deque[ContainerRecord] = deque(maxlen=ENDED_KEPT)
        self.on_ready: list[Callable[[Container], None]] = []
        self.on_ended: list[Callable[[Container], None]] = []
        self.scaler = Scaler(self, paths=paths, container_token=container_token, entropy=entropy, isolation=isolation)
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
            self._loop.call_at(due, self.scaler.scale, pool)
        else:
            self.scaler.scale(pool)

    def interrupt(self, container: Container) -> None:
        """SIGURG, by the worker."""
        self._command(container, wm.InterruptContainer(container_id=container.id))

    def kill(self, container: Container, reason: str) -> None:
        """SIGKILL, by the worker."""
        self.stop(container, reason, grace_ms=0)

    # ------------------------------------------------------------------------------------------- containers

    def add(self, container: Container, node: Node) -> None:
        self.containers[container.id] = container
        container.pool.containers[container.id] = container
        node.containers[container.id] = container

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
            container.start_note = report.note
            self._learn(container, report.phases_ms)
            self._move(container, Event.SPAWNED)

    def _learn(self, container: Container, reported: Mapping[str, object]) -> None:
        """Where the time of its start went: the worker and the container tell, in either order."""
        before = container.phases_ms
        container.phases_ms = phases.join(before, reported)
        if phases.is_complete(container.phases_ms) and not phases.is_complete(before):
            slow = phases.slow_start(container.pool.spec.name, container.phases_ms)
            if slow:
                log.info("%s (container %s)", slow, container.id)

    def became_ready(self, container: Container, phases_ms: Mapping[str, object] | None = None) -> None:
        """The runner: start-up code has run, inputs are welcome."""
        self._learn(container, phases_ms or {})
        fresh = container.ready_at_ms is None
        self._move(container, Event.READY)
        if fresh:
            container.ready_at_ms = container.idle_since_ms = self.now_ms()
            container.pool.failed_starts = 0
            for listener in self.on_ready:
                listener(container)
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
            self._start_failure(container, body, deterministic=bool(report.failure) and not report.transient)
        self._gone(container, Event.EXITED, report.exit)

    def _start_failure(self, container: Container, body: bytes, *, deterministic: bool) -> None:
        pool = container.pool
        pool.failed_starts += 1
        pool.failure = body
        pool.last_failure_at_ms = self.now_ms()
        if deterministic or pool.failed_starts >= autoscale.FAILED_STARTS_MAX:
            self.router.fail_queued(pool, Status.INIT_FAILURE, body)
        elif pool.queue:
            until = autoscale.backoff_until_ms(pool.failed_starts, pool.last_failure_at_ms)
            self.later(until - pool.last_failure_at_ms + 1, lambda: self.scaler.scale(pool))

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
        if (ours and container.stop_reason) or exit is None:
            status, why = Status.INTERNAL_FAILURE, container.stop_reason or "the container was lost"
        else:
            status, why = Status.CRASH, f"the container of {container.pool.spec.name} ended: {exit.describe()}"
        self.router.settle(container)
        self.router.lost(container, status, why)
        for listener in self.on_ended:
            listener(container)
        for pool in list(self.router.pools.values()):  # its place is free: whoever waits for one may have it
            if pool.queue or pool is container.pool:
                self.wake(pool)

    # ------------------------------------------------------------------------------------------- nodes

    def attach(self, info: NodeInfo, running: tuple[wm.RunningContainer, ...], node: Node) -> None:
        """A worker reports for duty. Containers that it has not are gone.

        One that we do not know is adopted when the worker is new to us: it outlived the server's last run. Otherwise we
        have given it up while its worker was away, and it is ended, as is one whose end we could not order then.
        """
        known = self.nodes.get(info.node_id)
        self.nodes[info.node_id] = node
        self._node_attached.set()
        alive = {item.container_id for item in running}
        node.containers = dict(known.containers) if known else {}
        for container in list(node.containers.values()):  # all are counted before any is replaced
            if container.id not in alive:
                if container.phase is Phase.STARTING:
                    self.scaler.send_start(container, node)  # the command was lost with the link
                else:
                    self._gone(container, Event.LOST, None)
            elif container.phase in life.FINAL or (container.phase is Phase.DRAINING and container.stop_reason):
                node.send(wm.StopContainer(container_id=container.id, grace_ms=STOP_GRACE_MS))
        for item in running:
            if item.container_id not in self.containers:
                if known is None:
                    self._adopt(item, node)
                else:
                    node.send(wm.StopContainer(container_id=item.container_id, grace_ms=0))
        for pool in self.router.pools.values():
            self.scaler.scale(pool)
        if known is None:
            pools = self.router.pools.values()
            self.scaler.prewarm(pool.spec for pool in pools if scaling.keeps_containers(pool.spec.scaling))

    def _adopt(self, item: wm.RunningContainer, node: Node) -> None:
        pool = self.router.pools.get(item.function_id)
        if pool is None or pool.stopped:
            node.send(wm.StopContainer(container_id=item.container_id, grace_ms=2_000))
            return
        container = Container(item.container_id, pool, item.app_id, node.info.node_id, self.now_ms())
        container.created_wall_ms = item.started_at_ms
        container.pid = item.pid
        container.link_lost_at_ms = self.now_ms()  # it must say HELLO within LINK_LOST_MS
        container.phase = life.advance(container.phase, Event.SPAWNED)
        pool.awaited.add(container.id)
        self.add(container, node)

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
            if age_ms > AWAITED_MS:
                self.router.settle(container)
            lost_at_ms = container.link_lost_at_ms
            if container.link is None and lost_at_ms is not None and now_ms - lost_at_ms > LINK_LOST_MS:
                self._command(container, wm.StopContainer(container_id=container.id, grace_ms=0))
                self._gone(container, Event.LOST, None)
                continue
            self._watch.look(container, now_ms)
        self.router.end_unclaimed(now_ms)
        for pool in list(self.router.pools.values()):
            if pool.containers or pool.queue or pool.scaling.min_containers:
                self.scaler.scale(pool)

    def _move(self, container: Container, event: Event) -> None:
        container.phase = life.advance(container.phase, event)

    def _command(self, container: Container, command: wm.WorkerCommand) -> None:
        node = self.nodes.get(container.node_id)
        if node is not None and node.connected:
            node.send(command)
