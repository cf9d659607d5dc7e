"""One command in a wall of its own: made for it, gone with it."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jitney.core import egress
from jitney.drivers.command import Lines
from jitney.drivers.walls import render
from jitney.drivers.walls.launchers import Launcher
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.mask import PARTIAL, HostMask
from jitney.drivers.walls.wall import Wall, WallFailed, WallGone
from jitney.ports.box import BoxCapabilities, BoxFailed, BoxSpec, OverMemory
from jitney.ports.limits import Bounds, Limiter, LimitsFailed
from jitney.ports.network import HubPlan, Network, NetworkFailed
from jitney.values.containers import Exit
from jitney.values.isolation import Isolation

READ_BYTES = 64 * 1024
MARKER = "box"
NAME_PREFIX = "b"  # of a command's folder


class NamespacesBox:
    """See `ports.box`.

    Args:
        folder: for what is passing; made if it is not there.
        limiter: bounds what commands use.
        network: their way out.
    """

    def __init__(
        self, folder: Path, *, limiter: Limiter, network: Network, environ: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._limiter = limiter
        self._network = network
        self._environ = os.environ if environ is None else environ
        self._machine = Machine()
        self._mask = HostMask(folder / "host-layer")
        self._numbers = itertools.count(1)

    def capabilities(self) -> BoxCapabilities:
        """See the port."""
        network = self._network.capabilities()
        may_write = self._machine.ids.writer == "root"
        return BoxCapabilities(
            isolation=Isolation.NAMESPACES,
            root_filesystem=True,
            host_layer_writable=may_write,
            many_users=self._machine.ids.writer != "self",
            network=network.outbound,
            why=network.why
            if may_write
            else "files of the machine belong to root, and the worker does not run as root",
            remedy=network.remedy if may_write else "",
            no_network="" if network.outbound else "; ".join(filter(None, (network.why, network.remedy))),
        )

    def adopt(self, folder: str) -> None:
        """See the port."""
        os.mkdir(folder, 0o755)
        self._machine.ids.give(folder)

    async def discard(self, folder: str) -> None:
        """See the port."""
        await asyncio.to_thread(self._machine.remove_tree, Path(folder))

    async def reap(self) -> int:
        """See the port. One worker has this folder."""
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        left = [name for name in names if name.startswith(NAME_PREFIX) or name.endswith(PARTIAL)]
        for name in left:
            await self.discard(str(self._folder / name))
        return len(left)

    async def run(self, spec: BoxSpec, on_line: Callable[[str], None]) -> int:
        """See the port."""
        lines = Lines(on_line)
        name = f"{NAME_PREFIX}{next(self._numbers)}-{secrets.token_hex(3)}"
        own = self._folder / name
        try:
            self._check(spec)
            await asyncio.to_thread(self._prepare, spec, own)
        except OSError as error:
            await self.discard(str(own))
            raise BoxFailed(f"its folders cannot be made: {error}") from error
        run = _Run(spec, name, own, lines, self)
        try:
            async with asyncio.timeout(spec.timeout_ms / 1000):
                how = await run.perform()
        except (WallFailed, LimitsFailed) as error:
            if isinstance(error, WallFailed) and error.code:
                on_line(str(error))
                return error.code
            raise BoxFailed(str(error)) from error
        except WallGone:
            raise BoxFailed("its wall fell before the command had ended") from None
        finally:
            await asyncio.shield(run.clean())
        lines.end()
        code = -how.signal if how.signal is not None else how.exit_code or 0
        if code and run.oom_kills and spec.memory_mib is not None:
            raise OverMemory(code, spec.memory_mib)
        return code

    def _check(self, spec: BoxSpec) -> None:
        writes_host = "/" in spec.layers or (not spec.layers and spec.upper)
        if writes_host and self._machine.ids.writer != "root":
            raise BoxFailed("the host's own file system cannot be written over without root: use another base")

    def _prepare(self, spec: BoxSpec, own: Path) -> None:
        own.mkdir(parents=True, mode=0o711)
        for path in (own / "stage", own / "scratch"):
            path.mkdir(mode=0o700)
        self._machine.ids.give(str(own / "scratch"))
        if "/" in spec.layers or not spec.layers:
            self._mask.prepare(self._machine.ids)
        if not spec.upper:
            for name in ("upper", "work"):
                self.adopt(str(own / "scratch" / name))
        for upper in _uppers(spec):
            self.adopt(render.work_of(upper))
            # The wall's root, another user, has to come through to both; what is above stays closed to others.
            parent = Path(upper).parent
            parent.chmod(parent.stat().st_mode | 0o011)


def _uppers(spec: BoxSpec) -> list[str]:
    """The folders of others that the command writes to: of the layer, and of volumes."""
    return [*filter(None, (spec.upper, *(one.upper for one in spec.volumes)))]


class _Run:
    def __init__(self, spec: BoxSpec, name: str, own: Path, lines: Lines, box: NamespacesBox) -> None:
        self.spec = spec
        self.name = name
        self.own = own
        self.lines = lines
        self.box = box
        self.wall = Wall(on_orphan=lambda _pid, _how: None, on_death=lambda _wall: None)
        self.group: Any = None
        self.hub: HubPlan | None = None
        self.oom_kills = 0
        self._opened = False

    async def perform(self) -> Exit:
        spec, box = self.spec, self.box
        machine = box._machine
        scratch = os.path.dirname(spec.upper) if spec.upper else str(self.own / "scratch")
        outside = machine.bare(stage=str(self.own / "stage"), scratch=scratch)
        mask = str(box._mask.folder)
        bounds = Bounds(cpu_milli=spec.cpu_milli, memory_mib=spec.memory_mib, pids=spec.pids)
        self.group = box._limiter.make(self.name, bounds)
        plan = {
            "ids": machine.ids.lines(),
            "writer": machine.ids.writer,
            "stage": outside.stage,
            "stage_ops": render.render_box_stage(spec, outside, mask),
            "ops": [],
            "hostname": "build",
        }
        env = render.launcher_env(box._environ, MARKER)
        self._opened = True
        await self.wall.open(Launcher(machine.launcher(), env), plan)
        resolv_conf = await self._connect()
        upper = os.path.basename(spec.upper) if spec.upper else "upper"
        work = os.path.basename(render.work_of(spec.upper)) if spec.upper else "work"
        folders, ops = render.render_box_root(spec, outside, mask, upper=upper, work=work, resolv_conf=resolv_conf)
        return await self._start(folders, ops)

    async def _connect(self) -> str:
        policy = self.spec.network
        if not policy.blocked:
            try:
                self.hub = await self.box._network.connect(self.name, self.wall.pid)
            except NetworkFailed:
                pass  # capabilities() has said so; a command that needs it will fail in words of its own
        message = egress.hub_message(self.hub) if self.hub is not None else None
        await self.wall.hub(message, [])
        return egress.resolver_file(egress.egress(policy, self.hub, 0))

    async def _start(self, folders: list[str], ops: list[Any]) -> Exit:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Exit] = loop.create_future()
        net = egress.pod_message(egress.egress(self.spec.network, self.hub, 0), 0) if self.hub is not None else None
        profile = "build" if self.box._machine.ids.writer != "self" else "build+fake_chown"
        joins = self.group.join_fds
        message = {
            "argv": [*self.spec.argv],
            "env": {"PATH": render.PATH, "HOME": "/root", "LANG": "C.UTF-8", **self.spec.env},
            "cwd": self.spec.cwd,
            "tty": None,
            "folders": folders,
            "ops": ops,
            "net": net,
            "profile": profile,
            "keeps": render.BUILD_KEEPS,
            "joins": len(joins),
            "descriptors": 3,
        }
        output, given = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        reading = asyncio.create_task(_read(output, self.lines))
        try:
            child, _ = await self.wall.start("template", self.name, message, [null, given, given, *joins])
            os.close(given)
            given = -1
            child.watch(ended.set_result)
            how = await asyncio.shield(ended)
            self.wall.kill()  # and whatever the command left behind: then its output ends too
            await self.wall.dead
            await reading
            return how
        finally:
            os.close(null)
            if given >= 0:
                os.close(given)
            reading.cancel()
            await asyncio.wait({reading})

    async def clean(self) -> None:
        """Nothing of it is left."""
        if self._opened:
            self.wall.kill()
            if self.wall.pid:
                await self.wall.dead
        if self.hub is not None:
            await self.box._network.disconnect(self.name)
        if self.group is not None:
            self.oom_kills = self.group.oom_kills()
            await self.group.remove()
        for upper in _uppers(self.spec):
            await self.box.discard(render.work_of(upper))
        await self.box.discard(str(self.own))


async def _read(descriptor: int, lines: Lines) -> None:
    """All that comes, until the last writer is gone."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    try:
        while data := await stream.read(READ_BYTES):
            lines.feed(data)
    finally:
        transport.close()
