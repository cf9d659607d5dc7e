"""The containers of one runtime: started, watched, ended, and counted."""

from __future__ import annotations

import asyncio
import itertools
import resource
import signal
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

import msgspec

from jitney.drivers.runtime.forking.loading import load_message, note_line
from jitney.drivers.runtime.forking.memory import OomCounter
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.kept.box import Box
from jitney.drivers.runtime.kept.commands import Commands
from jitney.drivers.runtime.kept.container import Container
from jitney.drivers.runtime.kept.keeper import BoxFailed, BoxGone
from jitney.drivers.runtime.kept.render import PIDS_MAX, folders, hub_of, render_fork
from jitney.drivers.runtime.kept.templates import Opened
from jitney.drivers.runtime.kept.volumes import Volumes
from jitney.drivers.walls.render import HOME
from jitney.ports.limits import Bounds, Limiter, LimitsFailed
from jitney.ports.mounting import MountFailed
from jitney.ports.network import Refused
from jitney.ports.runtime import ContainerHandle, Output, StartFailed, Stats, TemplateFailed, TemplateGone
from jitney.values.containers import Exit, Launch, Limits, Usage

ENDED_KEPT = 1_000  # exits that are remembered for who asks again
SAMPLE_S = 1.0


class Containers:
    """See the module. `living` has those that have not ended, by id.

    Args:
        limiter: makes control groups for them; None where processes of a box cannot enter any.
        volumes: mounts theirs.
        shares_locks: see `render.render_fork`.
    """

    def __init__(self, limiter: Limiter | None, volumes: Volumes, *, shares_locks: bool) -> None:
        self.living: dict[str, Container] = {}
        self.ended: OrderedDict[str, Exit] = OrderedDict()
        self.commands = Commands()
        self._limiter = limiter
        self._volumes = volumes
        self._has_memory = limiter is not None and limiter.capabilities().memory
        self._shares_locks = shares_locks
        self._by_pid: dict[tuple[str, int], Container] = {}
        self._names = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._oom = OomCounter()
        self._sampling: asyncio.Task[None] | None = None

    # -------------------------------------------------------------------------------------------- starting

    async def start(self, launch: Launch, opened: Opened, output: Output) -> ContainerHandle:
        """A container in the box of an open template.

        Raises:
            TemplateGone: that does not live any more.
            StartFailed: it cannot be started.
        """
        container = Container(launch, opened.box, output)
        self.living[container.id] = container
        opened.box.admit(container.id, launch.resources.cpu_limit_milli)
        self._oom.begin()
        try:
            if self._limiter is not None:
                container.group = self._limiter.make(container.id, bounds_of(launch))
            _, cwd, made = folders(container.id, opened.box.image)
            container.is_prepared = True
            await opened.box.keeper.prepare(container.id, made, cwd)
            if launch.mounts or launch.attached:
                container.is_mounted = True
                await self._volumes.attach(container.box, launch.mounts, launch.attached)
            template = opened.template or await self._start_cold(container)
            container.template = template
            joins = container.group.join_fds if container.group is not None and not template.is_cold else ()
            message = {**self.fork_of(container), "descriptors": len(joins)}
            container.is_forking = True
            template.fork(
                message,
                [*container.capture.child_fds, *joins],
                lambda pid, why, _: self._on_forked(container, pid, why, opened.loaded.note),
                private=launch.secrets,
            )
            return await container.started
        except BoxGone:
            await self._discard(container)
            raise TemplateGone from None
        except TemplateFailed as failed:
            await self._discard(container)
            raise StartFailed("its module cannot be imported", failed.payload) from failed
        except (BoxFailed, LimitsFailed, MountFailed) as error:
            await self._discard(container)
            raise StartFailed(str(error)) from error
        except BaseException:
            await self._discard(container)
            raise

    def fork_of(self, container: Container) -> dict[str, Any]:
        """What a template is asked for."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return render_fork(container.launch, container.box.image, nofile_hard=hard, shares_locks=self._shares_locks)

    async def _start_cold(self, container: Container) -> TemplateProcess:
        template = await container.box.start_process(
            f"c{next(self._names)}",
            container.id,
            container.output,
            is_cold=True,
            joins=container.group.join_fds if container.group is not None else (),
            on_exited=_nobody,
            on_death=self.on_template_death,
        )
        try:
            spec = container.launch.template
            await template.load(load_message(spec, HOME if spec.source_id else ""))
        except BaseException:
            template.kill()
            await template.dead
            raise
        return template

    def _on_forked(self, container: Container, pid: int, why: str, note: str) -> None:
        container.is_forking = False
        is_abandoned = container.started.done()  # nobody waits for it any more
        if not pid:
            if is_abandoned:
                self._spawn_removal(container)
            else:
                container.started.set_exception(StartFailed(why) if why else TemplateGone())
            return
        is_cold = container.template is not None and container.template.is_cold
        if is_cold and container.template is not None:
            pid = container.template.pid
        handle = container.forked(pid, note)
        if not is_cold:
            self._by_pid[container.box.name, pid] = container
        no_network = container.box.no_network
        for text in (note, f"this container has no network: {no_network}" if no_network else ""):
            if text:
                container.output([note_line(container.id, text)])
        limit_mib = container.launch.resources.memory_limit_mib
        container.box.keeper.watch(pid, 0 if self._has_memory else (limit_mib or 0) * 1024)
        if self._sampling is None and self._limiter is not None:
            self._sampling = asyncio.get_running_loop().create_task(self._sample())
        if is_abandoned:
            container.kill()
        else:
            container.started.set_result(handle)

    async def _discard(self, container: Container) -> None:
        """It never ran; or it may yet come to run, and is ended then."""
        container.started.cancel()
        if container.id in self.living and not container.is_ending and not container.is_forking:
            await asyncio.shield(self._spawn_removal(container))

    def _spawn_removal(self, container: Container) -> asyncio.Task[None]:
        container.is_ending = True
        return self.spawn(self._remove(container))

    # -------------------------------------------------------------------------------------------- ending

    def on_exited(self, container_id: str, pid: int, how: Exit) -> None:
        """A template has collected a container."""
        container = self.living.get(container_id)
        if container is not None and container.pid == pid:
            self.finish(container, how)

    def on_orphan(self, box: Box, pid: int, how: Exit) -> None:
        """A keeper has collected a process whose parent is gone."""
        container = self._by_pid.get((box.name, pid))
        if container is not None:
            self.finish(container, how)

    def on_over(self, box: Box, pid: int, used_kib: int) -> None:
        """A container has more memory than its limit, and is being ended."""
        for container in self.living.values():
            if container.box is box and container.pid == pid and not container.over_kib:
                container.over_kib = used_kib
                if container.group is not None:
                    container.group.kill()

    def on_template_death(self, template: TemplateProcess) -> None:
        """Its containers go on: the keeper tells of their end."""
        for container in list(self.living.values()):
            if container.template is template:
                if template.is_cold and container.handle is not None:
                    self.finish(container, template.exit)
                else:
                    container.template = None

    def on_box_death(self, box: Box) -> None:
        """Whatever was in it has ended with it."""
        for container in list(self.living.values()):
            if container.box is box and container.handle is not None:
                self.finish(container, Exit(signal=signal.SIGKILL))

    def finish(self, container: Container, how: Exit) -> None:
        """Its first process has ended."""
        if not container.is_ending:
            container.is_ending = True
            self.spawn(self._finished(container, how))

    async def _finished(self, container: Container, how: Exit) -> None:
        """End the others, count, then say so."""
        seen = container.box.keeper.usages.get(container.pid)
        await self._end_rest(container)
        judged = self._judge(container, how, seen)
        await self._remove(container)
        self.ended[container.id] = judged
        while len(self.ended) > ENDED_KEPT:
            self.ended.popitem(last=False)
        container.ended.set_result(judged)

    async def _end_rest(self, container: Container) -> None:
        if container.group is not None:
            container.group.kill()
        if container.is_prepared:
            box = container.box
            others = [one.pid for one in self.living.values() if one.box is box and one is not container and one.pid]
            container.is_prepared = False
            await box.keeper.clean(container.id, container.pid, others)
        if container.is_mounted:
            container.is_mounted = False
            launch = container.launch
            targets = [one.target for one in launch.mounts] + [one.target for one in launch.attached]
            await self._volumes.detach(container.box, targets)
        if not container.box.has_room:
            await container.box.dead
            if container.box.why_ended and not container.was_killed:
                container.output([note_line(container.id, f"the box around it ended: {container.box.why_ended}")])
                container.box.why_ended = ""

    async def _remove(self, container: Container) -> None:
        await self._end_rest(container)
        if container.group is not None:
            await container.group.remove()
        self.commands.end(container.id)
        container.close()
        self.living.pop(container.id, None)
        self._by_pid.pop((container.box.name, container.pid), None)
        container.box.release(container.id)
        if not self.living:
            self._oom.end()

    def _judge(self, container: Container, how: Exit, seen: Stats | None) -> Exit:
        """What ended it, and what it has used."""
        usage = self._usage(container, seen or Stats())
        how = msgspec.structs.replace(
            how,
            usage=usage,
            max_rss_kib=max(how.max_rss_kib, usage.memory_peak_kib, container.over_kib),
            cpu_ms=max(how.cpu_ms, usage.cpu_ns // 1_000_000),
        )
        limit_kib = (container.launch.resources.memory_limit_mib or 0) * 1024
        if how.signal != signal.SIGKILL or container.was_killed:
            return how
        if container.over_kib or (container.group is not None and container.group.oom_kills()):
            return msgspec.structs.replace(how, oom_killed=True, limit_kib=limit_kib)
        return msgspec.structs.replace(how, oom_killed=self._oom.has_risen())

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
        """Do it, sooner or later."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -------------------------------------------------------------------------------------------- counting

    def stats(self, container: Container) -> Stats:
        """What it uses now, or did at the last look."""
        seen = container.box.keeper.usages.get(container.pid) or Stats(processes=1)
        usage = self._usage(container, seen)
        limit_mib = container.launch.resources.memory_limit_mib
        limits = Limits(memory_kib=limit_mib * 1024 if limit_mib else None)
        if container.group is not None:
            bounds = bounds_of(container.launch)
            limits = msgspec.structs.replace(limits, cpu_milli=bounds.cpu_milli, processes=bounds.pids)
        return Stats(
            processes=usage.processes,
            rss_kib=usage.memory_kib,
            cpu_ms=usage.cpu_ns // 1_000_000,
            usage=usage,
            limits=limits,
        )

    def _usage(self, container: Container, seen: Stats) -> Usage:
        if container.group is not None and self._limiter is not None and self._limiter.capabilities().accounting:
            return container.group.usage()
        return Usage(
            cpu_ns=seen.cpu_ms * 1_000_000,
            memory_kib=seen.rss_kib,
            memory_peak_kib=seen.rss_kib,
            processes=seen.processes,
        )

    def on_refused(self, refused: Refused) -> None:
        """Say in the log what a network policy has refused. Containers of one box have one address."""
        for container in self.living.values():
            if hub_of(container.box.name) == refused.hub_id:
                text = f"the network policy refused {refused.name}: {refused.why}"
                container.output([note_line(container.id, text)])

    async def close(self) -> None:
        """Until nothing of any is left."""
        if self._sampling is not None:
            self._sampling.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)


def bounds_of(launch: Launch) -> Bounds:
    """The limits of a container."""
    want = launch.resources
    return Bounds(
        cpu_weight_milli=want.cpu_milli,
        cpu_milli=want.cpu_limit_milli,
        memory_mib=want.memory_limit_mib,
        pids=PIDS_MAX,
    )


def _nobody(container_id: str, pid: int, how: Exit) -> None:
    """A cold container forks none."""
