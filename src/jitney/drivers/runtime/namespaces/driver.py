"""The runtime itself: enclosures with their templates, containers, and what joins them."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping

import msgspec

from jitney.drivers.runtime.forking import leftovers
from jitney.drivers.runtime.forking.leftovers import Leftovers
from jitney.drivers.runtime.forking.loading import load_message, note_line
from jitney.drivers.runtime.forking.marker import marker_of
from jitney.drivers.runtime.forking.memory import OomCounter
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.namespaces.commands import Commands
from jitney.drivers.runtime.namespaces.container import Container
from jitney.drivers.runtime.namespaces.enclosure import STOCK_MIN, Enclosure
from jitney.drivers.runtime.namespaces.names import no_names
from jitney.drivers.runtime.namespaces.templates import Templates
from jitney.drivers.walls import render
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.wall import WallFailed, WallGone
from jitney.ports.interactive import ContainerGone, ExecSession, ExecSpec, OnOutput
from jitney.ports.limits import Bounds, Limiter, LimitsFailed
from jitney.ports.network import Names, Network, OnRefused, Refused
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
from jitney.wire.home import Home

ENDED_KEPT = 1_000  # exits that are remembered for who asks again
PIDS_MAX = 4_096  # processes and threads of one container
SAMPLE_S = 1.0


class NamespacesRuntime:
    """Containers behind walls of namespaces.

    Args:
        home: the server folder.
        limiter: bounds and counts what containers use.
        network: their way out.
        names: makes what answers for names, where a policy lists domains; what is refused goes to the given function.
        stock_min: pods that are kept ready behind each wall.
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
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._limiter = limiter
        self._network = network
        self._names_of_hubs = names(self._on_refused)
        self._stock_min = stock_min
        self._environ = os.environ if environ is None else environ
        self._machine = Machine()
        self._leftovers = Leftovers(home, marker_of(home))
        self._names = itertools.count(1)
        self._templates = Templates(self._enclose, on_exited=self._on_exited, on_death=self._on_template_death)
        self._enclosures: set[Enclosure] = set()
        self._containers: dict[str, Container] = {}
        self._by_inner: dict[tuple[str, int], Container] = {}
        self._commands = Commands()
        self._ended: OrderedDict[str, Exit] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._oom = OomCounter()
        self._sampling: asyncio.Task[None] | None = None

    def capabilities(self) -> Capabilities:
        """See the port."""
        limits = self._limiter.capabilities()
        return Capabilities(
            name=Isolation.NAMESPACES,
            isolation=True,
            memory_limit=limits.memory,
            process_limit=limits.pids,
            exec=True,
        )

    async def reap(self) -> int:
        """See the port."""
        leftovers.adopt_orphans()
        count = await self._leftovers.reap()
        await self._limiter.reap()
        await self._network.reap()
        await asyncio.to_thread(self._remove_folders)
        return count

    def _remove_folders(self) -> None:
        self._home.containers.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._home.containers.iterdir():
            if path.is_dir() and not path.is_symlink():
                self._machine.remove_tree(path)
            else:
                path.unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------------- templates

    async def open_template(self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output) -> None:
        """See the port."""
        leftovers.adopt_orphans()
        await self._templates.open(spec, self._machine.complete(image), cause, output)

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
            on_orphan=lambda pid, how: self._on_orphan(name, pid, how),
            on_death=self._on_wall_death,
        )
        self._enclosures.add(enclosure)
        try:
            env = render.launcher_env(self._environ, marker_of(self._home))
            await enclosure.open(self._machine.launcher(), env)
        except BaseException as error:
            self._enclosures.discard(enclosure)
            if isinstance(error, WallFailed | WallGone):
                raise TemplateFailed(_failure(f"the wall around it cannot be made: {error}")) from error
            raise
        return enclosure

    def _on_refused(self, refused: Refused) -> None:
        """Say in the container's log what its policy has refused."""
        for container in self._containers.values():
            if container.enclosure.name == refused.hub_id and container.address == refused.address:
                text = f"the network policy refused {refused.name}: {refused.why}"
                container.output([note_line(container.id, text)])

    def _on_template_death(self, template: TemplateProcess) -> None:
        """Its containers go on: the warden tells of their end."""
        for container in list(self._containers.values()):
            if container.template is template:
                if template.is_cold:
                    self._finish(container, template.exit)
                else:
                    container.template = None

    def _on_wall_death(self, enclosure: Enclosure) -> None:
        self._templates.lost(enclosure)
        for container in list(self._containers.values()):
            if container.enclosure is enclosure and container.handle is not None:
                self._finish(container, Exit(signal=signal.SIGKILL))
        self._spawn(self._forget_enclosure(enclosure))

    async def _forget_enclosure(self, enclosure: Enclosure) -> None:
        await enclosure.gone()
        self._enclosures.discard(enclosure)

    def template_facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """See ports.runtime.TemplateInsight."""
        return self._templates.facts(spec)

    def watch_templates(self, on_death: object) -> None:
        """See ports.runtime.TemplateInsight."""
        self._templates.on_lost = on_death  # type: ignore[assignment]

    # -------------------------------------------------------------------------------------------- starting

    async def start(self, launch: Launch, image: BuiltImage, output: Output) -> ContainerHandle:
        """See the port."""
        if not launch.isolation.allows(Isolation.NAMESPACES):
            raise _too_weak(launch)
        opened = self._templates.find(launch.template)
        if opened is None:
            raise TemplateGone
        container = Container(launch, opened.enclosure, output)
        self._containers[container.id] = container
        opened.enclosure.containers.add(container.id)
        self._oom.begin()
        try:
            container.group = self._limiter.make(container.id, _bounds(launch))
            container.pod = await opened.enclosure.take_pod(render.shm_mib(launch))
            template, note = opened.template, opened.note
            if template is None:
                template = await self._start_cold(container)
            container.template = template
            joins = container.group.join_fds if not template.is_cold else ()
            pods = (container.pod.pidfd,) if not template.is_cold else ()
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            message = render.render_fork(launch, opened.enclosure.image, nofile_hard=hard)
            message["descriptors"] = len(pods) + len(joins)
            template.fork(
                message,
                [*container.capture.child_fds, *pods, *joins],
                lambda pid, why, handles: self._on_forked(container, pid, why, handles, note),
            )
            return await container.started
        except WallGone:
            await self._discard(container)
            raise TemplateGone from None
        except TemplateFailed as failed:
            await self._discard(container)
            raise StartFailed("its module cannot be imported", failed.payload) from failed
        except (WallFailed, LimitsFailed) as error:
            await self._discard(container)
            raise StartFailed(str(error)) from error
        except BaseException:
            await self._discard(container)
            raise

    async def _start_cold(self, container: Container) -> TemplateProcess:
        assert container.pod is not None
        assert container.group is not None
        spec = container.launch.template
        template = await container.enclosure.start_cold(
            container.pod,
            container.group.join_fds,
            container.id,
            container.output,
            on_death=self._on_template_death,
        )
        try:
            await template.load(load_message(spec, render.HOME if spec.source_id else ""))
        except BaseException:
            template.kill()
            raise
        return template

    def _on_forked(self, container: Container, pid: int, why: str, handles: list[int], note: str) -> None:
        if container.started.done() or not pid:
            for one in handles:
                os.close(one)
            if not container.started.done():
                container.started.set_exception(StartFailed(why) if why else TemplateGone())
            return
        if not handles:  # a cold one is the process that we started
            assert container.template is not None
            handles = [os.pidfd_open(container.template.pid)]
        handle = container.forked(pid, handles[0], note)
        if not (container.template is not None and container.template.is_cold):
            self._by_inner[container.enclosure.name, pid] = container
        if self._sampling is None:
            self._sampling = asyncio.get_running_loop().create_task(self._sample())
        container.started.set_result(handle)

    async def _discard(self, container: Container) -> None:
        """It never ran."""
        if container.id in self._containers and not container.is_ending:
            container.is_ending = True
            await asyncio.shield(self._spawn(self._remove(container)))

    # -------------------------------------------------------------------------------------------- ending

    def _on_exited(self, container_id: str, pid: int, how: Exit) -> None:
        """A template has collected a container."""
        container = self._containers.get(container_id)
        if container is not None and container.inner_pid == pid:
            self._finish(container, how)

    def _on_orphan(self, enclosure: str, pid: int, how: Exit) -> None:
        container = self._by_inner.get((enclosure, pid))
        if container is not None:
            self._finish(container, how)

    def _finish(self, container: Container, how: Exit) -> None:
        if not container.is_ending:
            container.is_ending = True
            self._spawn(self._finished(container, how))

    async def _finished(self, container: Container, how: Exit) -> None:
        """Its first process has ended: end the others, count, then say so."""
        if container.pod is not None:
            container.pod.kill()
            await container.pod.gone
        judged = self._judge(container, how)
        await self._remove(container)
        self._ended[container.id] = judged
        while len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        container.ended.set_result(judged)

    async def _remove(self, container: Container) -> None:
        if container.pod is not None:
            await container.enclosure.drop_pod(container.pod)
        if container.group is not None:
            await container.group.remove()
        self._commands.end(container.id)
        container.close()
        self._containers.pop(container.id, None)
        self._by_inner.pop((container.enclosure.name, container.inner_pid), None)
        container.enclosure.containers.discard(container.id)
        container.enclosure.retire()
        if not self._containers:
            self._oom.end()

    def _judge(self, container: Container, how: Exit) -> Exit:
        """What ended it, and what it has used."""
        assert container.group is not None
        usage = container.group.usage()
        peak_kib = max(how.max_rss_kib, usage.memory_peak_kib)
        limit_mib = container.launch.resources.memory_limit_mib
        how = msgspec.structs.replace(
            how, usage=usage, max_rss_kib=peak_kib, cpu_ms=max(how.cpu_ms, usage.cpu_ns // 1_000_000)
        )
        if container.over_quota:
            return msgspec.structs.replace(how, over_quota=container.over_quota, limit_kib=container.over_kib)
        if container.group.oom_kills() and how.signal == signal.SIGKILL and not container.was_killed:
            return msgspec.structs.replace(how, oom_killed=True, limit_kib=(limit_mib or 0) * 1024)
        by_kernel = how.signal == signal.SIGKILL and not container.was_killed and self._oom.has_risen()
        return msgspec.structs.replace(how, oom_killed=True) if by_kernel else how

    async def _sample(self) -> None:
        """Memory is billed by time: look at it now and then, while there is anything to look at."""
        loop = asyncio.get_running_loop()
        while self._containers:
            await asyncio.sleep(SAMPLE_S)
            for container in list(self._containers.values()):
                if container.group is not None and not container.is_ending:
                    container.group.sample(int(loop.time() * 1e9))
        self._sampling = None

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -------------------------------------------------------------------------------------------- asking

    async def wait(self, handle: ContainerHandle) -> Exit:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is None:
            return self._ended.get(handle.container_id, Exit())
        return await asyncio.shield(container.ended)

    def signal(self, handle: ContainerHandle, signum: int) -> None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is not None and not container.is_ending:
            container.signal(signum)

    async def destroy(self, handle: ContainerHandle) -> None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is not None:
            container.kill()
            await asyncio.shield(container.ended)

    def stats(self, handle: ContainerHandle) -> Stats | None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is None or container.is_ending or container.group is None:
            return None
        usage = container.group.usage()
        bounds = _bounds(container.launch)
        limits = Limits(
            cpu_milli=bounds.cpu_milli,
            memory_kib=bounds.memory_mib * 1024 if bounds.memory_mib else None,
            processes=bounds.pids,
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
        container = self._containers.get(handle.container_id)
        if container is None or container.is_ending:
            raise ContainerGone
        return await self._commands.start(container, spec, on_output)

    def template_pid(self, spec: TemplateSpec) -> int | None:
        """The process of an open template: for tests that kill it."""
        opened = self._templates.find(spec)
        return opened.template.pid if opened is not None and opened.template is not None else None

    def infrastructure(self) -> tuple[set[int], set[str]]:
        """Processes and folders that belong to no container: for tests that look for what is left over."""
        pids: set[int] = set()
        folders: set[str] = set()
        for enclosure in self._enclosures:
            pods = enclosure.in_stock()
            pids |= {enclosure.wall.pid, *(pod.pid for pod in pods)}
            folders |= {enclosure.name, *(f"{enclosure.name}/{pod.name}" for pod in pods)}
        pids |= self._templates.pids()
        return pids, folders

    async def close(self) -> None:
        """See the port."""
        handles = [one.handle for one in self._containers.values() if one.handle is not None]
        await asyncio.gather(*(self.destroy(handle) for handle in handles))
        self._templates.close_all()
        for enclosure in list(self._enclosures):
            enclosure.close()
            enclosure.wall.kill()
            await enclosure.gone()
        if self._sampling is not None:
            self._sampling.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._limiter.close()
        await self._names_of_hubs.close()
        await self._network.close()
        self._leftovers.close()


def _bounds(launch: Launch) -> Bounds:
    want = launch.resources
    return Bounds(
        cpu_weight_milli=want.cpu_milli,
        cpu_milli=want.cpu_limit_milli,
        memory_mib=want.memory_limit_mib,
        pids=PIDS_MAX,
    )


def _too_weak(launch: Launch) -> StartFailed:
    reason = f"it must run at the tier {launch.isolation.value!r}, and this worker has 'namespaces'"
    return StartFailed(reason, encode_failure_text("UnsupportedError", reason, module="jitney.errors"))


def _failure(message: str) -> bytes:
    return encode_failure_text("StartupError", message, module="jitney.errors")
