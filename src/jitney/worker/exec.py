"""Commands in containers, and what containers use: the runtime's sessions on the one side, the link on the other.

A command belongs to the link over which it was asked for. When that breaks nobody can be heard any more, and all of
them are ended (`end_all`). Nothing here waits for the server: what a reader has not taken yet stops its command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec

from jitney.ports.interactive import KILLED, NOT_FOUND, ContainerGone, ExecFailed, ExecSession, ExecSpec, Interactive
from jitney.ports.runtime import ContainerHandle, Runtime, StartFailed
from jitney.values.containers import Exit, Measured
from jitney.values.images import BuiltImage
from jitney.wire.messages import workers
from jitney.worker import events

log = logging.getLogger("jitney.worker")

CONTAINER_STARTS_S = 5.0  # after its own runner has said that it is there
CONTAINER_ENDS_S = 0.5  # after a command of it that was killed with it
SHELLS = ("/bin/bash", "/bin/sh")  # the first that there is


class _Running:
    """A command from its first mention to its end."""

    def __init__(self) -> None:
        self.session: ExecSession | None = None
        self.early: list[workers.FeedExec] = []  # what came before it had started
        self.outputs = 0
        self.task: asyncio.Task[None] | None = None


class Commands:
    """See the module.

    Args:
        report: sends a report, in order.
        spawn: runs a coroutine beside.
        image: an image of this machine by id; raises `StartFailed` where there is none.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        report: Callable[[workers.WorkerReport], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        image: Callable[[str], BuiltImage],
        now_ms: Callable[[], int],
    ) -> None:
        self._runtime = runtime
        self._report = report
        self._spawn = spawn
        self._image = image
        self._now_ms = now_ms
        self._running: dict[str, _Running] = {}
        self._waiting: dict[asyncio.Future[ContainerHandle], str] = {}  # for containers to have started

    def perform(self, asked: events.Interact) -> None:
        """Begin, feed or end a command."""
        command = asked.command
        if isinstance(command, workers.OpenExec):
            if command.exec_id not in self._running:
                running = self._running[command.exec_id] = _Running()
                running.task = self._spawn(self._run(running, command, asked.handle, asked.image_id))
                running.task.add_done_callback(lambda _: self._forget(command.exec_id))
            return
        known = self._running.get(command.exec_id)
        if known is None:
            return  # it has ended meanwhile
        if isinstance(command, workers.EndExec):
            self._end(known)
        elif known.session is None:
            known.early.append(command)
        else:
            self._feed(known.session, command)

    def end_all(self) -> None:
        """Nobody holds any of them any more."""
        for running in list(self._running.values()):
            self._end(running)

    def _end(self, running: _Running) -> None:
        assert running.task is not None
        running.task.cancel()

    def _forget(self, exec_id: str) -> None:
        session = self._running.pop(exec_id).session
        if session is not None:
            session.kill()

    # -------------------------------------------------------------------------------------------- one command

    async def _run(
        self, running: _Running, command: workers.OpenExec, handle: ContainerHandle | None, image_id: str
    ) -> None:
        exec_id = command.exec_id

        def on_output(fd: int, data: bytes) -> None:
            self._report(workers.ExecOutput(exec_id=exec_id, seq=running.outputs, fd=fd, data=data))
            running.outputs += 1

        try:
            ended = await self._to_its_end(running, command, handle, image_id, on_output)
        except Exception as error:
            log.exception("command_failed container=%s", command.container_id)
            ended = workers.ExecEnded(exec_id=exec_id, code="internal", reason=f"the command failed: {error!r}")
        self._report(ended)

    async def _to_its_end(
        self,
        running: _Running,
        command: workers.OpenExec,
        handle: ContainerHandle | None,
        image_id: str,
        on_output: Callable[[int, bytes], None],
    ) -> workers.ExecEnded:
        exec_id = command.exec_id
        handle = handle or await self._handle_of(command.container_id)
        if handle is None:
            reason = f"container {command.container_id} has not started yet"
            return workers.ExecEnded(exec_id=exec_id, code="not_found", reason=reason, hint="try again in a moment")
        if not self._runtime.capabilities().exec:
            reason = (
                f"the runtime {self._runtime.capabilities().name!r} of this machine cannot run commands in containers"
            )
            hint = "use a runtime that can: `jitney doctor` lists them"
            return workers.ExecEnded(exec_id=exec_id, code="unsupported", reason=reason, hint=hint)
        try:
            session = running.session = await self._start(handle, command.spec, image_id, on_output)
        except ExecFailed as failed:
            return workers.ExecEnded(exec_id=exec_id, exit_code=failed.exit_code, reason=str(failed))
        except ContainerGone:
            reason = f"container {command.container_id} has ended"
            return workers.ExecEnded(exec_id=exec_id, code="not_found", reason=reason)
        for feed in running.early:
            self._feed(session, feed)
        running.early.clear()
        code = await session.wait()
        how = await self._end_of(handle) if code == KILLED else None
        reason = f"container {command.container_id} has ended: {how.describe()}" if how is not None else ""
        return workers.ExecEnded(exec_id=exec_id, exit_code=code, reason=reason)

    async def _handle_of(self, container_id: str) -> ContainerHandle | None:
        """Of a container that starts at this moment."""
        up: asyncio.Future[ContainerHandle] = asyncio.get_running_loop().create_future()
        self._waiting[up] = container_id
        try:
            async with asyncio.timeout(CONTAINER_STARTS_S):
                return await up
        except TimeoutError:
            return None
        finally:
            del self._waiting[up]

    def container_up(self, handle: ContainerHandle) -> None:
        """A container has started: commands may be waiting for it."""
        for up, container_id in self._waiting.items():
            if container_id == handle.container_id and not up.done():
                up.set_result(handle)

    async def _end_of(self, handle: ContainerHandle) -> Exit | None:
        """How the container of a command that was killed has ended, if it was that which ended the command."""
        waiting = asyncio.ensure_future(self._runtime.wait(handle))
        try:
            done, _ = await asyncio.wait({waiting}, timeout=CONTAINER_ENDS_S)
        finally:
            waiting.cancel()
        return waiting.result() if done else None

    async def _start(
        self, handle: ContainerHandle, spec: ExecSpec, image_id: str, on_output: Callable[[int, bytes], None]
    ) -> ExecSession:
        runtime = cast(Interactive, self._runtime)
        if spec.argv:
            return await runtime.exec(handle, spec, on_output)
        for argv in self._default_commands(image_id):
            try:
                return await runtime.exec(handle, msgspec.structs.replace(spec, argv=argv), on_output)
            except ExecFailed as failed:
                if failed.exit_code != NOT_FOUND:
                    raise
        raise ExecFailed("the image has no shell: name a command that it has", NOT_FOUND)

    def _default_commands(self, image_id: str) -> list[tuple[str, ...]]:
        """What to run where nothing was named: the image's command or shell, or else a usual one."""
        shells = [(shell,) for shell in SHELLS]
        try:
            image = self._image(image_id)
        except StartFailed:
            return list(shells)
        own = image.cmd or image.shell[:1]
        return [own, *shells] if own else list(shells)

    def _feed(self, session: ExecSession, feed: workers.FeedExec) -> None:
        if feed.took:
            session.took(feed.took)
        if feed.size is not None:
            session.resize(feed.size)
        if feed.signal:
            session.signal(feed.signal)
        if feed.data:
            session.write(feed.data)
            self._spawn(self._say_taken(session, feed.exec_id, len(feed.data)))
        if feed.eof:
            session.close_input()

    async def _say_taken(self, session: ExecSession, exec_id: str, count: int) -> None:
        await session.drained()
        if exec_id in self._running:
            self._report(workers.ExecTook(exec_id=exec_id, count=count))

    # -------------------------------------------------------------------------------------------- what they use

    def measure(self, asked: events.Measure) -> None:
        """Ask the runtime about each container, and tell."""
        measured = []
        for handle in asked.handles:
            stats = self._runtime.stats(handle)
            if stats is not None:
                measured.append(
                    Measured(
                        container_id=handle.container_id,
                        at_ms=self._now_ms(),
                        usage=stats.usage,
                        limits=stats.limits,
                    )
                )
        self._report(workers.ContainersMeasured(request_id=asked.request_id, measured=tuple(measured)))
