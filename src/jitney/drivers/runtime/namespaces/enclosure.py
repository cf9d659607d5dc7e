"""One wall with what belongs to it: its image and code, its template, its stock of pods, and its way out.

An enclosure serves one `TemplateSpec`. It lives as long as its template is open or one of its containers runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.template import LoadOutput, TemplateProcess
from jitney.drivers.runtime.namespaces.stock import PodStock
from jitney.drivers.walls import render
from jitney.drivers.walls.launchers import Launcher
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.uplink import Uplink
from jitney.drivers.walls.wall import Pod, Wall, WallFailed
from jitney.ports.network import Names, Network
from jitney.ports.runtime import Output
from jitney.runner.segments import prepare, prepare_scope
from jitney.values.containers import Exit, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted
from jitney.wire.home import Home


class Enclosure:
    """See the module."""

    def __init__(
        self,
        name: str,
        spec: TemplateSpec,
        image: BuiltImage,
        *,
        home: Home,
        machine: Machine,
        network: Network,
        names: Names,
        stock_min: int,
        on_orphan: Callable[[int, Exit], None],
        on_death: Callable[[Enclosure], None],
    ) -> None:
        self.name = name
        self.spec = spec
        self.image = image
        self.containers: set[str] = set()
        self.is_closed = False
        self.wall = Wall(on_orphan=on_orphan, on_death=lambda _: self._on_death())
        self._home = home
        self._machine = machine
        self._died = on_death
        self.template = f"t-{name}"  # the name of its process, as the warden knows it
        self._folder = home.containers / name
        self._outside = machine.outside(home, spec, image, self._folder)
        self._uplink = Uplink(name, spec.network, network, names)
        self._numbers: list[int] = []  # of pods, free to be used again
        self._numbers_used = 1  # 0 is the template's
        self.stock = PodStock(stock_min, make=self._make_pod, drop=self.drop_pod, spawn=self._spawn)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, take_launcher: Callable[[], Launcher]) -> None:
        """Make the wall.

        Raises:
            WallFailed: it cannot be made; nothing is left.
        """
        try:
            self._make_folders()
            plan = {
                "ids": self._machine.ids.lines(),
                "writer": self._machine.ids.writer,
                "stage": self._outside.stage,
                "stage_ops": render.render_stage(self.image, self._outside),
                "ops": render.render_skeleton(self.image, self._outside),
                "hostname": self.name,
            }
            await self.wall.open(take_launcher(), plan)
            await self._connect()
        except OSError as error:
            raise WallFailed(f"its folder {self._folder} cannot be made: {error.strerror or error}") from error
        except BaseException:
            self.wall.kill()
            await self._remove_folders()
            raise

    def _make_folders(self) -> None:
        self._folder.mkdir(mode=0o711)
        for path in (self._outside.stage, self._outside.scratch):
            os.mkdir(path, 0o700)
        self._machine.ids.give(self._outside.scratch)
        for path in (self._outside.sockets, self._outside.blobs):
            os.makedirs(path, exist_ok=True)
        if self._outside.volumes:
            for path in (self._outside.uppers, *self._outside.volumes.values()):
                os.makedirs(path, exist_ok=True)
                os.chmod(path, 0o711)
        prepare(str(self._home.segments))
        prepare_scope(str(self._home.segments), os.path.basename(self._outside.segments))

    async def _connect(self) -> None:
        plan, resolv_conf = await self._uplink.connect(self.wall.pid)
        await self.wall.hub(plan, render.render_connected(self.image, resolv_conf))
        await self._uplink.admit(0)

    # -------------------------------------------------------------------------------------------- processes

    async def start_template(
        self,
        cause: str,
        output: Output,
        joins: tuple[int, ...],
        *,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
        judge: Callable[[Exit], Exit],
    ) -> TemplateProcess:
        """The template's process, in these control groups; nothing is loaded in it yet.

        Raises:
            WallFailed: it cannot be started.
            WallGone: the wall has ended.
        """
        folders, ops = render.render_root(
            self.image, self._outside, folder="t", shm_mib=render.SHM_MIB, hostname=self.name
        )
        message = {
            **render.render_process(self.spec, self.image),
            "folders": folders,
            "ops": ops,
            "net": self._uplink.message(0),
            "profile": "template",
            "keeps": render.TEMPLATE_KEEPS,
            "joins": len(joins),
        }
        fds = ((), joins)
        return await self._start("template", self.template, message, fds, cause, output, on_exited, on_death, judge)

    async def start_cold(
        self,
        pod: Pod,
        joins: tuple[int, ...],
        container_id: str,
        output: Output,
        *,
        on_death: Callable[[TemplateProcess], None],
        judge: Callable[[Exit], Exit],
    ) -> TemplateProcess:
        """A process in a pod that will be a container without being forked.

        Raises:
            WallFailed: it cannot be started.
            WallGone: the wall, or the pod, has ended.
        """
        message = {**render.render_process(self.spec, self.image, is_cold=True), "joins": len(joins), "tty": None}
        name, fds = f"c-{container_id}", ((pod.pidfd,), joins)
        return await self._start("enter", name, message, fds, container_id, output, _nobody, on_death, judge)

    async def _start(
        self,
        kind: str,
        name: str,
        message: dict[str, Any],
        fds: tuple[tuple[int, ...], tuple[int, ...]],
        cause: str,
        output: Output,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
        judge: Callable[[Exit], Exit],
    ) -> TemplateProcess:
        ours, theirs = socket.socketpair()
        printer = LoadOutput(output)
        capture = Capture(cause, printer)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            own = [null, *capture.child_fds, theirs.fileno()]
            descriptors = [*fds[0], *own, *fds[1]]
            child, _ = await self.wall.start(kind, name, {**message, "descriptors": len(own)}, descriptors)
        except BaseException:
            capture.finish()
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        return TemplateProcess(
            child,
            ours,
            capture,
            printer,
            is_cold=kind == "enter",
            on_exited=on_exited,
            on_death=on_death,
            judge=judge,
        )

    # -------------------------------------------------------------------------------------------- pods

    @property
    def no_network(self) -> str:
        """Why there is none although the policy allows one."""
        return self._uplink.why_not

    def folder_of(self, pod: Pod) -> str:
        """The writable layer of a pod, on the machine."""
        return str(self._folder / "scratch" / pod.name)

    def address_of(self, pod: Pod) -> str:
        """The address of a pod on this wall's network; '' without one."""
        return self._uplink.address(int(pod.name[1:]))

    async def mount(self, pod: Pod, mounts: Sequence[Mounted], *, replaces: bool = False) -> None:
        """Put volumes into a pod.

        Raises:
            WallFailed: one cannot be mounted; `code` is EBUSY where files of what was there are open.
            WallGone: the wall, or the pod, has ended.
        """
        for one in mounts:
            if one.upper:
                self._make_upper(one.upper)
        await self.wall.mount(pod, [render.render_mount(one, replaces=replaces) for one in mounts])

    def _make_upper(self, upper: str) -> None:
        for name in ("upper", "work"):
            path = os.path.join(self._outside.uppers, upper, name)
            if not os.path.isdir(path):
                os.makedirs(path, mode=0o711)
                os.chmod(path, 0o755)
                self._machine.ids.give(path)

    async def take_pod(self, shm_mib: int) -> Pod:
        """A pod, from the stock if there is one.

        Raises:
            WallFailed: none can be made.
            WallGone: the wall has ended.
        """
        return await self.stock.take(shm_mib)

    async def _make_pod(self, shm_mib: int) -> Pod:
        number = self._take_number()
        name = f"p{number}"
        folders, ops = render.render_root(
            self.image, self._outside, folder=name, shm_mib=shm_mib, hostname=self._machine.hostname
        )
        try:
            pod = await self.wall.pod(name, folders, ops, self._uplink.message(number))
        except BaseException:
            self._numbers.append(number)
            raise
        try:
            await self._uplink.admit(number)
        except BaseException:
            self.drop_pod(pod)
            raise
        return pod

    def _take_number(self) -> int:
        if self._numbers:
            return self._numbers.pop()
        number, self._numbers_used = self._numbers_used, self._numbers_used + 1
        return number

    def drop_pod(self, pod: Pod) -> asyncio.Task[None]:
        """End a pod and all in it; done when nothing of it is left."""
        pod.kill()
        return self._spawn(self._after(pod))

    async def _after(self, pod: Pod) -> None:
        await pod.gone
        number = int(pod.name[1:])
        await self._uplink.forget(number)
        await self._remove(pod.name)
        self._numbers.append(number)

    async def _remove(self, name: str) -> None:
        trash = self._folder / "scratch" / name
        moved = self._folder / f".trash-{name}"
        try:
            trash.rename(moved)
        except OSError:
            return
        self._spawn(asyncio.to_thread(self._machine.remove_tree, moved))

    # -------------------------------------------------------------------------------------------- ending

    def close(self) -> None:
        """No more pods; the wall goes when its last container has."""
        self.is_closed = True
        self.stock.close()
        self.retire()

    def retire(self) -> None:
        """End the wall if nobody needs it."""
        if self.is_closed and not self.containers:
            self.wall.kill()

    def _on_death(self) -> None:
        self.is_closed = True
        self.stock.close()
        self._spawn(self._clean())
        self._died(self)

    async def _clean(self) -> None:
        if self._uplink.is_there:
            await self._uplink.disconnect()
        await self._remove_folders()

    async def _remove_folders(self) -> None:
        await asyncio.to_thread(self._machine.remove_tree, Path(self._folder))

    async def gone(self) -> None:
        """Until nothing of it is left."""
        await self.wall.dead
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _nobody(container_id: str, pid: int, how: Exit) -> None:
    """A cold container forks none."""
