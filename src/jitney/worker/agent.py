"""The asyncio half of this machine's agent: it performs what `worker.state` decides, and feeds back what came of it.

Each instruction that takes time is a task, and a task never raises: its outcome, good or bad, is the next event. The
drivers are handed in. The agent is not on the path of calls: runners talk to the server themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from jitney import __version__
from jitney.core import imagesecrets
from jitney.errors import JitneyError
from jitney.ports.buckets import BucketMounter
from jitney.ports.builder import ImageBuilder
from jitney.ports.runtime import (
    ContainerHandle,
    Runtime,
    StartFailed,
    TemplateGone,
)
from jitney.ports.trees import Trees
from jitney.values.containers import Exit, Launch, LogLine, NodeInfo
from jitney.values.images import BuiltImage
from jitney.wire.home import Home
from jitney.wire.messages import workers
from jitney.worker import events, images, node
from jitney.worker.buckets import Buckets
from jitney.worker.collecting import Holds
from jitney.worker.exec import Commands
from jitney.worker.link import ServerLink
from jitney.worker.mounts import Mounts
from jitney.worker.redacting import RedactedOutput, RedactedText
from jitney.worker.snapshots import Snapshots
from jitney.worker.state import WorkerState, startup_failure
from jitney.worker.templates import Templates

log = logging.getLogger("jitney.worker")

DRAIN_S = 2.0  # for the last reports, when everything has ended


class _Outdated(Exception):
    """A container would be forked from a snapshot of older volumes than it reads."""


class Agent:
    """Runs containers on this machine for the server of `home`, until it is told to stop or nobody asks any more."""

    def __init__(
        self,
        home: Home,
        runtime: Runtime,
        builder: ImageBuilder,
        *,
        state: WorkerState | None = None,
        trees: Trees | None = None,
        mounter: BucketMounter | None = None,
    ) -> None:
        self.home = home
        self.runtime = runtime
        self.builder = builder
        self.state = state or WorkerState()
        self.node: NodeInfo = node.describe(home.root, runtime.capabilities().name)
        self.link = ServerLink(
            home,
            version=__version__,
            attach=lambda: workers.WorkerAttach(node=self.node, containers=self.state.running()),
            on_command=self._command,
            on_restored=lambda: self.feed(events.LinkRestored()),
            on_lost=lambda: self.feed(events.LinkLost()),
        )
        self.commands = Commands(
            runtime, report=self.link.report, spawn=self._spawn, image=self._image, now_ms=self._now_ms
        )
        self.mounts = Mounts(home, runtime, trees, request=self.link.request, report=self.link.report)
        self.snapshots = Snapshots(runtime, self.mounts.lending)
        self.buckets = Buckets(runtime, mounter)
        self._clock_offset_s = time.time() - time.monotonic()  # Unix time that does not jump while we run
        self._holds = Holds(builder)
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: dict[str, asyncio.Task[None]] = {}
        self.templates = Templates(
            runtime,
            self.snapshots,
            image=self._image,
            output=self._output,
            feed=self.feed,
            spawn=self._spawn,
            on_closed=self._let_go,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._is_arming = False
        self._done = asyncio.Event()
        self._performers: dict[type, Callable[[Any], object]] = {
            events.Send: lambda one: self.link.report(one.report),
            events.RunContainer: self._run,
            events.AbandonStart: self._abandon,
            events.SignalContainer: lambda one: self.runtime.signal(one.handle, one.signum),
            events.DestroyContainer: lambda one: self._spawn(self._destroy(one.handle)),
            events.OpenTemplate: self._open,
            events.CloseTemplate: self.templates.close,
            events.AdoptOutput: self.templates.adopt_output,
            events.Build: lambda one: self._spawn(self._build(one)),
            events.AskImages: lambda one: self._spawn(self._ask_images(one)),
            events.Interact: self.commands.perform,
            events.EndCommands: lambda one: self.commands.end_all(),
            events.Measure: self.commands.measure,
            events.Quit: lambda one: self._done.set(),
        }

    async def run(self) -> None:
        """Serve until there is nothing more to do: the server shut us down, or was gone for too long."""
        reaped = sum([await one.reap() for one in (self.runtime, self.builder, self.mounts, self.buckets)])
        if reaped:
            log.info("leftovers_reaped count=%d", reaped)
        self.feed(events.LinkLost())  # there is none yet
        connecting = asyncio.create_task(self.link.run())
        try:
            await self._done.wait()
            await self.link.drain(DRAIN_S)
        finally:
            connecting.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait([connecting, *self._tasks])
            await self.builder.close()
            await self.runtime.close()
            await self.buckets.close()

    def _command(self, command: workers.WorkerCommand) -> None:
        if isinstance(command, workers.SyncMount):
            self._spawn(self.mounts.sync(command))
        else:
            self.feed(command)

    def stop(self) -> None:
        """End all containers, then `run`."""
        self.feed(workers.Shutdown())

    def feed(self, event: object) -> None:
        """Something happened."""
        for instruction in self.state.handle(event, self._now_ms()):
            self._performers[type(instruction)](instruction)
        if not self._is_arming:
            self._is_arming = True
            asyncio.get_running_loop().call_soon(self._arm)

    def _now_ms(self) -> int:
        return int((time.monotonic() + self._clock_offset_s) * 1000)

    def _arm(self) -> None:
        """Have the clock tell us of the next deadline; once for all events of a turn of the loop."""
        self._is_arming = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_ms = self.state.next_deadline_ms()
        if deadline_ms is not None:
            delay_s = max(deadline_ms - self._now_ms(), 0) / 1000 + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.feed, events.Tick())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -------------------------------------------------------------------------------------------- containers

    def _run(self, instruction: events.RunContainer) -> None:
        launch = instruction.launch
        self._starting[launch.container_id] = self._spawn(self._run_container(launch, newest=instruction.newest))

    def _abandon(self, instruction: events.AbandonStart) -> None:
        task = self._starting.pop(instruction.container_id, None)
        if task is not None:
            task.cancel()

    async def _run_container(self, launch: Launch, *, newest: bool) -> None:
        quiet = RedactedOutput(self._output, launch.secrets) if launch.secrets else None
        handle = await self._start(launch, quiet, newest=newest)
        if handle is None:
            if quiet is not None:
                quiet.finish()
            return
        self.feed(events.ContainerUp(handle))
        self.commands.container_up(handle)
        attending = self._spawn(self.mounts.attend(handle))
        try:
            how = await self.runtime.wait(handle)
        except Exception:
            log.exception("wait_failed container=%s", handle.container_id)
            how = Exit()
        finally:
            attending.cancel()
        await self.mounts.ended(handle.container_id)
        await self.buckets.ended(handle.container_id)
        if quiet is not None:
            quiet.finish()
        self.feed(events.ContainerGone(handle.container_id, how))

    async def _start(self, launch: Launch, quiet: RedactedOutput | None, *, newest: bool) -> ContainerHandle | None:
        """None: it did not start, and that was told."""
        container_id = launch.container_id
        why: object
        try:
            image = self._image(launch.template.image_id)
            launch = await self.mounts.ready(launch)
            if newest and self.snapshots.is_outdated(launch):
                raise _Outdated
            launch = await self.buckets.ready(launch)
            if quiet is not None:
                await quiet.prepare()
            return await self.runtime.start(launch, image, quiet or self._output)
        except asyncio.CancelledError:
            if container_id in self._starting:
                raise  # the agent itself ends
            why = events.StartAbandoned(container_id)
        except TemplateGone:
            why = events.TemplateLost(container_id)
        except _Outdated:
            why = events.TemplateLost(container_id, is_outdated=True)
        except Exception as error:
            if not isinstance(error, StartFailed | JitneyError):
                log.exception("start_failed container=%s", container_id)
            payload = error.payload if isinstance(error, StartFailed) else b""
            why = events.NotStarted(container_id, str(error) or repr(error), payload)
        finally:
            self._starting.pop(container_id, None)
        await self.mounts.ended(container_id)  # it never ran
        await self.buckets.ended(container_id)
        self.feed(why)  # at the end: it may be started again at once
        return None

    async def _destroy(self, handle: ContainerHandle) -> None:
        try:
            await self.runtime.destroy(handle)
        except Exception:
            log.exception("destroy_failed container=%s", handle.container_id)  # the state asks again

    def _output(self, lines: Sequence[LogLine]) -> bool:
        return self.link.lines(lines)

    def _image(self, image_id: str) -> BuiltImage:
        image = self._holds.take(image_id)
        if image is None:
            reason = f"image {image_id} is not on this machine: build it again"
            raise StartFailed(reason, startup_failure(reason))
        return image

    def _let_go(self) -> None:
        """Of images that nothing runs from any more. A template that is closing still does."""
        self._holds.keep(self.state.images_in_use() | self.templates.images_closing())

    # -------------------------------------------------------------------------------------------- images

    def _open(self, instruction: events.OpenTemplate) -> None:
        self._holds.renew(instruction.spec.image_id)  # it may have been built anew
        self.templates.open(instruction)

    async def _build(self, build: events.Build) -> None:
        image_id = ""
        quiet = RedactedText(imagesecrets.values(build.spec))

        def progress(step: int, steps: int, title: str, line: str) -> None:
            self.link.report(
                workers.BuildLine(
                    build_id=build.build_id, image_id=image_id, step=step, steps=steps, title=title, line=quiet(line)
                )
            )

        try:
            image_id = self.builder.plan(build.spec).image_id
            image = await self.builder.build(build.spec, progress, self.mounts.lending)
        except JitneyError as error:
            done = events.BuildDone(build.build_id, error=(error.code, quiet(error.message), quiet(error.hint)))
        except Exception as error:
            log.exception("build_failed build=%s", build.build_id)
            done = events.BuildDone(build.build_id, error=("internal", quiet(f"the build failed: {error!r}"), ""))
        else:
            self._holds.renew(image.image_id)
            done = events.BuildDone(build.build_id, image=image)
        self.feed(done)

    async def _ask_images(self, ask: events.AskImages) -> None:
        try:
            if isinstance(ask.task, workers.RemoveImage):
                # Its idle templates were just told to go; they have the image open.
                await self.templates.closed(ask.task.image_id)
            self._let_go()
            answer = await images.perform(self.builder, ask.task, ask.in_use, self._now_ms())
        except JitneyError as error:
            answer = workers.ImagesAnswer(task_id="", code=error.code, message=error.message, hint=error.hint)
        except Exception as error:
            log.exception("images_failed task=%s", type(ask.task).__name__)
            answer = workers.ImagesAnswer(task_id="", code="internal", message=f"it failed: {error!r}")
        removed = [answer.image_id, *(answer.collected.images if answer.collected else ())]
        for image_id in removed:
            self._holds.renew(image_id)
        self.feed(events.ImagesAnswered(msgspec.structs.replace(answer, task_id=ask.task_id)))
