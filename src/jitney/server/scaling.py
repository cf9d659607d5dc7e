"""Starting and draining containers as core.autoscale decides, where core.placement says."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from jitney.core import autoscale, placement
from jitney.server.router import failure
from jitney.server.state import Container, Pool
from jitney.values import ids
from jitney.values.calls import Status
from jitney.values.containers import Launch, NodeInfo, TemplateSpec
from jitney.wire.messages import workers as wm

if TYPE_CHECKING:
    from jitney.server.fleet import Fleet

log = logging.getLogger("jitney.scaling")


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


class Scaler:
    """Starts and drains the containers of a fleet."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        paths: RunnerPaths,
        container_token: Callable[[str], str],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._fleet = fleet
        self._paths = paths
        self._container_token = container_token
        self._entropy = entropy

    def scale(self, pool: Pool) -> None:
        """Load, decide, apply: start or drain containers of one pool."""
        if pool.stopped:
            return
        now_ms = self._fleet.now_ms()
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
                self._fleet.drain(container, "idle for its scaledown window")

    def _start_one(self, pool: Pool, now_ms: int) -> bool:
        nodes = [node.view() for node in self._fleet.nodes.values()]
        placed = placement.place(pool.spec.resources, nodes)
        if isinstance(placed, placement.Unplaceable):
            if placed.never:
                body = failure(
                    Status.INIT_FAILURE, f"no machine can hold a container of {pool.spec.name}: {placed.describe()}"
                )
                self._fleet.router.fail_queued(pool, Status.INIT_FAILURE, body)
            pool.why = placed.describe()
            for container_id in placement.give_way(pool.spec.resources, nodes, self._idle(pool, now_ms)):
                self._fleet.drain(
                    self._fleet.containers[container_id], f"it was idle, and {pool.spec.name} needs its place"
                )
            return False
        node = self._fleet.nodes[placed.node_id]
        container = Container(
            ids.make(ids.CONTAINER, self._entropy(ids.ENTROPY_BYTES)), pool, pool.app_id, placed.node_id, now_ms
        )
        container.created_wall_ms = self._fleet.wall_ms()
        self._fleet.add(container, node)
        node.send(wm.StartContainer(launch=self.launch(container)))
        return True

    def _idle(self, wanting: Pool, now_ms: int) -> list[placement.Idle]:
        """Idle containers of other pools, beyond their min_containers."""
        found = []
        for pool in self._fleet.router.pools.values():
            if pool is wanting or pool.queue:
                continue
            free = [container for container in pool.ready if container.is_idle]
            for container in free[: max(0, len(pool.ready) - pool.scaling.min_containers)]:
                idle_ms = now_ms - container.idle_since_ms
                found.append(
                    placement.Idle(
                        container_id=container.id,
                        node_id=container.node_id,
                        resources=pool.spec.resources,
                        idle_ms=idle_ms,
                    )
                )
        return found

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
