"""The containers of one runtime: started, watched, ended, and counted."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec

from jitney.drivers.runtime.forking.loading import load_message, note_line
from jitney.drivers.runtime.forking.memory import OomCounter
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.namespaces.commands import Commands
from jitney.drivers.runtime.namespaces.container import Container
from jitney.drivers.runtime.namespaces.disk import DEFAULT_MIB, DiskWatch
from jitney.drivers.runtime.namespaces.enclosure import Enclosure
from jitney.drivers.runtime.namespaces.templates import Opened
from jitney.drivers.walls import render
from jitney.drivers.walls.wall import WallFailed, WallGone
from jitney.ports.limits import Bounds, Limiter, LimitsFailed
from jitney.ports.network import Refused
from jitney.ports.runtime import ContainerHandle, Output, StartFailed, TemplateFailed, TemplateGone
from jitney.values.containers import Exit, Launch

ENDED_KEPT = 1_000  # exits that are remembered for who asks again
PIDS_MAX = 4_096  # processes and threads of one container
SAMPLE_S = 1.0


class Containers:
    """See the module. `living` has those that have not ended, by id. `uppers`: where they write to volumes."""

    def __init__(self, limiter: Limiter, uppers: Path) -> None:
        self.living: dict[str, Container] = {}
        self.ended: OrderedDict[str, Exit] = OrderedDict()
        self.commands = Commands()
        self._limiter = limiter
        self._uppers = uppers
        self._by_inner: dict[tuple[str, int], Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._oom = OomCounter()
        self._sampling: asyncio.Task[None] | None = None
        self._disk = DiskWatch(self._over_disk)

    # -------------------------------------------------------------------------------------------- starting

    async def start(self, launch: Launch, opened: Opened, output: Output) -> ContainerHandle:
        """A container behind the wall of an open template.

        Raises:
            TemplateGone: that does not live any more.
            StartFailed: it cannot be started.
        """
        container = Container(launch, opened.enclosure, output)
        self.living[container.id] = container
        opened.enclosure.containers.add(container.id)
        self._oom.begin()
        try:
            container.group = self._limiter.make(container.id, bounds_of(launch))
            container.pod = await opened.enclosure.take_pod(render.shm_mib(launch))
            if launch.mounts:
                await opened.enclosure.mount(container.pod, launch.mounts)
            for one in launch.attached:
                await opened.enclosure.wall.attach(container.pod, one.descriptor, one.target, read_only=one.read_only)
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
                private=launch.secrets,
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
            on_death=self.on_template_death,
            judge=lambda how: judge(container, how, kernel_short_of_memory=self._oom.has_risen),
        )
        template.advice = "Load less, or raise the limit in memory= of the function."
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
        if container.enclosure.no_network:
            text = f"this container has no network: {container.enclosure.no_network}"
            container.output([note_line(container.id, text)])
        assert container.pod is not None
        folder = container.enclosure.folder_of(container.pod)
        uppers = str(self._uppers / container.id) if container.launch.mounts else ""
        self._disk.watch(container.id, folder, disk_limit_kib(container.launch), container.pod.pid, uppers)
        container.started.set_result(handle)

    async def _discard(self, container: Container) -> None:
        """It never ran."""
        if container.id in self.living and not container.is_ending:
            container.is_ending = True
            await asyncio.shield(self.spawn(self._remove(container)))

    # -------------------------------------------------------------------------------------------- ending

    def on_exited(self, container_id: str, pid: int, how: Exit) -> None:
        """A template has collected a container."""
        container = self.living.get(container_id)
        if container is not None and container.inner_pid == pid:
            self.finish(container, how)

    def on_orphan(self, enclosure: str, pid: int, how: Exit) -> None:
        container = self._by_inner.get((enclosure, pid))
        if container is not None:
            self.finish(container, how)

    def finish(self, container: Container, how: Exit) -> None:
        if not container.is_ending:
            container.is_ending = True
            self.spawn(self._finished(container, how))

    async def _finished(self, container: Container, how: Exit) -> None:
        """Its first process has ended: end the others, count, then say so."""
        if container.pod is not None:
            container.pod.kill()
            await container.pod.gone
        disk_kib = self._disk.forget(container.id)
        judged = judge(container, how, disk_kib=disk_kib, kernel_short_of_memory=self._oom.has_risen)
        await self._remove(container)
        self.ended[container.id] = judged
        while len(self.ended) > ENDED_KEPT:
            self.ended.popitem(last=False)
        container.ended.set_result(judged)

    async def _remove(self, container: Container) -> None:
        if container.pod is not None:
            await container.enclosure.drop_pod(container.pod)
        if container.group is not None:
            await container.group.remove()
        self.commands.end(container.id)
        container.close()
        self.living.pop(container.id, None)
        self._by_inner.pop((container.enclosure.name, container.inner_pid), None)
        container.enclosure.containers.discard(container.id)
        container.enclosure.retire()
        if not self.living:
            self._oom.end()

    async def _sample(self) -> None:
        """Memory is billed by time: look at it now and then, while there is anything to look at."""
        loop = asyncio.get_running_loop()
        while self.living:
            await asyncio.sleep(SAMPLE_S)
            for container in list(self.living.values()):
                if container.group is not None and not container.is_ending:
                    container.group.sample(int(loop.time() * 1e9))
        self._sampling = None

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -------------------------------------------------------------------------------------------- what befalls them

    def _over_disk(self, container_id: str, used_kib: int, uncommitted_kib: int) -> None:
        container = self.living.get(container_id)
        if container is not None and not container.is_ending:
            container.over_quota, container.over_kib = "disk", disk_limit_kib(container.launch)
            where = f" ({uncommitted_kib // 1024:,} MiB to volumes, not committed yet)" if uncommitted_kib else ""
            text = (
                f"it was ended: it has written {used_kib // 1024:,} MiB{where}, over the "
                f"{container.over_kib // 1024:,} MiB of its ephemeral_disk"
            )
            container.output([note_line(container.id, text)])
            container.kill()

    def disk_kib(self, container: Container) -> int:
        """What it has written, when it was looked at last."""
        return self._disk.used_kib(container.id)

    def on_template_death(self, template: TemplateProcess) -> None:
        """Its containers go on: the warden tells of their end."""
        for container in list(self.living.values()):
            if container.template is template:
                if template.is_cold:
                    self.finish(container, template.exit)
                else:
                    container.template = None

    def on_wall_death(self, enclosure: Enclosure) -> None:
        """Whatever was behind it has ended with it."""
        for container in list(self.living.values()):
            if container.enclosure is enclosure and container.handle is not None:
                self.finish(container, Exit(signal=signal.SIGKILL))

    def on_refused(self, refused: Refused) -> None:
        """Say in the container's log what its network policy has refused."""
        for container in self.living.values():
            if container.enclosure.name == refused.hub_id and container.address == refused.address:
                text = f"the network policy refused {refused.name}: {refused.why}"
                container.output([note_line(container.id, text)])

    async def close(self) -> None:
        """Until nothing of any is left."""
        self._disk.close()
        if self._sampling is not None:
            self._sampling.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)


