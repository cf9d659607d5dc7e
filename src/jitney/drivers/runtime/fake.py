"""A runtime without processes, which does what a script says: for tests of whatever asks for containers.

It keeps the port's contract (and passes its conformance suite) unless the script of a container tells it not to. Time
is the event loop's, so that on a virtual clock hours pass at once.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from jitney.ports.runtime import (
    Capabilities,
    ContainerHandle,
    Output,
    StartFailed,
    Stats,
    TemplateFailed,
    TemplateGone,
)
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, Launch, LogLine, TemplateSpec
from jitney.values.images import BuiltImage

FIRST_PID = 1_000_000_000  # never a real process


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """How a container behaves. Times in ms; `exit_after_ms=None`: it runs until it gets a signal."""

    start_after_ms: int = 0
    never_starts: bool = False  # `start` does not return: a start report that is lost looks so from outside
    start_failure: str = ""
    template_dies: bool = False  # as this container is to be started
    exit_after_ms: int | None = None
    exit_code: int = 0
    exit_signal: int | None = None
    oom_killed: bool = False
    ignores_sigterm: bool = False
    output: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class TemplateScript(msgspec.Struct, frozen=True, kw_only=True):
    """How a template behaves."""

    load_ms: int = 0
    failure: str = ""
    never_loads: bool = False
    output: tuple[str, ...] = ()


class _Container:
    def __init__(self, handle: ContainerHandle, script: Script, output: Output) -> None:
        self.handle = handle
        self.script = script
        self.output = output
        self.signals: list[int] = []
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.body: asyncio.Task[int] | None = None

    def end(self, exit: Exit) -> None:
        if self.body is not None:
            self.body.cancel()
        if not self.exit.done():
            self.exit.set_result(exit)


class FakeRuntime:
    """Containers that exist only here.

    Args:
        script: how each container behaves, asked at its start.
        template: how each template behaves, asked whenever one is opened.
        body: what a container does, instead of what `exit_after_ms` says: its answer is the exit code. A test that
            needs a runner speaks the runner's protocol here.
    """

    def __init__(
        self,
        *,
        script: Callable[[Launch], Script] = lambda _: Script(),
        template: Callable[[TemplateSpec], TemplateScript] = lambda _: TemplateScript(),
        body: Callable[[Launch], Awaitable[int]] | None = None,
    ) -> None:
        self.script = script
        self.template = template
        self.body = body
        self.opened: list[TemplateSpec] = []  # each time that one was loaded, also in vain
        self.open: set[TemplateSpec] = set()
        self.started: list[Launch] = []
        self._containers: dict[str, _Container] = {}
        self._ended: dict[str, Exit] = {}
        self._pids = itertools.count(FIRST_PID)

    def capabilities(self) -> Capabilities:
        """See the port."""
        return Capabilities(name="fake", isolation=False, memory_limit=False, process_limit=False)

    async def reap(self) -> int:
        """See the port: nothing outlives the process."""
        return 0

    async def open_template(self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output) -> None:
        """See the port."""
        if spec in self.open:
            return
        self.opened.append(spec)
        script = self.template(spec)
        if script.never_loads:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(script.load_ms / 1000)
        _print(output, cause, script.output)
        if script.failure:
            raise TemplateFailed(encode_failure_text("ImportError", script.failure, module="builtins"))
        self.open.add(spec)

    async def close_template(self, spec: TemplateSpec) -> None:
        """See the port."""
        self.open.discard(spec)

    def kill_template(self, spec: TemplateSpec) -> None:
        """A template dies by itself."""
        self.open.discard(spec)

    async def start(self, launch: Launch, image: BuiltImage, output: Output) -> ContainerHandle:
        """See the port."""
        script = self.script(launch)
        if script.template_dies:
            self.open.discard(launch.template)
        if launch.template not in self.open:
            raise TemplateGone
        self.started.append(launch)
        if script.never_starts:
            await asyncio.get_running_loop().create_future()
        if script.start_after_ms:
            await asyncio.sleep(script.start_after_ms / 1000)
        if script.start_failure:
            raise StartFailed(script.start_failure)
        handle = ContainerHandle(container_id=launch.container_id, pid=next(self._pids), start_ticks=1)
        container = self._containers[launch.container_id] = _Container(handle, script, output)
        _print(output, launch.container_id, script.output, script.errors)
        loop = asyncio.get_running_loop()
        if self.body is not None:
            container.body = asyncio.ensure_future(self._run_body(container, self.body(launch)))
        elif script.exit_after_ms is not None:
            loop.call_later(script.exit_after_ms / 1000, container.end, _scripted_exit(script))
        return handle

    async def _run_body(self, container: _Container, body: Awaitable[int]) -> int:
        code = 1
        try:
            code = await body
        finally:
            if not container.exit.done():
                container.exit.set_result(Exit(exit_code=code))
        return code

    async def wait(self, handle: ContainerHandle) -> Exit:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is None:
            return self._ended.get(handle.container_id, Exit())
        how = await asyncio.shield(container.exit)
        self._containers.pop(handle.container_id, None)
        self._ended[handle.container_id] = how
        return how

    def signal(self, handle: ContainerHandle, signum: int) -> None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        if container is None or container.exit.done():
            return
        container.signals.append(signum)
        is_deadly = signum == signal.SIGKILL or (signum == signal.SIGTERM and not container.script.ignores_sigterm)
        if is_deadly:
            container.end(Exit(signal=signum))

    def signals(self, container_id: str) -> list[int]:
        """What a living container was sent."""
        return list(self._containers[container_id].signals)

    def crash(self, container_id: str, exit: Exit) -> None:
        """A container ends by itself, now."""
        self._containers[container_id].end(exit)

    async def destroy(self, handle: ContainerHandle) -> None:
        """See the port."""
        self.signal(handle, signal.SIGKILL)

    def stats(self, handle: ContainerHandle) -> Stats | None:
        """See the port."""
        container = self._containers.get(handle.container_id)
        return Stats(processes=1) if container is not None and not container.exit.done() else None

    async def close(self) -> None:
        """See the port."""
        for container in list(self._containers.values()):
            container.end(Exit(signal=signal.SIGKILL))
        self.open.clear()


def _scripted_exit(script: Script) -> Exit:
    if script.exit_signal is not None or script.oom_killed:
        return Exit(signal=script.exit_signal or signal.SIGKILL, oom_killed=script.oom_killed)
    return Exit(exit_code=script.exit_code)


def _print(output: Output, container_id: str, texts: Sequence[str], errors: Sequence[str] = ()) -> None:
    lines = [LogLine(0, container_id, 1, text) for text in texts]
    lines += [LogLine(0, container_id, 2, text) for text in errors]
    if lines and not output(lines):
        output([LogLine(0, container_id, 0, f"jitney: {len(lines)} lines of output were dropped here")])
