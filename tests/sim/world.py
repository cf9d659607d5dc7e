"""A simulated platform: the real router, fleet and connected calls; clients, workers and runners that misbehave.

Everything random comes from one seed, time is virtual, and the runners are played by the runner protocol's own bytes.
Faults: containers that crash, never get ready, or lose their link; results that come twice; workers that go and come
back; clients that hang up. When the faults stop, everything must finish.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from jitney.core import leases
from jitney.runner import protocol
from jitney.server.apps import Apps
from jitney.server.connected import Connected
from jitney.server.fleet import Fleet
from jitney.server.scaling import Node, RunnerPaths
from jitney.server.state import Container
from jitney.values import ids
from jitney.values.apps import AppRecord
from jitney.values.calls import CallKind, Status
from jitney.values.containers import Exit, NodeInfo
from jitney.values.functions import FunctionSpec
from jitney.wire.messages import link as m
from jitney.wire.messages import workers as wm

PATHS = RunnerPaths(runner_socket="r", link_socket="l", segments="s", blobs="b", home="h")


class Runner:
    """Plays a container's runner: takes RUN frames, works, reports."""

    def __init__(self, world: World, container: Container) -> None:
        self.world = world
        self.container = container
        self.splitter = protocol.Splitter()
        self.fifo: list[protocol.RunInput] = []
        self.keys: dict[int, tuple[str, int]] = {}
        self.busy = False
        self.dead = False
        self.stopping = False

    def send(self, frame: bytes) -> None:
        for kind, body in self.splitter.feed(frame):
            self._frame(kind, body)

    def close(self) -> None:
        """Nothing to hang up."""

    def _frame(self, kind: int, body: bytes) -> None:
        if self.dead:
            return
        if kind == protocol.RUN:
            header, inputs = protocol.unpack_run(body)
            call = protocol.unpack_json(header)["call"]
            for item in inputs:
                self.keys[item.token] = (call, item.index)
            self.fifo += inputs
            self._work()
        elif kind in (protocol.CANCEL, protocol.RECALL):
            tokens = set(protocol.unpack_tokens(body))
            waiting = [item for item in self.fifo[self.busy :] if item.token in tokens]
            self.fifo = [item for item in self.fifo if item not in waiting]
            self.world.router.recalled(self.container, [item.token for item in waiting])
        elif kind == protocol.STOP:
            self.stopping = True
            waiting, self.fifo = self.fifo[self.busy :], self.fifo[: self.busy]
            self.world.router.recalled(self.container, [item.token for item in waiting])
            self._end_if_drained()

    def _work(self) -> None:
        if self.busy or not self.fifo or self.dead:
            return
        self.busy = True
        item = self.fifo[0]
        self.world.started(self.container, self.keys[item.token], item.token)
        self.world.after(self.world.service_s(), lambda: self._done(item))

    def _done(self, item: protocol.RunInput) -> None:
        if self.dead or not self.busy:
            return
        if self.world.chance("crash"):
            self.world.crash(self)
            return
        self.busy = False
        self.fifo.remove(item)
        status = protocol.FAILURE if self.world.chance("fail") else protocol.SUCCESS
        result = protocol.Result(item.token, status, int(self.world.last_service_s * 1e9), item.payload)
        for _ in range(2 if self.world.chance("double") else 1):
            self.world.router.results(self.container, [result])
        self._work()
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self.stopping and not self.busy and not self.dead:
            self.dead = True
            self.world.exited(self.container.id, Exit(exit_code=0))


class Client:
    """A client's link: counts what it got for each index."""

    role = "client"

    def __init__(self) -> None:
        self.is_open = True
        self.got: dict[str, Counter[int]] = {}
        self.status: dict[tuple[str, int], int] = {}
        self.refused: list[m.Refused] = []

    def send(self, message: m.Message) -> None:
        if isinstance(message, m.Outputs):
            for output in message.outputs:
                self.got.setdefault(message.call_id, Counter())[output.index] += 1
                self.status[message.call_id, output.index] = output.status
        elif isinstance(message, m.Refused):
            self.refused.append(message)


