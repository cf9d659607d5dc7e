"""Makes boxes by runsc, and the runtime of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.exits import watch_exit
from jitney.drivers.runtime.forking.leftovers import MARKER_NAME, OOM_SCORE_ADJ, Leftovers
from jitney.drivers.runtime.forking.marker import marker_of
from jitney.drivers.runtime.gvisor import render
from jitney.drivers.runtime.gvisor.probe import Finding, probe
from jitney.drivers.runtime.kept.box import Entrance
from jitney.drivers.runtime.kept.keeper import BoxFailed
from jitney.drivers.runtime.kept.render import MEMORY_RESERVE, PIDS_MAX, BoxOrder
from jitney.drivers.runtime.kept.runtime import KeptRuntime
from jitney.drivers.runtime.kept.wiring import Wires, Wiring
from jitney.drivers.walls.machine import FIRST_ID, Machine
from jitney.drivers.walls.no_names import no_names
from jitney.ports.limits import Bounds, Group, Limiter, LimitsFailed
from jitney.ports.network import Names, Network, OnRefused
from jitney.values.isolation import Isolation
from jitney.wire.home import Home

THREADS_PER_PROCESS = 4  # of the machine, for each process of a sandbox: PIDS_MAX stops those first
NO_NETWORK = "a sandbox of gVisor has one where the worker is root, and may make networks"
NO_MOUNTS = (
    "volumes are put into sandboxes of gVisor by the worker, from outside, and it is not root\n"
    "use runtime = 'namespaces' or 'process', which mount volumes without root, or a worker that is root"
)
GOFER = b"runsc-gofer"  # the process of a sandbox that has its mounts
WEIGHT_MILLI = 1_000  # of the CPU: as a process of the machine's own, as nobody knows how many containers will be in it
LOG_BYTES = 2_000  # the end of what a failed runsc has said
END_S = 3.0  # for a sandbox whose keeper was told to end, before it is made to


class GvisorShell:
    """One sandbox (kept.box.Shell): a child of this process that lives as long as it does."""

    def __init__(self, boxes: GvisorBoxes, order: BoxOrder, folder: Path) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.no_network = "" if order.network.blocked or boxes.wires.can_be else NO_NETWORK
        self._boxes = boxes
        self._order = order
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._wiring: Wiring | None = None
        self._group: Group | None = None
        self._why_lost = ""
        self._losing: asyncio.Task[str] | None = None

    async def open(self) -> None:
        """See the protocol."""
        found = await asyncio.to_thread(self._boxes.find)
        if found.runsc is None:
            raise BoxFailed(f"{found.why}\n{found.remedy}")
        why = render.why_not_layers(self._order.image.layers, found.runsc)
        if why:
            raise BoxFailed(why)
        try:
            self._group = self._boxes.group(self._order)
            has_network = await self._connect()
            self._lay_out(found.runsc, has_network=has_network)
            await self._start(found.runsc, has_network=has_network)
        except LimitsFailed as error:
            raise BoxFailed(str(error)) from error
        except OSError as error:
            raise BoxFailed(f"runsc cannot be started: {error}") from error

    async def _connect(self) -> bool:
        """Whether there is a network that the sandbox will have."""
        if not self._boxes.wires.can_be:
            return False
        self._wiring = self._boxes.wires.wiring(self._order, self._folder, self._lost)
        await self._wiring.open()
        self.no_network = self._wiring.why_not
        self._order = msgspec.structs.replace(self._order, mounts=(*self._order.mounts, self._wiring.mount))
        return self._wiring.is_there

    def _lost(self) -> None:
        """What holds its network has ended: so does all that had it."""
        self._why_lost = "the process that holds its network has ended"
        self._losing = asyncio.get_running_loop().create_task(self._delete())

    def _lay_out(self, runsc: render.Runsc, *, has_network: bool) -> None:
        """The bundle."""
        for name, mode in (("scratch", 0o700), ("root", 0o755), ("upper", 0o755), ("work", 0o755), ("volumes", 0o755)):
            (self._folder / name).mkdir(mode=mode)
        scratch, root = self._folder / "scratch", self._folder / "root"
        if not runsc.rootless:
            os.chown(scratch, FIRST_ID, FIRST_ID)
        for name, text in self._order.links:
            (root / name).symlink_to(text)
        self._lay_out_volumes(self._folder / ("upper" if self._order.image.layers else "root"))
        bundle = render.render_bundle(
            self._order,
            root=str(root),
            scratch=str(scratch),
            volumes=str(self._folder / "volumes"),
            runsc=runsc,
            nproc=PIDS_MAX,
            has_network=has_network,
        )
        (self._folder / "config.json").write_text(json.dumps(bundle))

    async def _start(self, runsc: render.Runsc, *, has_network: bool) -> None:
        has_volumes = bool(self._order.volumes)
        flags = render.render_flags(runsc, self._boxes.state, has_network=has_network, has_volumes=has_volumes)
        argv = [*flags, "run", f"--bundle={self._folder}", render.sandbox_id(self._order)]
        if not has_network:
            self._execute(argv)
            return
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._execute(argv, theirs.fileno())
            await self._link(ours)

    async def _link(self, gate: socket.socket) -> None:
        """Put the links into the namespace of what is about to be runsc, and let it go on."""
        assert self._process is not None
        assert self._wiring is not None
        gate.setblocking(False)
        loop = asyncio.get_running_loop()
        if await loop.sock_recv(gate, 1):
            namespace = f"/proc/{self._process.pid}/ns/net"
            await self._wiring.join(lambda: os.open(namespace, os.O_RDONLY | os.O_CLOEXEC))
            if self._wiring.why_not:
                raise BoxFailed(f"its network cannot be made: {self._wiring.why_not}")
            await loop.sock_sendall(gate, b"x")

    def _execute(self, argv: list[str], gate: int = -1) -> None:
        joins = self._group.join_fds if self._group is not None else ()
        launch = render.render_launch(argv, self._order.image.layers, str(self._folder), joins=joins, gate=gate)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*self._boxes.launcher, json.dumps(launch)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._boxes.env,
                start_new_session=True,
                pass_fds=[*joins, *([gate] if gate >= 0 else [])],
            )
        if self._group is not None:
            self._group.close_fds()
        procfs.set_oom_score_adj(self._process.pid, OOM_SCORE_ADJ)
        watch_exit(self._process.pid, self._exited)

    def _exited(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        try:
            said = self._log.read_bytes()[-LOG_BYTES:].decode(errors="replace").strip()
        except OSError:
            said = ""
        self.ended.set_result(self._why_lost or ((said or f"exit code {code}") if code else ""))

    def _lay_out_volumes(self, root: Path) -> None:
        """Links to where they will be mounted."""
        for path, place in render.render_places(self._order).items():
            if place:
                (self._folder / "volumes" / os.path.basename(place)).mkdir(mode=0o755)
                link = root / path[1:]
                link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                link.symlink_to(place)

    async def entrance(self) -> Entrance:
        """See the protocol. What serves files to the sandbox has its mounts, and crosses those that come later."""
        if os.geteuid() != 0:
            raise BoxFailed(NO_MOUNTS)
        if self._process is None or self.ended.done():
            raise BoxFailed("the container has ended")
        for pid in procfs.children(self._process.pid):
            if procfs.argv(pid)[:1] == [GOFER]:
                return Entrance(pid=pid, own_root=True, places=render.render_places(self._order))
        raise BoxFailed("what serves files to the sandbox is not to be found: take another runsc")

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """See the protocol."""
        if self._group is not None:
            self._group.bound_cpu(cpu_milli)

    async def close(self) -> None:
        """See the protocol. The keeper has been told to end, and with it ends all."""
        if self._process is not None:
            if not await self._ends_within(END_S):
                await self._delete()
                if not await self._ends_within(END_S):
                    self._process.kill()
                    await self.ended
        elif not self.ended.done():
            self.ended.set_result("")
        if self._wiring is not None:
            await self._wiring.close()
        if self._group is not None:
            await self._group.remove()

    async def _delete(self) -> str:
        return await self._boxes.command("delete", "--force", render.sandbox_id(self._order))

    async def _ends_within(self, seconds: float) -> bool:
        await asyncio.wait({self.ended}, timeout=seconds)
        return self.ended.done()


class GvisorBoxes:
    """What runsc is to the runtime (kept.box.Boxes)."""

    tier = Isolation.GVISOR
    shares_locks = False
    can_join = False

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str],
        find: Callable[[], Finding],
        limiter: Limiter | None,
        network: Network | None,
    ) -> None:
        self._limiter = limiter
        self.state = str(home.root / "gvisor")
        self.env = {"PATH": environ.get("PATH", os.defpath), MARKER_NAME: marker_of(home)}
        self.launcher = [*Machine().launcher()[:-1], "prepared"]
        self.wires = Wires(network, self.env, is_guarded=True)
        self.find = find
        self._leftovers = Leftovers(home, marker_of(home))

    async def reap(self) -> int:
        """See the protocol. Without runsc nothing of us can be in a sandbox."""
        await self.wires.reap(self._leftovers)
        if self._limiter is not None:
            await self._limiter.reap()
        if not await asyncio.to_thread(os.path.isdir, self.state):
            return 0
        count = await self._leftovers.reap()
        listed = await self.command("list", "--quiet")
        for name in listed.split():
            await self.command("delete", "--force", name)
        await asyncio.to_thread(shutil.rmtree, self.state, ignore_errors=True)
        return max(count, len(listed.split()))

    def group(self, order: BoxOrder) -> Group | None:
        """The control group of a sandbox: of its kernel, and of what serves it files. None: it has none.

        Raises:
            LimitsFailed: it cannot be made.
        """
        memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)
        bounds = Bounds(
            cpu_weight_milli=WEIGHT_MILLI,
            memory_mib=int(memory_mib * (1 - MEMORY_RESERVE)),
            pids=PIDS_MAX * THREADS_PER_PROCESS,
        )
        return self._limiter.make(order.name, bounds) if self._limiter is not None else None

    def shell(self, order: BoxOrder, folder: Path) -> GvisorShell:
        """See the protocol."""
        return GvisorShell(self, order, folder)

    async def command(self, *words: str) -> str:
        """Run runsc; what it prints. Its failure is no concern: it is asked to remove what may be gone."""
        found = await asyncio.to_thread(self.find)
        if found.runsc is None:
            return ""
        process = await asyncio.create_subprocess_exec(
            *render.render_flags(found.runsc, self.state),
            *words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.env,
        )
        said, _ = await process.communicate()
        return said.decode(errors="replace")

    async def close(self) -> None:
        """See the protocol."""
        await self.wires.close()
        if self._limiter is not None:
            await self._limiter.close()
        self._leftovers.close()


class GvisorRuntime(KeptRuntime):
    """Containers in gVisor sandboxes.

    Args:
        home: the server folder.
        environ: where runsc is looked for.
        find: how it is run.
        limiter: makes the control group of each sandbox; None: they have none.
        network: the way out of sandboxes, where the worker can make one for them; None: they have none.
        names: makes what answers for names, where a policy lists domains; what is refused goes to the given function.
    """

    def __init__(
        self,
        home: Home,
        *,
        environ: Mapping[str, str] | None = None,
        find: Callable[[], Finding] = probe,
        limiter: Limiter | None = None,
        network: Network | None = None,
        names: Callable[[OnRefused], Names] = no_names,
    ) -> None:
        boxes = GvisorBoxes(home, os.environ if environ is None else environ, find, limiter, network)
        super().__init__(home, boxes, limiter=None)
        boxes.wires.names = names(self._containers.on_refused)
