"""The runtime itself: templates, containers, and what joins them."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence

from jitney.drivers.runtime.forking import leftovers, procfs
from jitney.drivers.runtime.forking.exits import collect_exit, watch_exit
from jitney.drivers.runtime.forking.leftovers import Leftovers
from jitney.drivers.runtime.forking.memory import MemoryWatch, OomCounter
from jitney.drivers.runtime.forking.scratch import ScratchFolders
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.process.checkpoints import Checkpoints
from jitney.drivers.runtime.process.container import Container
from jitney.drivers.runtime.process.exec import Commands
from jitney.drivers.runtime.process.measure import measure
from jitney.drivers.runtime.process.render import missing_wall, render_container, unsupported
from jitney.drivers.runtime.process.templates import Templates, marker_of
from jitney.drivers.runtime.process.views import Views
from jitney.ports.checkpoints import AcceleratorHooks, Checkpointer
from jitney.ports.interactive import ContainerGone, ExecSession, ExecSpec, OnOutput
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
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted
from jitney.wire.home import Home

CHECKPOINTS_MIB = 8_192
ENDED_KEPT = 1_000  # exits that are remembered for who asks again


CAN = Capabilities(
    name="process",
    isolation=False,
    memory_limit=os.path.isdir("/proc/self"),
    process_limit=False,
    exec=True,
    snapshot_volumes=True,
)


class ProcessRuntime:
    """Containers as plain processes of this user, forked from warm ones. For trusted code: there is no wall.

    Args:
        home: the server folder.
        environ: what containers see of the environment; this process's own by default.
        checkpointer, hooks: for containers that cannot be forked; None: they are started cold.
        checkpoints_mib: what all checkpoints may take on the disk.
        template_limit_mib: memory that each template may take as it imports; 0: what there is.
    """

    def __init__(
        self,
        home: Home,
        *,
        environ: Mapping[str, str] | None = None,
        checkpointer: Checkpointer | None = None,
        hooks: AcceleratorHooks | None = None,
        checkpoints_mib: int = CHECKPOINTS_MIB,
        template_limit_mib: int = 0,
    ) -> None:
        self._home = home
        self._children: set[int] = set()  # ours by right: templates, and containers that have no template (any more)
        self._leftovers = Leftovers(home, marker_of(home))
        self._scratch = ScratchFolders(home.containers)
        self._views = Views(home)
        self._memory = MemoryWatch(self._over_memory)
        self._checkpoints = Checkpoints(home, checkpointer, hooks, checkpoints_mib)
        self._templates = Templates(
            home,
            os.environ if environ is None else environ,
            self._children,
            self._checkpoints,
            on_exited=self._on_exited,
            on_death=self._on_template_death,
            limit_mib=template_limit_mib,
        )
        self._commands = Commands(self._children, lambda: self._spawn(self._leftovers.sweep(self._children)))
        self._containers: dict[str, Container] = {}
        self._ended: OrderedDict[str, Exit] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._oom = OomCounter()
        self._adopts = False

    def capabilities(self) -> Capabilities:
        """See the port."""
        return CAN

    async def reap(self) -> int:
        """See the port."""
        self._adopt_orphans()
        count = await self._leftovers.reap()
        await asyncio.to_thread(self._scratch.prepare)
        await self._checkpoints.prune(partial=True)
        return count

    def _adopt_orphans(self) -> None:
        if not self._adopts:
            self._adopts = True
            leftovers.adopt_orphans()

    # -------------------------------------------------------------------------------------------- templates

    async def open_template(
        self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output, volumes: Sequence[Mounted] = ()
    ) -> None:
        """See the port."""
        self._adopt_orphans()
        missing = missing_wall(spec.isolation, spec.network)
        if missing:  # before anything of it is imported
            raise TemplateFailed(unsupported(missing))
        async with self._views.of_template(volumes, image) as view:
            await self._templates.open(spec, image, cause, output, view, volumes)

    async def close_template(self, spec: TemplateSpec) -> None:
        """See the port."""
        template = self._templates.forget(spec)
        if template is not None:
            self._retire(template)
        elif spec.checkpoint:
            await self._checkpoints.prune()

    def template_facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """See ports.runtime.TemplateInsight."""
        loaded, template = self._templates.loaded(spec), self._templates.find(spec)
        if loaded is None:
            return None
        return loaded.facts(procfs.private_kib(template.pid) if template is not None else 0)

    def watch_templates(self, on_death: Callable[[TemplateSpec], None]) -> None:
        """See ports.runtime.TemplateInsight."""
        self._templates.on_lost = on_death

    def _retire(self, template: TemplateProcess) -> None:
        """End a template that nothing is started from any more, once it has no containers to look after."""
        if not self._templates.is_open(template) and all(
            one.template is not template for one in self._containers.values()
        ):
            template.kill()

    def _on_template_death(self, template: TemplateProcess) -> None:
        """Its containers are our children now, and whatever else it had started is a leftover."""
        for container in list(self._containers.values()):
            if container.template is template and container.handle is not None:
                if template.is_cold:
                    self._finish(container, template.exit)
                else:
                    self._become_parent(container, container.handle.pid)
        self._spawn(self._leftovers.sweep(self._children))

    def _become_parent(self, container: Container, pid: int) -> None:
        container.template = None
        self._children.add(pid)
        container.stop_watch = watch_exit(pid, lambda: self._on_child_exit(container, pid))

    # -------------------------------------------------------------------------------------------- starting

    async def start(self, launch: Launch, image: BuiltImage, output: Output) -> ContainerHandle:
        """See the port."""
        template = self._templates.find(launch.template)
        if template is None and not self._templates.is_cold(launch.template):
            raise TemplateGone
        missing = missing_wall(launch.isolation, launch.network)
        if missing:
            raise StartFailed(missing, unsupported(missing))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        recipe = render_container(launch, image, home=self._home, nofile_hard=hard)
        container = Container(launch, image, recipe, self._scratch, output)
        self._containers[container.id] = container
        self._oom.begin()
        try:
            container.view = await self._views.plan(launch.container_id, launch.mounts, image)
            if template is None:
                limit_mib = launch.resources.memory_limit_mib
                cold = self._templates.cold(launch.template, image, container.id, output, container.view, limit_mib)
                template, container.note = await cold
                container.view = None  # it has it
            container.template = template
            template.fork(
                container.message(),
                list(container.capture.child_fds),
                # One that was restored does not know its number here.
                lambda pid, why, _: self._on_forked(container, template.pid if pid and template.is_cold else pid, why),
                private=launch.secrets,
            )
        except TemplateFailed as failed:
            self._remove(container)
            raise StartFailed("its module cannot be imported", failed.payload) from failed
        except BaseException:
            self._remove(container)
            raise
        return await container.started

    def _on_forked(self, container: Container, pid: int, why: str) -> None:
        if not pid:
            error = StartFailed(why) if why else TemplateGone()
            if not container.started.done():
                container.started.set_exception(error)
            self._remove(container)
            return
        loaded = self._templates.loaded(container.launch.template)
        handle = container.forked(pid, container.note or (loaded.note if loaded is not None else ""))
        try:
            self._leftovers.record(container.id, pid, handle.start_ticks)
        except OSError:
            pass  # a full disk: a worker that comes after us has the marker to find it by
        limit_mib = container.launch.resources.memory_limit_mib
        if limit_mib is not None:
            self._memory.watch(container.id, pid, limit_mib)
        if container.started.done():  # nobody waits for it any more
            self._kill(container)
        else:
            container.started.set_result(handle)

    def _remove(self, container: Container) -> None:
        del self._containers[container.id]
        container.clean()
        if not self._containers:
            self._oom.end()

    # -------------------------------------------------------------------------------------------- ending

    def _on_exited(self, container_id: str, pid: int, exit: Exit) -> None:
        """A template has collected a container."""
        container = self._containers.get(container_id)
        if container is not None and container.handle is not None and container.handle.pid == pid:
            self._finish(container, exit)

    def _on_child_exit(self, container: Container, pid: int) -> None:
        """A container without a template has ended: collect it."""
        self._children.discard(pid)
        self._finish(container, collect_exit(pid))

    def _finish(self, container: Container, exit: Exit) -> None:
        """Its first process has ended: end the others, then say so."""
        judged = container.judge(exit, self._oom.has_risen)
        self._commands.end(container.id)
        self._memory.forget(container.id)
        self._leftovers.collect_strays(self._children, asyncio.get_running_loop().time())
        if self._leftovers.find(self._children):
            self._spawn(self._sweep_then(lambda: self._finished(container, judged)))
        else:
            self._finished(container, judged)

    def _finished(self, container: Container, exit: Exit) -> None:
        self._remove(container)
        self._leftovers.forget(container.id)
        self._ended[container.id] = exit
        while len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        container.ended.set_result(exit)
        if container.template is not None:
            self._retire(container.template)

    def _over_memory(self, container_id: str, used_kib: int) -> None:
        container = self._containers[container_id]
        container.over_kib = used_kib
        self._kill(container)

    def _kill(self, container: Container) -> None:
        container.was_killed = True
        if container.handle is not None and container.is_running():
            leftovers.end_tree(container.handle.pid)

    async def _sweep_then(self, done: Callable[[], None]) -> None:
        await self._leftovers.sweep(self._children)
        done()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        if container is not None and container.is_running():
            leftovers.send(handle.pid, signum)

    async def destroy(self, handle: ContainerHandle) -> None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is not None:
            self._kill(container)
            await asyncio.shield(container.ended)

    def stats(self, handle: ContainerHandle) -> Stats | None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is None or not container.is_running():
            return None
        return measure(container, self._commands.pids(container.id))

    async def exec(self, handle: ContainerHandle, spec: ExecSpec, on_output: OnOutput) -> ExecSession:
        """See ports.interactive."""
        container = self._containers.get(handle.container_id)
        if container is None or not container.is_running():
            raise ContainerGone
        launch = container.launch
        env = {**self._templates.env(launch.template, container.image), **launch.secrets}
        view_of = handle.pid if launch.mounts else 0
        return self._commands.start(container, spec, on_output, template_env=env, view_of=view_of)

    async def remount(self, handle: ContainerHandle, mounted: Mounted) -> None:
        """See ports.mounting."""
        await self._views.remount(self._containers.get(handle.container_id), mounted)

    async def discard(self, container_id: str = "") -> None:
        """See ports.mounting."""
        await self._views.discard(container_id)

    def template_pid(self, spec: TemplateSpec) -> int | None:
        """The process of an open template: for tests that kill it."""
        template = self._templates.find(spec)
        return template.pid if template is not None else None

    def template_pids(self) -> set[int]:
        """Every template process that lives, also one that loads or was closed."""
        return self._templates.pids()

    async def close(self) -> None:
        """See the port."""
        handles = [one.handle for one in self._containers.values() if one.handle is not None]
        await asyncio.gather(*(self.destroy(handle) for handle in handles))
        await self._templates.close()
        await self._leftovers.sweep(self._children)
        self._checkpoints.close()
        self._leftovers.close()
        self._scratch.close()
