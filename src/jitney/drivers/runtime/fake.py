"""A runtime without processes, which does what a script says: for tests of whatever asks for containers.

It keeps the port's contract (and passes its conformance suite) unless the script of a container tells it not to. Time
is the event loop's, so that on a virtual clock hours pass at once.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from jitney.ports.interactive import (
    CHUNK_BYTES_MAX,
    INPUT_BYTES_AHEAD,
    KILLED,
    NOT_FOUND,
    OUTPUT_BYTES_AHEAD,
    ContainerGone,
    ExecFailed,
    ExecSpec,
    OnOutput,
    TtySize,
)
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
from jitney.values.containers import Exit, Launch, LogLine, TemplateSpec, Usage
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted

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
    facts: TemplateFacts = TemplateFacts()
    output: tuple[str, ...] = ()


class _Container:
    def __init__(self, handle: ContainerHandle, script: Script, output: Output) -> None:
        self.handle = handle
        self.script = script
        self.output = output
        self.signals: list[int] = []
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.body: asyncio.Task[int] | None = None
        self.commands: list[FakeExec] = []
        self.exit.add_done_callback(lambda _: self._end_commands())

    def _end_commands(self) -> None:
        for command in self.commands:
            command.kill()

    def end(self, exit: Exit) -> None:
        if self.body is not None:
            self.body.cancel()
        if not self.exit.done():
            self.exit.set_result(exit)


class FakeExec:
    """A command that is a coroutine: `runtime.command(session)` runs it, and its answer is the exit code."""

    def __init__(self, spec: ExecSpec, on_output: OnOutput) -> None:
        self.spec = spec
        self.size = spec.tty
        self.signals: asyncio.Queue[int] = asyncio.Queue()  # a resize is SIGWINCH
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.body: asyncio.Task[None] | None = None
        self.failure: ExecFailed | None = None
        self._on_output = on_output
        self._input = bytearray()
        self._input_ends = False
        self._ahead = 0
        self._changed = asyncio.Event()

    # What the command does.

    async def read(self, count: int = INPUT_BYTES_AHEAD) -> bytes:
        """The next bytes of its input; b"" at the end."""
        await self._until(lambda: bool(self._input) or self._input_ends)
        data = bytes(self._input[:count])
        del self._input[:count]
        self._changed.set()
        return data

    async def print(self, data: bytes, fd: int = 1) -> None:
        """Write, as soon as the reader takes it."""
        fd = fd if self.spec.tty is None else 1
        while data:
            await self._until(lambda: self._ahead < OUTPUT_BYTES_AHEAD)
            part = data[: min(CHUNK_BYTES_MAX, OUTPUT_BYTES_AHEAD - self._ahead)]
            data = data[len(part) :]
            self._ahead += len(part)
            self._on_output(fd, part)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # The port.

    def write(self, data: bytes) -> None:
        """See the port."""
        if not self._input_ends:
            self._input += data
            self._changed.set()

    def close_input(self) -> None:
        """See the port."""
        self._input_ends = True
        self._changed.set()

    async def drained(self) -> None:
        """See the port."""
        await self._until(lambda: len(self._input) < INPUT_BYTES_AHEAD or self.ended.done())

    def took(self, count: int) -> None:
        """See the port."""
        self._ahead = max(self._ahead - count, 0)
        self._changed.set()

    def resize(self, size: TtySize) -> None:
        """See the port."""
        if self.spec.tty is not None:
            self.size = size
            self.signal(signal.SIGWINCH)

    def signal(self, signum: int) -> None:
        """See the port: the command finds it in `signals`."""
        if signum == signal.SIGKILL:
            self.kill()
        self.signals.put_nowait(signum)

    async def wait(self) -> int:
        """See the port."""
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        """See the port."""
        self.end(KILLED)

    def end(self, code: int) -> None:
        """It has ended."""
        if not self.ended.done():
            self.ended.set_result(code)
            self._changed.set()
            if self.body is not None:
                self.body.cancel()


async def _no_command(session: FakeExec) -> int:
    raise ExecFailed(f"there is no command {session.spec.argv[0]!r} in the container", NOT_FOUND)


class FakeRuntime:
    """Containers that exist only here.

    Args:
        script: how each container behaves, asked at its start.
        template: how each template behaves, asked whenever one is opened.
        body: what a container does, instead of what `exit_after_ms` says: its answer is the exit code. A test that
            needs a runner speaks the runner's protocol here.
        command: what a command in a container does; it may raise `ExecFailed` before its first await.
    """

    def __init__(
        self,
        *,
        script: Callable[[Launch], Script] = lambda _: Script(),
        template: Callable[[TemplateSpec], TemplateScript] = lambda _: TemplateScript(),
        body: Callable[[Launch], Awaitable[int]] | None = None,
        command: Callable[[FakeExec], Coroutine[Any, Any, int]] = _no_command,
    ) -> None:
        self.script = script
        self.template = template
        self.body = body
        self.command = command
        self.opened: list[TemplateSpec] = []  # each time that one was loaded, also in vain
        self.open: set[TemplateSpec] = set()
        self._facts: dict[TemplateSpec, TemplateFacts] = {}
        self._on_death: Callable[[TemplateSpec], None] = lambda _: None
        self.started: list[Launch] = []
        self._containers: dict[str, _Container] = {}
        self._ended: dict[str, Exit] = {}
        self._pids = itertools.count(FIRST_PID)

    def capabilities(self) -> Capabilities:
        """See the port."""
        return Capabilities(
            name="fake",
            isolation=False,
            memory_limit=False,
            process_limit=False,
            exec=True,
            snapshot_volumes=True,
        )

    async def reap(self) -> int:
        """See the port: nothing outlives the process."""
        return 0

    async def open_template(
        self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output, volumes: Sequence[Mounted] = ()
    ) -> None:
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
        self._facts[spec] = script.facts

    async def close_template(self, spec: TemplateSpec) -> None:
        """See the port."""
        self.open.discard(spec)

    def kill_template(self, spec: TemplateSpec) -> None:
        """A template dies by itself."""
        if spec in self.open:
            self.open.discard(spec)
            self._on_death(spec)

    def template_facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """See ports.runtime.TemplateInsight."""
        return self._facts.get(spec) if spec in self.open else None

    def watch_templates(self, on_death: Callable[[TemplateSpec], None]) -> None:
        """See ports.runtime.TemplateInsight."""
        self._on_death = on_death

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
        return (
            Stats(processes=1, usage=Usage(processes=1))
            if container is not None and not container.exit.done()
            else None
        )

    async def exec(self, handle: ContainerHandle, spec: ExecSpec, on_output: OnOutput) -> FakeExec:
        """See ports.interactive."""
        container = self._containers.get(handle.container_id)
        if container is None or container.exit.done():
            raise ContainerGone
        session = FakeExec(spec, on_output)
        container.commands.append(session)
        session.body = asyncio.ensure_future(self._run_command(session))
        try:
            await asyncio.sleep(0)  # it has come to its first await
        except asyncio.CancelledError:
            session.kill()
            raise
        if session.failure is not None:
            raise session.failure
        return session

    async def _run_command(self, session: FakeExec) -> None:
        try:
            session.end(await self.command(session))
        except ExecFailed as error:
            session.failure = error
        finally:
            session.end(KILLED)

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
