"""What this machine's agent knows and decides: events in, instructions out. Synchronous; `now_ms` is an argument.

The agent is two objects. This one never waits: it takes an event, updates its records, and says what is to be done.
The other (`worker.agent`) does it, and feeds back what came of it as the next event, so that a failure is an event
like any other. Who may send what (`worker.events`):

    the server     StartContainer, StopContainer, InterruptContainer, PrewarmTemplate, WithdrawTemplate, BuildImage,
                   AskImages, Shutdown. Any of them may come twice (after a broken link), and a stop may name a
                   container that is gone or was never here.
    the runtime    TemplateOpened | TemplateBroken for each OpenTemplate, TemplateDied when it has, and it can tell; for
                   each RunContainer: ContainerUp, then
                   ContainerGone; or NotStarted; or TemplateLost; or, after AbandonStart, StartAbandoned.
    the builder    BuildDone for each Build, ImagesAnswered for each AskImages.
    the link       LinkLost, LinkRestored.
    the clock      Tick, at `next_deadline_ms` or later.

A container is WAITING for its template, then STARTING, then RUNNING, and leaves with exactly one exit report. A stop
is a mark (`kill_at_ms`) on whichever of these it is in: a waiting container goes at once, a starting one gets its
signal as soon as it is up, and is given up when its grace is over.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from jitney.ports.runtime import ContainerHandle
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.wire.messages import workers
from jitney.worker import ahead, events
from jitney.worker.collecting import Collecting
from jitney.worker.pool import TemplatePool

STARTS_MAX = 3  # templates that may die under one launch before it fails
SHUTDOWN_GRACE_MS = 3_000
KILL_AGAIN_MS = 5_000  # a SIGKILL takes this long only while the kernel is stuck in a device
ORPHAN_MS = 300_000  # without a server for so long: stop everything
HELD_MS = 5_000  # and what is there for a person: a server that comes later does not know it any more
HELD_GRACE_MS = 2_000
STORY_EVENTS_MAX = 500


def startup_failure(message: str) -> bytes:
    """A failure payload that the client raises as `StartupError(message)`."""
    return encode_failure_text("StartupError", message, module="jitney.errors")


class Phase(StrEnum):
    """Where a container is, seen from its machine."""

    WAITING = "waiting"  # for its template
    STARTING = "starting"
    RUNNING = "running"


class Tracked(msgspec.Struct, kw_only=True):
    """A container that the server asked for and whose exit was not reported yet."""

    launch: Launch
    asked_at_ms: int
    phase: Phase = Phase.WAITING
    handle: ContainerHandle | None = None
    started_at_ms: int = 0
    phases_ms: dict[str, float] = msgspec.field(default_factory=lambda: {"template": 0.0})  # see core.phases
    starts: int = 0
    kill_at_ms: int | None = None  # a stop was asked for: SIGKILL at this time
    is_overdue: bool = False  # that time has come


def _running(one: Tracked) -> workers.RunningContainer:
    return workers.RunningContainer(
        container_id=one.launch.container_id,
        function_id=one.launch.function_id,
        app_id=one.launch.app_id,
        pid=one.handle.pid if one.handle is not None else 0,
        started_at_ms=one.started_at_ms or one.asked_at_ms,
    )


def _is_held(one: Tracked) -> bool:
    """Whether a person holds it, over the server's link, and nobody has stopped it."""
    return one.launch.is_held and one.kill_at_ms is None