def disk_limit_kib(launch: Launch) -> int:
    """What a container may write to its own file system."""
    return (launch.resources.ephemeral_disk_mib or DEFAULT_MIB) * 1024


def bounds_of(launch: Launch) -> Bounds:
    """The limits of a container."""
    want = launch.resources
    return Bounds(
        cpu_weight_milli=want.cpu_milli,
        cpu_milli=want.cpu_limit_milli,
        memory_mib=want.memory_limit_mib,
        pids=PIDS_MAX,
    )


def judge(container: Container, how: Exit, *, disk_kib: int = 0, kernel_short_of_memory: Callable[[], bool]) -> Exit:
    """What ended a container, and what it has used. `how` is what its first process said of it."""
    assert container.group is not None
    usage = msgspec.structs.replace(container.group.usage(), disk_kib=disk_kib)
    limit_mib = container.launch.resources.memory_limit_mib
    how = msgspec.structs.replace(
        how,
        usage=usage,
        max_rss_kib=max(how.max_rss_kib, usage.memory_peak_kib),
        cpu_ms=max(how.cpu_ms, usage.cpu_ns // 1_000_000),
    )
    if container.over_quota:
        return msgspec.structs.replace(how, over_quota=container.over_quota, limit_kib=container.over_kib)
    if how.signal != signal.SIGKILL or container.was_killed:
        return how
    if container.group.oom_kills():
        return msgspec.structs.replace(how, oom_killed=True, limit_kib=(limit_mib or 0) * 1024)
    return msgspec.structs.replace(how, oom_killed=kernel_short_of_memory())
