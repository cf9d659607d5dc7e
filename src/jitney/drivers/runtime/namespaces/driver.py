"""The runtime itself: enclosures with their templates, containers, and what joins them."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from jitney.drivers.runtime.forking import leftovers
from jitney.drivers.runtime.forking.leftovers import Leftovers
from jitney.drivers.runtime.forking.marker import marker_of
from jitney.drivers.runtime.namespaces.bounding import bound
from jitney.drivers.runtime.namespaces.enclosure import Enclosure
from jitney.drivers.runtime.namespaces.life import Containers, bounds_of, disk_limit_kib
from jitney.drivers.runtime.namespaces.stock import STOCK_MIN
from jitney.drivers.runtime.namespaces.templates import Templates
from jitney.drivers.walls import render
from jitney.drivers.walls.launchers import Launchers
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.no_names import no_names
from jitney.drivers.walls.wall import WallFailed, WallGone
from jitney.ports.interactive import ContainerGone, ExecSession, ExecSpec, OnOutput
from jitney.ports.limits import Limiter
from jitney.ports.mounting import MountBusy, MountFailed
from jitney.ports.network import Names, Network, OnRefused
from jitney.ports.runtime import (
    Capabilities,
    ContainerHandle,
    Output,
    StartFailed,
    Stats,
    TemplateFacts,
    TemplateFailed,
    TemplateGone,
)
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, Launch, Limits, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.isolation import Isolation
from jitney.values.volumes import Mounted
from jitney.wire.home import Home


class NamespacesRuntime:
    """Containers behind walls of namespaces.

    Args:
        home: the server folder.
        limiter: bounds and counts what containers use.
        network: their way out.
        names: makes what answers for names, where a policy lists domains; what is refused goes to the given function.
        stock_min: pods that are kept ready behind each wall.
        template_limit_mib: memory that each template may take; 0: what there is.
        environ: of this process; containers see nothing of it.
    """

    def __init__(
        self,
        home: Home,
        *,
        limiter: Limiter,
        network: Network,
        names: Callable[[OnRefused], Names] = no_names,
        stock_min: int = STOCK_MIN,
        template_limit_mib: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._limiter = limiter
        self._network = network
        self._containers = Containers(limiter, home.uppers)
        self._names_of_hubs = names(self._containers.on_refused)
        self._stock_min = stock_min
        self._machine = Machine()
        env = render.launcher_env(os.environ if environ is None else environ, marker_of(home))
        self._launchers = Launchers(self._machine.launcher(), env)
        self._leftovers = Leftovers(home, marker_of(home))
        self._names = itertools.count(1)
        self._templates = Templates(
            self._enclose,
            functools.partial(bound, limiter, template_limit_mib),
            on_exited=self._containers.on_exited,
            on_death=self._containers.on_template_death,
            spawn=self._containers.spawn,
        )
        self._enclosures: set[Enclosure] = set()

    @property
    def attaches(self) -> Literal[True]:
        """See ports.attaching."""
        return True

    def capabilities(self) -> Capabilities:
        """See the port."""
        limits = self._limiter.capabilities()
        return Capabilities(
            name=Isolation.NAMESPACES,
            isolation=True,
            memory_limit=limits.memory,
            process_limit=limits.pids,
            exec=True,
            snapshot_volumes=True,
        )

    async def reap(self) -> int:
        """See the port."""
        leftovers.adopt_orphans()
        count = await self._leftovers.reap()
        await self._limiter.reap()
        await self._network.reap()
        await asyncio.to_thread(self._remove_folders)
        self._launchers.prepare()
        return count

    def _remove_folders(self) -> None:
        self._home.containers.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._home.containers.iterdir():
            if path.is_dir() and not path.is_symlink():
                self._machine.remove_tree(path)
            else:
                path.unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------------- templates

    async def open_template(
        self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output, volumes: Sequence[Mounted] = ()
    ) -> None:
        """See the port."""
        leftovers.adopt_orphans()
        await self._templates.open(spec, self._machine.complete(image), cause, output, volumes)

    async def close_template(self, spec: TemplateSpec) -> None:
        """See the port."""
        self._templates.close(spec)

    async def _enclose(self, spec: TemplateSpec, image: BuiltImage) -> Enclosure:
        """A wall for a template.

        Raises:
            TemplateFailed: it cannot be made.
        """
        name = f"w{next(self._names)}-{os.getpid()}"
        enclosure = Enclosure(
            name,
            spec,
            image,
            home=self._home,
            machine=self._machine,
            network=self._network,
            names=self._names_of_hubs,
            stock_min=self._stock_min,
            on_orphan=lambda pid, how: self._containers.on_orphan(name, pid, how),
            on_death=self._on_wall_death,
        )
        self._enclosures.add(enclosure)
        try:
            await enclosure.open(self._launchers.take)
        except BaseException as error:
            self._enclosures.discard(enclosure)
            if isinstance(error, WallFailed | WallGone):
                raise TemplateFailed(_failure(f"the wall around it cannot be made: {error}")) from error
            raise
        return enclosure

    def _on_wall_death(self, enclosure: Enclosure) -> None:
        self._templates.lost(enclosure)
        self._containers.on_wall_death(enclosure)
        self._containers.spawn(self._forget_enclosure(enclosure))

    async def _forget_enclosure(self, enclosure: Enclosure) -> None:
        await enclosure.gone()
        self._enclosures.discard(enclosure)

    def template_facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """See ports.runtime.TemplateInsight."""
        return self._templates.facts(spec)

    def watch_templates(self, on_death: Callable[[TemplateSpec], None]) -> None:
        """See ports.runtime.TemplateInsight."""
        self._templates.on_lost = on_death

    # -------------------------------------------------------------------------------------------- containers

    async def start(self, launch: Launch, image: BuiltImage, output: Output) -> ContainerHandle:
        """See the port."""
        if not launch.isolation.allows(Isolation.NAMESPACES):
            raise _too_weak(launch)
        opened = self._templates.find(launch.template)
        if opened is None:
            raise TemplateGone
        return await self._containers.start(launch, opened, output)

    async def wait(self, handle: ContainerHandle) -> Exit:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is None:
            return self._containers.ended.get(handle.container_id, Exit())
        return await asyncio.shield(container.ended)

    def signal(self, handle: ContainerHandle, signum: int) -> None:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is not None and not container.is_ending:
            container.signal(signum)

    async def destroy(self, handle: ContainerHandle) -> None:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is not None:
            container.kill()
            await asyncio.shield(container.ended)

    def stats(self, handle: ContainerHandle) -> Stats | None:
        """See the port."""
        container = self._containers.living.get(handle.container_id)
        if container is None or container.is_ending or container.group is None:
            return None
        usage = msgspec.structs.replace(container.group.usage(), disk_kib=self._containers.disk_kib(container))
        bounds = bounds_of(container.launch)
        limits = Limits(
            cpu_milli=bounds.cpu_milli,
            memory_kib=bounds.memory_mib * 1024 if bounds.memory_mib else None,
            processes=bounds.pids,
            disk_kib=disk_limit_kib(container.launch),
        )
        return Stats(
            processes=usage.processes,
            rss_kib=usage.memory_kib,
            cpu_ms=usage.cpu_ns // 1_000_000,
            usage=usage,
            limits=limits,
        )

    async def exec(self, handle: ContainerHandle, spec: ExecSpec, on_output: OnOutput) -> ExecSession:
        """See ports.interactive."""
        container = self._containers.living.get(handle.container_id)
        if container is None or container.is_ending:
            raise ContainerGone
        return await self._containers.commands.start(container, spec, on_output)

    async def remount(self, handle: ContainerHandle, mounted: Mounted) -> None:
        """See ports.mounting."""
        container = self._containers.living.get(handle.container_id)
        if container is None or container.is_ending or container.pod is None:
            raise MountFailed("the container has ended")
        try:
            await container.enclosure.mount(container.pod, [mounted], replaces=True)
        except WallGone:
            raise MountFailed("the container has ended") from None
        except WallFailed as error:
            raise (MountBusy if error.code == errno.EBUSY else MountFailed)(str(error)) from error

    async def discard(self, container_id: str = "") -> None:
        """See ports.mounting."""
        await asyncio.to_thread(self._machine.remove_tree, self._home.uppers / container_id)

    def template_pid(self, spec: TemplateSpec) -> int | None:
        """The process of an open template: for tests that kill it."""
        opened = self._templates.find(spec)
        return opened.template.pid if opened is not None and opened.template is not None else None

    def infrastructure(self) -> tuple[set[int], set[str]]:
        """Processes and folders that belong to no container: for tests that look for what is left over."""
        pids: set[int] = set()
        folders: set[str] = set()
        for enclosure in self._enclosures:
            pods = enclosure.stock.pods()
            pids |= {enclosure.wall.pid, *(pod.pid for pod in pods)}
            folders |= {enclosure.name, *(f"{enclosure.name}/{pod.name}" for pod in pods)}
        pids |= self._templates.pids() | self._launchers.pids()
        return pids, folders

    async def close(self) -> None:
        """See the port."""
        handles = [one.handle for one in self._containers.living.values() if one.handle is not None]
        await asyncio.gather(*(self.destroy(handle) for handle in handles))
        self._templates.close_all()
        self._launchers.close()
        for enclosure in list(self._enclosures):
            enclosure.close()
            enclosure.wall.kill()
            await enclosure.gone()
        await self._containers.close()
        await self._limiter.close()
        await self._names_of_hubs.close()
        await self._network.close()
        self._leftovers.close()


def _too_weak(launch: Launch) -> StartFailed:
    reason = f"it must run at the tier {launch.isolation.value!r}, and this worker has 'namespaces'"
    return StartFailed(reason, encode_failure_text("UnsupportedError", reason, module="jitney.errors"))


def _failure(message: str) -> bytes:
    return encode_failure_text("StartupError", message, module="jitney.errors")