class World:
    """One run of the simulation. `faults` maps a fault to its probability."""

    def __init__(self, seed: int, faults: dict[str, float], specs: list[FunctionSpec], max_service_s: float = 2.0):
        self.rng = Random(seed)
        self.faults = dict(faults)
        self.loop = asyncio.get_running_loop()
        self.max_service_s = max_service_s
        self.last_service_s = 0.0
        self.trace: list[tuple[float, str, str]] = []
        self.runners: dict[str, Runner] = {}
        self.runs: Counter[tuple[str, int]] = Counter()
        self.fleet = Fleet(
            tokens=leases.tokens(1),
            paths=PATHS,
            container_token=lambda container_id: container_id,
            entropy=self.rng.randbytes,
            wall_ms=lambda: int(self.loop.time() * 1000),
        )
        self.router = self.fleet.router
        self.apps = Apps(self.router, self.fleet)
        self.connected = Connected(self.router, self.apps)
        self.info = NodeInfo(node_id="n1", cpu_milli=4_000, memory_mib=4_096)
        self.app = AppRecord(app_id=self.new_id(ids.APP))
        self.functions = [self.new_id(ids.FUNCTION) for _ in specs]
        self.attach()
        self.apps.add(self.app, dict(zip(self.functions, specs, strict=True)))

    def new_id(self, kind: str) -> str:
        return ids.make(kind, self.rng.randbytes(16))

    def chance(self, fault: str) -> bool:
        return self.rng.random() < self.faults.get(fault, 0.0)

    def service_s(self) -> float:
        self.last_service_s = self.rng.choice([0.0001, 0.001, 0.05, 1.0]) * self.rng.random() * self.max_service_s
        return self.last_service_s

    def after(self, delay_s: float, action) -> None:
        self.loop.call_later(delay_s, action)

    def note(self, what: str, of: str) -> None:
        self.trace.append((round(self.loop.time(), 6), what, of))

    # -- the worker

    def attach(self) -> None:
        running = tuple(
            wm.RunningContainer(
                container_id=runner.container.id,
                function_id=runner.container.pool.function_id,
                app_id=self.app.app_id,
                pid=1,
                started_at_ms=0,
            )
            for runner in self.runners.values()
            if not runner.dead
        )
        self.node = Node(self.info, self.command)
        self.fleet.attach(self.info, running, self.node)
        self.note("attached", str(len(running)))

    def detach(self) -> None:
        self.note("detached", "worker")
        self.fleet.detach(self.node)
        self.after(self.rng.uniform(0.1, 5), self.attach)

    def command(self, command: wm.WorkerCommand) -> None:
        if isinstance(command, wm.StartContainer):
            container_id = command.launch.container_id
            self.note("start", container_id)
            self.after(self.rng.uniform(0.001, 0.02), lambda: self._boot(container_id))
        elif isinstance(command, wm.StopContainer):
            self.note("stop", command.container_id)
            runner = self.runners.get(command.container_id)
            if runner is not None and not runner.dead:
                runner.dead = True
                ended = Exit(signal=9 if command.grace_ms == 0 else 15)
                self.after(0.005, lambda: self.exited(command.container_id, ended))
            elif runner is None:
                self.after(0.005, lambda: self.exited(command.container_id, Exit(exit_code=0)))

    def _boot(self, container_id: str) -> None:
        container = self.fleet.containers.get(container_id)
        if container is None:
            return
        if self.chance("stillborn"):
            self.exited(container_id, Exit(exit_code=1))
            return
        if self.chance("never_ready"):
            self.fleet.spawned(wm.ContainerStarted(container_id=container_id, pid=1))
            return
        runner = self.runners[container_id] = Runner(self, container)
        reports = [
            lambda: self.fleet.spawned(wm.ContainerStarted(container_id=container_id, pid=1)),
            lambda: self._ready(runner),
        ]
        if self.chance("reorder"):
            reports.reverse()
        for report in reports:
            report()

    def _ready(self, runner: Runner) -> None:
        if runner.container.id in self.fleet.containers:
            runner.container.link = runner
            self.fleet.became_ready(runner.container)

    def crash(self, runner: Runner) -> None:
        runner.dead = True
        runner.container.link = None
        self.exited(runner.container.id, Exit(signal=11))

    def exited(self, container_id: str, exit: Exit) -> None:
        self.note("exited", container_id)
        for _ in range(2 if self.chance("double") else 1):
            self.fleet.exited(wm.ContainerExited(container_id=container_id, exit=exit))

    # -- invariants

    def started(self, container: Container, key: tuple[str, int], token: int) -> None:
        self.runs[key] += 1
        self.note("run", f"{key[0]}:{key[1]}")
        self.check()

    def check(self) -> None:
        """Safety, after each step: one valid lease an input, conservation, bounds."""
        for pool in self.router.pools.values():
            held: Counter[tuple[str, int]] = Counter()
            for container in pool.containers.values():
                for token, item in container.inflight.items():
                    if not item.call.cancelled:
                        assert item.token == token, "a container holds an input under an old token"
                        held[item.call.id, item.index] += 1
            for item in pool.queue:
                held[item.call.id, item.index] += 1
            assert not [key for key, count in held.items() if count > 1], "an input is in two places"
            if pool.scaling.max_containers is not None:
                live = [c for c in pool.containers.values() if c.phase.value not in ("stopped", "failed")]
                assert len(live) <= pool.scaling.max_containers, "more containers than max_containers"
        used = self.fleet.nodes["n1"].view().used_memory_mib
        assert used <= self.info.memory_mib, "memory is overcommitted"

    async def settle(self, seconds: float) -> None:
        """Let time pass, with the server's regular check."""
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            await asyncio.sleep(0.05)  # sleep: virtual time
            self.fleet.check()
            self.check()

    # -- clients

    def open_map(self, client: Client, function_id: str, count: int) -> str:
        call_id = self.new_id(ids.CALL)
        self.connected.open(client, m.OpenCall(call_id, function_id, "", CallKind.MAP))
        for first in range(0, count, 50):
            payloads = [b"%d" % index for index in range(first, min(first + 50, count))]
            self.connected.inputs(client, m.Inputs(call_id, first, payloads))
        self.connected.end_inputs(m.EndInputs(call_id, count))
        return call_id

    def invoke(self, client: Client, function_id: str) -> str:
        call_id = self.new_id(ids.CALL)
        self.connected.invoke(client, m.Invoke(call_id, function_id, "", CallKind.UNARY, b"x"))
        return call_id


SUCCESS = int(Status.SUCCESS)
