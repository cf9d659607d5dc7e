"""Starting and draining containers as core.autoscale decides, where core.placement says."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from jitney.core import autoscale, placement
from jitney.errors import JitneyError
from jitney.runner.failures import encode_failure_text
from jitney.server.router import failure
from jitney.server.state import Container, Pool
from jitney.values import ids
from jitney.values.calls import Status
from jitney.values.containers import Exit, Launch, NodeInfo, Phase, Snapshot, TemplateSpec, VolumePlace
from jitney.values.functions import FunctionSpec, Scaling
from jitney.values.isolation import Isolation
from jitney.values.secrets import Action, SecretRef, SecretUse
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
            disk_mib=self.info.disk_mib,
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


class SecretSource(Protocol):
    """Who knows the values of secrets."""

    async def open(self, refs: Sequence[SecretRef], env: Mapping[str, str], use: SecretUse) -> dict[str, str]:
        """The variables that a container gets, once it is recorded that it does."""
        ...


class Scaler:
    """Starts and drains the containers of a fleet."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        paths: RunnerPaths,
        container_token: Callable[[str], str],
        entropy: Callable[[int], bytes],
        isolation: Isolation = Isolation.PROCESS,
    ) -> None:
        self._secrets: SecretSource | None = None
        self._run: Callable[[Coroutine[Any, Any, None]], None] = _nowhere
        self._fleet = fleet
        self._isolation = isolation  # the lowest tier that the server's policy allows
        self._paths = paths
        self._container_token = container_token
        self._entropy = entropy

    def use_secrets(self, source: SecretSource, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Where the values of secrets come from, and what runs the starts that wait for them."""
        self._secrets, self._run = source, run

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
            if self.start_one(pool, now_ms) is None:
                break
        for container_id in decision.drain:
            container = pool.containers.get(container_id)
            if container is not None:  # the end of one may have drained the next already
                self._fleet.drain(container, "idle for its scaledown window")

    def start_one(self, pool: Pool, now_ms: int) -> Container | None:
        """Start a container of the pool; None where none has room, and `pool.why` says why."""
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
            return None
        node = self._fleet.nodes[placed.node_id]
        container = Container(
            ids.make(ids.CONTAINER, self._entropy(ids.ENTROPY_BYTES)), pool, pool.app_id, placed.node_id, now_ms
        )
        container.created_wall_ms = self._fleet.wall_ms()
        oldest_ms = pool.queue.oldest(lambda item: item.queued_at_ms)
        if oldest_ms is not None:
            container.phases_ms = {"queued": float(max(now_ms - oldest_ms, 0))}
        self._fleet.add(container, node)
        self.send_start(container, node)
        return container

    def send_start(self, container: Container, node: Node) -> None:
        """Tell a worker to start it: at once, or when the values of its secrets are known."""
        spec = container.pool.spec
        if (spec.secrets or any(one.secret for one in spec.buckets)) and self._secrets is not None:
            self._run(self._start_with(self._secrets, container))
        else:
            node.send(wm.StartContainer(launch=self.launch(container)))

    async def _start_with(self, secrets: SecretSource, container: Container) -> None:
        spec = container.pool.spec
        use = SecretUse(
            at_ms=0,
            action=Action.USED,
            secret_id="",
            app_id=container.pool.secrets_of,
            function_id=container.pool.function_id,
            function_name=spec.name,
            container_id=container.id,
        )
        try:
            values = await secrets.open(spec.secrets, spec.env, use) if spec.secrets else {}
            of_buckets = [await secrets.open([one.secret], {}, use) if one.secret else {} for one in spec.buckets]
        except JitneyError as error:
            log.warning("container %s has no secrets: %s", container.id, error)
            body = encode_failure_text(type(error).__name__, str(error), module=type(error).__module__)
            self._fleet.exited(
                wm.ContainerExited(
                    container_id=container.id, exit=Exit(exit_code=1), failure=body, transient=error.retryable
                )
            )
            return
        node = self._fleet.nodes.get(container.node_id)
        if node is not None and container.phase is Phase.STARTING and container.id in self._fleet.containers:
            launch = msgspec.structs.replace(self.launch(container), secrets=values, bucket_secrets=tuple(of_buckets))
            node.send(wm.StartContainer(launch=launch))

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
            "scope": spec.scope,
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
            "hold": container.pool.is_held,
        }
        return Launch(
            container_id=container.id,
            function_id=container.pool.function_id,
            app_id=container.app_id,
            token=token,
            template=self.template(spec),
            config=config,
            env=spec.env,
            resources=spec.resources,
            startup_timeout_ms=spec.startup_timeout_ms,
            network=spec.network,
            isolation=self._isolation.stricter(spec.isolation),
            is_held=container.pool.is_held,
            volumes=spec.volumes,
            buckets=spec.buckets,
        )

    def template(self, spec: FunctionSpec) -> TemplateSpec:
        """What the containers of a function are forked from."""
        return template_of(spec, self._isolation.stricter(spec.isolation))

    def prewarm(self, specs: Iterable[FunctionSpec]) -> None:
        """Have the templates of functions made before a container needs them, on the machine where one would go."""
        for template, kept, example in self._templates(specs):
            placed = placement.place(example.resources, [node.view() for node in self._fleet.nodes.values()])
            if isinstance(placed, placement.Placed):
                self._fleet.nodes[placed.node_id].send(wm.PrewarmTemplate(template=template, keep=kept))

    def withdraw(self, specs: Iterable[FunctionSpec], still_used: Iterable[FunctionSpec]) -> None:
        """Templates of functions that are gone need not be made."""
        used = {self.template(spec) for spec in still_used}
        for template, _, _ in self._templates(specs):
            if template not in used:
                for node in self._fleet.nodes.values():
                    if node.connected:
                        node.send(wm.WithdrawTemplate(template=template))

    def _templates(self, specs: Iterable[FunctionSpec]) -> list[tuple[TemplateSpec, bool, FunctionSpec]]:
        """Each template of functions once, whether one of these keeps containers, and one of these."""
        found: dict[TemplateSpec, tuple[bool, FunctionSpec]] = {}
        for spec in specs:
            template = self.template(spec)
            keeps = keeps_containers(spec.scaling)
            before, _ = found.get(template, (False, spec))
            found[template] = (before or keeps, spec)
        return [(template, kept, spec) for template, (kept, spec) in found.items()]


def _nowhere(work: Coroutine[Any, Any, None]) -> None:
    raise AssertionError("nobody runs what waits for secrets")


def keeps_containers(scaling: Scaling) -> bool:
    """Whether there are containers, or more than are needed, ahead of inputs."""
    return bool(scaling.min_containers or scaling.buffer_containers)


def template_of(spec: FunctionSpec, isolation: Isolation) -> TemplateSpec:
    """What the containers of a function are forked from, at that tier or above."""
    snapshot = None
    if spec.snapshot and spec.is_class:
        snapshot = Snapshot(
            qualname=spec.qualname,
            pickled=spec.pickled,
            parameters=spec.parameters,
            env=tuple(sorted(spec.env.items())),
            timeout_ms=spec.startup_timeout_ms,
            memory_limit_mib=spec.resources.memory_limit_mib,
            volumes=spec.volumes,
        )
    return TemplateSpec(
        image_id=spec.image_id,
        source_id=spec.source_id,
        module=spec.module,
        main_module=spec.main_module,
        snapshot=snapshot,
        network=spec.network,
        isolation=isolation,
        checkpoint=spec.checkpoint,
        volumes=tuple(sorted(VolumePlace(one.volume_id, one.path) for one in spec.volumes)),
        buckets=tuple(sorted(one.path for one in spec.buckets)),
    )
