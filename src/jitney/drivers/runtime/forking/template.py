"""One template process: speaks `runner.template_protocol` with it, and notices its end.

A *cold* one becomes the container that is asked of it, instead of forking it: for modules whose import starts threads,
which a fork would not have, while it had their locks. It may be paused before, to be written down (runner.pause), and
what is made from that is a cold one too, which begins with `resume`.

The control socket is non-blocking and read by callbacks, so that a burst of a hundred forks costs no task switches.
What arrives is acted on in the order in which the template said it: `forked` always before the same container's
`exited`. When the process has ended, what it still said is read first.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.handover import Handover
from jitney.drivers.runtime.forking.loading import Loaded, read_loaded
from jitney.ports.runtime import Output, TemplateFailed, TemplateGone
from jitney.runner import template_protocol as protocol
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, LogLine

READ_BYTES = 256 * 1024


OnForked = Callable[[int, str, list[int]], None]


class Child(Protocol):
    """The process of a template, however it was started."""

    pid: int

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """Call `on_ended` once, on the loop, when it has ended and was collected."""
        ...

    def kill(self) -> None:
        """End it at once; nothing happens if it has ended."""
        ...


class LoadOutput:
    """Where the output of a template goes: while it loads, to `output`; later, nowhere."""

    def __init__(self, output: Output) -> None:
        self.is_open = True
        self._output = output

    def __call__(self, lines: Sequence[LogLine]) -> bool:
        return self._output(lines) if self.is_open else True


class TemplateProcess:
    """See the module. The callbacks run on the loop; `on_death` once, when all else has been said.

    `judge` says what an end as the system tells it really was, and `advice` what to do where that was memory.
    """

    def __init__(
        self,
        child: Child,
        control: socket.socket,
        capture: Capture,
        printer: LoadOutput,
        *,
        is_cold: bool,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
        judge: Callable[[Exit], Exit] = lambda how: how,
    ) -> None:
        self.advice = ""
        self.is_alive = True
        self.is_cold = is_cold
        self.exit = Exit()  # how it ended, when it has
        self.loaded = Loaded()
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pid = child.pid
        self._child = child
        self._is_loading = True
        self._control = control
        self._printer = printer
        self._on_exited = on_exited
        self._on_death = on_death
        self._judge = judge
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._forks: dict[str, OnForked] = {}
        self._splitter = protocol.Splitter()
        self._descriptors: list[int] = []
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._capture = capture
        capture.begin()
        control.setblocking(False)
        self._loop.add_reader(control, self._on_readable)
        child.watch(self._ended)

    # -------------------------------------------------------------------------------------------- asking

    async def load(self, message: dict[str, Any]) -> None:
        """Import the user's module.

        Raises:
            TemplateFailed: that raised, or ended the process.
        """
        self._send({"kind": protocol.LOAD, **message})
        await self._loaded

    def fork(
        self, message: dict[str, Any], fds: list[int], on_forked: OnForked, *, private: Mapping[str, str] | None = None
    ) -> None:
        """Ask for a container. `on_forked(pid, "", descriptors)`, or (0, why not, []); (0, "", []) when it died.

        The descriptors must stay open until it is called. `private`: variables that the fork gets and nobody else sees.
        """
        if not self.is_alive:
            raise TemplateGone
        if not private:
            self._forks[message["container"]] = on_forked
            self._send({"kind": protocol.FORK, **message}, fds)
            return
        handover = Handover(private)

        def forked(pid: int, why: str, handles: list[int]) -> None:
            handover.close_far_end()
            on_forked(pid, why, handles)

        self._forks[message["container"]] = forked
        self._send({"kind": protocol.FORK, **message, "private": True}, [*fds, handover.far_end])

    def pause(self, door: str) -> None:
        """Have a cold one let go of its socket and stop itself; once it goes on, it comes to that door."""
        self._loop.remove_reader(self._control)
        self._send({"kind": protocol.PAUSE, "door": door})

    def resume(self, control: socket.socket, env: Mapping[str, str]) -> None:
        """It goes on, at the other end of this socket. `env`: what a template would be started with now."""
        if control is not self._control:
            self._loop.remove_writer(self._control)
            self._control.close()
            self._control = control
            control.setblocking(False)
            self._loop.add_reader(control, self._on_readable)
        self._end_load()
        self._send({"kind": protocol.RESUME, "env": dict(env)})

    def kill(self) -> None:
        """End it at once. Its containers go on."""
        if self.is_alive:
            self._child.kill()

    # -------------------------------------------------------------------------------------------- sending

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        self._unsent.append((memoryview(protocol.pack(message)), fds or []))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            frame, fds = self._unsent[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            try:
                sent = self._control.sendmsg([frame], rights)
            except BlockingIOError:
                self._loop.add_writer(self._control, self._flush)
                return
            except OSError:
                break  # it has died: `_ended` tells those who wait
            if sent < len(frame):
                self._unsent[0] = (frame[sent:], [])
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._control)

    # -------------------------------------------------------------------------------------------- hearing

    def _on_readable(self) -> None:
        if not self._read():
            self._loop.remove_reader(self._control)  # closed: the end of the process is near, or it is confused
            self._child.kill()

    def _read(self) -> bool:
        """Take what has arrived; False at the end of the stream."""
        try:
            data, descriptors = protocol.receive(self._control, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        try:
            for message in self._splitter.feed(data):
                self._take(message)
        except (protocol.TemplateProtocolError, KeyError, TypeError, ValueError):
            return False  # user code wrote to our socket: nothing that it says can be trusted any more
        return bool(data)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == protocol.FORKED:
            if self.is_cold:
                self._loop.remove_reader(self._control)  # it closes its end, and says no more
            handles, self._descriptors = self._descriptors[:1], self._descriptors[1:]
            self._answer(message["container"], int(message["pid"]), "", handles)
        elif kind == protocol.EXITED:
            how = Exit(
                exit_code=message["exit_code"],
                signal=message["signal"],
                cpu_ms=int(message["cpu_ms"]),
                max_rss_kib=int(message["max_rss_kib"]),
            )
            self._on_exited(message["container"], int(message["pid"]), how)
        elif kind == protocol.FORK_FAILED:
            self._answer(message["container"], 0, message["message"] or "the fork failed", [])
        elif kind == protocol.LOADED:
            self.loaded = read_loaded(message)
            self._end_load()
            if not self._loaded.done():
                self._loaded.set_result(None)
        elif kind == protocol.LOAD_FAILED:
            self._fail_load(base64.b64decode(message["failure"]))

    def _answer(self, container_id: str, pid: int, why: str, handles: list[int]) -> None:
        on_forked = self._forks.pop(container_id, None)
        if on_forked is not None:
            on_forked(pid, why, handles)

    # -------------------------------------------------------------------------------------------- ending

    def _end_load(self) -> None:
        """What it printed until now belongs to the container that caused the load; what comes later to nobody."""
        self._capture.flush()
        self._is_loading = self._printer.is_open = False

    def _fail_load(self, payload: bytes) -> None:
        self._end_load()
        if not self._loaded.done():
            self._loaded.set_exception(TemplateFailed(payload))
            self._loaded.exception()  # nobody may be waiting any more

    def _ended(self, how: Exit) -> None:
        """It was collected: hear what it still said, and tell."""
        while self._has_more() and self._read():
            pass
        self.is_alive = False
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        self.exit = self._judge(how)
        if self._is_loading:
            self._fail_load(_died_loading(self.exit, self.advice))
        self._capture.finish()
        forks, self._forks = self._forks, {}
        for on_forked in forks.values():
            on_forked(0, "", [])
        self._on_death(self)
        self.dead.set_result(None)

    def _has_more(self) -> bool:
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


def _died_loading(how: Exit, advice: str) -> bytes:
    if how.oom_killed:
        message = f"the process that imports the module was ended: {how.describe()}. {advice}".rstrip()
    else:
        message = f"the process that imports the module ended with {how.describe()} before the import was done"
    return encode_failure_text("StartupError", message, module="jitney.errors")