class WorkerState:
    """See the module."""

    def __init__(self, pool: TemplatePool | None = None, collecting: Collecting | None = None) -> None:
        self.containers: dict[str, Tracked] = {}
        self.pool = pool or TemplatePool()
        self.collecting = collecting or Collecting()
        self.story: deque[tuple[int, str]] = deque(maxlen=STORY_EVENTS_MAX)
        self.is_closing = False
        self._has_quit = False
        self._has_commands = False  # since the link was made
        self._lost_at_ms: int | None = None
        self._builds: set[str] = set()
        self._now_ms = 0
        self._todo: list[events.Instruction] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            workers.StartContainer: self._on_start,
            workers.StopContainer: self._on_stop,
            workers.InterruptContainer: self._on_interrupt,
            workers.BuildImage: self._on_build,
            workers.AskImages: self._on_ask_images,
            workers.PrewarmTemplate: lambda one: self.pool.ask(one.template, keep=one.keep),
            workers.WithdrawTemplate: lambda one: self._close(self.pool.withdraw(one.template)),
            workers.OpenExec: self._on_open_exec,
            workers.FeedExec: self._on_exec,
            workers.EndExec: self._on_exec,
            workers.StatsContainers: self._on_stats,
            workers.Shutdown: self._on_shutdown,
            events.TemplateOpened: self._on_template_opened,
            events.TemplateBroken: self._on_template_broken,
            events.TemplateLost: self._on_template_lost,
            events.TemplateDied: lambda one: self.pool.died(one.spec, self._now_ms),
            events.ContainerUp: self._on_up,
            events.NotStarted: self._on_not_started,
            events.StartAbandoned: self._on_start_abandoned,
            events.ContainerGone: self._on_gone,
            events.BuildDone: self._on_build_done,
            events.ImagesAnswered: self._on_images_answered,
            events.LinkLost: self._on_link_lost,
            events.LinkRestored: self._on_link_restored,
            events.Tick: self._on_tick,
        }

    def handle(self, event: object, now_ms: int) -> list[events.Instruction]:
        """What is to be done after `event`, in this order."""
        self._now_ms = now_ms
        self._handlers[type(event)](event)
        if not self.is_closing:
            self._todo += ahead.settle(self.pool, self._now_ms, self._tell)
        if self.is_closing and not self.containers and not self._has_quit:
            self._has_quit = True
            self._close(self.pool.clear())
            self._todo.append(events.Quit())
        todo, self._todo = self._todo, []
        return todo

    def running(self) -> tuple[workers.RunningContainer, ...]:
        """What a server that knows nothing is told on attaching."""
        return tuple(map(_running, self.containers.values()))

    def images_in_use(self) -> set[str]:
        """What containers and templates run from, or are about to."""
        return {one.launch.template.image_id for one in self.containers.values()} | self.pool.images()

    def next_deadline_ms(self) -> int | None:
        """When the next Tick is due; None while nothing waits for the clock."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterator[int]:
        for one in self.containers.values():
            if one.kill_at_ms is not None:
                yield one.kill_at_ms
        yield from self.pool.deadlines(self._now_ms)
        if self._lost_at_ms is not None and not self.is_closing:
            yield self._lost_at_ms + (HELD_MS if any(map(_is_held, self.containers.values())) else ORPHAN_MS)
        if self.collecting.due_at_ms is not None:
            yield self.collecting.due_at_ms

    # -------------------------------------------------------------------------------------------- the server

    def _on_start(self, command: workers.StartContainer) -> None:
        launch = command.launch
        known = self.containers.get(launch.container_id)
        if known is not None:  # asked twice: the answer may have been lost
            if known.handle is not None:
                self._report_started(known)
            return
        one = self.containers[launch.container_id] = Tracked(launch=launch, asked_at_ms=self._now_ms)
        if self.is_closing:
            self._end(one, startup_failure("this machine's worker is stopping"), transient=True)
        else:
            self._launch(one)

    def _launch(self, one: Tracked) -> None:
        """Start it if its template is warm; otherwise let it wait for the template."""
        spec, container_id = one.launch.template, one.launch.container_id
        answer = self.pool.want(spec, container_id, self._now_ms)
        self._close(answer.close)
        if answer.adopt:
            self._todo.append(events.AdoptOutput(spec, container_id))
        if answer.run:
            self._run(one)
        elif answer.failure:
            self._end(one, answer.failure)
        else:
            one.phase = Phase.WAITING
            if answer.open:
                self._todo.append(events.OpenTemplate(spec, container_id))

    def _run(self, one: Tracked) -> None:
        one.phase = Phase.STARTING
        one.starts += 1
        self._todo.append(events.RunContainer(one.launch, newest=one.starts < STARTS_MAX))

    def _on_stop(self, command: workers.StopContainer) -> None:
        one = self.containers.get(command.container_id)
        if one is None:  # gone, or never here: say so, for the report may have been lost
            self._send(workers.ContainerExited(container_id=command.container_id, exit=Exit()))
        else:
            self._stop(one, command.grace_ms)

    def _stop(self, one: Tracked, grace_ms: int) -> None:
        if one.phase is Phase.WAITING:
            self._close(self.pool.give_up(one.launch.template, one.launch.container_id))
            self._end(one)
            return
        kill_at_ms, is_first = self._now_ms + grace_ms, one.kill_at_ms is None
        one.kill_at_ms = kill_at_ms if one.kill_at_ms is None else min(one.kill_at_ms, kill_at_ms)
        if is_first or one.kill_at_ms <= self._now_ms:
            self._end_process(one)

    def _end_process(self, one: Tracked) -> None:
        """SIGTERM, or SIGKILL when it is time. One that is not up yet has nobody who could take a signal."""
        if one.is_overdue or (one.kill_at_ms or 0) <= self._now_ms:
            one.is_overdue = True
            one.kill_at_ms = self._now_ms + KILL_AGAIN_MS
            if one.handle is None:
                self._todo.append(events.AbandonStart(one.launch.container_id))
            else:
                self._todo.append(events.DestroyContainer(one.handle))
        elif one.handle is not None:
            self._todo.append(events.SignalContainer(one.handle, signal.SIGTERM))

    def _on_interrupt(self, command: workers.InterruptContainer) -> None:
        one = self.containers.get(command.container_id)
        if one is not None and one.handle is not None:
            self._todo.append(events.SignalContainer(one.handle, signal.SIGURG))

    def _on_build(self, command: workers.BuildImage) -> None:
        if command.build_id not in self._builds:
            self._builds.add(command.build_id)
            self._todo.append(events.Build(command.build_id, command.spec))

    def _on_build_done(self, done: events.BuildDone) -> None:
        self._builds.discard(done.build_id)
        code, message, hint = done.error
        self._send(workers.BuildEnded(build_id=done.build_id, image=done.image, code=code, message=message, hint=hint))

    def _on_ask_images(self, command: workers.AskImages) -> None:
        if command.task_id in self._builds:
            return
        self._builds.add(command.task_id)
        if isinstance(command.task, workers.RemoveImage):
            # A template that is only kept warm is no use of its image.
            self._close(self.pool.forget_idle(command.task.image_id))
        in_use = frozenset(self.images_in_use() | set(getattr(command.task, "in_use", ())))
        self._todo.append(events.AskImages(command.task_id, command.task, in_use))

    def _on_images_answered(self, event: events.ImagesAnswered) -> None:
        self._builds.discard(event.answer.task_id)
        self._send(event.answer)

    # -------------------------------------------------------------------------------------------- commands

    def _on_open_exec(self, command: workers.OpenExec) -> None:
        """Commands are not kept here: they are of the link, and end with it."""
        one = self.containers.get(command.container_id)
        if one is not None:
            self._has_commands = True
            self._todo.append(events.Interact(command, one.handle, one.launch.template.image_id))
            return
        reason = f"container {command.container_id} has ended"
        self._send(workers.ExecEnded(exec_id=command.exec_id, code="not_found", reason=reason))

    def _on_exec(self, command: workers.FeedExec | workers.EndExec) -> None:
        self._todo.append(events.Interact(command))

    def _on_stats(self, command: workers.StatsContainers) -> None:
        wanted = command.container_ids or tuple(self.containers)
        found = [one for name in wanted if (one := self.containers.get(name)) is not None]
        handles = tuple(one.handle for one in found if one.handle is not None)
        self._todo.append(events.Measure(command.request_id, handles))

    def _on_shutdown(self, _: object) -> None:
        self.is_closing = True
        self._tell("shutdown")
        for one in list(self.containers.values()):
            self._stop(one, SHUTDOWN_GRACE_MS)

    # -------------------------------------------------------------------------------------------- templates

    def _on_template_opened(self, event: events.TemplateOpened) -> None:
        for container_id in self.pool.opened(event.spec, self._now_ms, event.facts.kib):
            one = self.containers[container_id]
            one.phases_ms = ahead.waited_phases(event, float(self._now_ms - one.asked_at_ms))
            self._run(one)

    def _on_template_broken(self, event: events.TemplateBroken) -> None:
        self._tell(f"template of {event.spec.module or event.spec.image_id} is broken")
        for container_id in self.pool.broken(event.spec, event.payload, self._now_ms):
            self._end(self.containers[container_id], event.payload)

    def _on_template_lost(self, event: events.TemplateLost) -> None:
        one = self.containers[event.container_id]
        spec = one.launch.template
        self._tell(f"template of {spec.module or spec.image_id} was lost")
        self._close(self.pool.lost(spec, event.container_id, self._now_ms, is_outdated=event.is_outdated))
        if one.kill_at_ms is not None:
            self._end(one)
        elif one.starts >= STARTS_MAX and not event.is_outdated:
            reason = f"the warm process that it starts from died {one.starts} times at its start"
            self._end(one, startup_failure(reason), transient=True)
        else:
            self._launch(one)

    # -------------------------------------------------------------------------------------------- containers

    def _on_up(self, event: events.ContainerUp) -> None:
        one = self.containers[event.handle.container_id]
        one.phase = Phase.RUNNING
        one.handle = event.handle
        one.started_at_ms = self._now_ms
        self._report_started(one)
        if one.kill_at_ms is not None:
            self._end_process(one)

    def _report_started(self, one: Tracked) -> None:
        assert one.handle is not None
        report = workers.ContainerStarted(
            container_id=one.handle.container_id,
            pid=one.handle.pid,
            phases_ms={**one.phases_ms, "fork": one.handle.fork_ms},
            note=one.handle.note,
        )
        self._send(report)

    def _on_not_started(self, event: events.NotStarted) -> None:
        failure = event.failure or startup_failure(f"the container could not be started: {event.reason}")
        self._end(self.containers[event.container_id], failure, transient=not event.failure)

    def _on_start_abandoned(self, event: events.StartAbandoned) -> None:
        self._end(self.containers[event.container_id])

    def _on_gone(self, event: events.ContainerGone) -> None:
        self._end(self.containers[event.container_id], how=event.exit)

    def _end(self, one: Tracked, failure: bytes = b"", *, how: Exit | None = None, transient: bool = False) -> None:
        container_id = one.launch.container_id
        del self.containers[container_id]
        self.pool.ended(one.launch.template, container_id, self._now_ms)
        how = how or Exit(exit_code=1 if failure else None)
        report = workers.ContainerExited(container_id=container_id, exit=how, failure=failure, transient=transient)
        self._send(report)

    # -------------------------------------------------------------------------------------------- clock, link

    def _on_link_lost(self, _: events.LinkLost) -> None:
        self.collecting.no_server()
        self._lost_at_ms = self._now_ms if self._lost_at_ms is None else self._lost_at_ms
        if self._has_commands:
            self._has_commands = False
            self._todo.append(events.EndCommands())

    def _on_link_restored(self, _: events.LinkRestored) -> None:
        self._lost_at_ms = None
        self.collecting.has_server(self._now_ms)

    def _on_tick(self, _: events.Tick) -> None:
        for one in self.containers.values():
            if one.kill_at_ms is not None and one.kill_at_ms <= self._now_ms:
                self._tell(f"{one.launch.container_id} outlived its grace")
                self._end_process(one)
        self._close(self.pool.too_idle(self._now_ms))
        if due := self.collecting.tick(self._now_ms):
            self._send(due)
        lost_ms = 0 if self._lost_at_ms is None else self._now_ms - self._lost_at_ms
        for one in [one for one in self.containers.values() if lost_ms >= HELD_MS and _is_held(one)]:
            self._stop(one, HELD_GRACE_MS)
        if lost_ms >= ORPHAN_MS and not self.is_closing:
            self._tell("no server for too long")
            self._on_shutdown(None)

    def _close(self, specs: Iterable[TemplateSpec]) -> None:
        self._todo += map(events.CloseTemplate, specs)

    def _send(self, report: workers.WorkerReport) -> None:
        self._todo.append(events.Send(report))

    def _tell(self, what: str) -> None:
        self.story.append((self._now_ms, what))
