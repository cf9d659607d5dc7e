"""One template process: starts it, speaks `runner.template_protocol` with it, and notices its end.

A *cold* one becomes the container that is asked of it, instead of forking it: for modules whose import starts threads,
which a fork would not have, while it had their locks.

The control socket is non-blocking and read by callbacks, so that a burst of a hundred forks costs no task switches.
What arrives is acted on in the order in which the template said it: `forked` always before the same container's
`exited`. When the process has ended, what it still said is read first.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from jitney.drivers.runtime.process import procfs
from jitney.drivers.runtime.process.capture import Capture
from jitney.drivers.runtime.process.leftovers import OOM_SCORE_ADJ, collect
from jitney.drivers.runtime.process.render import TemplateRecipe
from jitney.ports.runtime import Output, TemplateFailed, TemplateGone
from jitney.runner import template_protocol as protocol
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Exit, LogLine

READ_BYTES = 256 * 1024
POLL_S = 0.05  # where the system cannot tell of the end of a process


def watch_exit(pid: int, on_exit: Callable[[], None]) -> Callable[[], None]:
    """Call `on_exit` once when a process has ended (a zombie has); gives what stops the watching."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return _poll_exit(loop, pid, on_exit)

    def stop() -> None:
        nonlocal fd
        if fd >= 0:
            loop.remove_reader(fd)
            os.close(fd)
            fd = -1

    def ended() -> None:
        stop()
        on_exit()

    loop.add_reader(fd, ended)
    return stop


def _poll_exit(loop: asyncio.AbstractEventLoop, pid: int, on_exit: Callable[[], None]) -> Callable[[], None]:
    timer: list[asyncio.Handle] = []

    def look() -> None:
        stat = procfs.stat(pid)
        if stat is not None and stat.state not in ("Z", "X"):
            timer[:] = [loop.call_later(POLL_S, look)]
        else:
            on_exit()

    timer.append(loop.call_soon(look))

    def stop() -> None:
        timer[0].cancel()

    return stop


class TemplateProcess:
    """See the module. The three callbacks run on the loop; `on_death` once, when all else has been said."""

    def __init__(
        self,
        recipe: TemplateRecipe,
        control: socket.socket,
        child_end: socket.socket,
        *,
        cause: str,
        output: Output,
        is_cold: bool,
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
    ) -> None:
        self.is_alive = True
        self.is_cold = is_cold
        self.exit = Exit()  # how it ended, when it has
        self.threads = 0
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_loading = True
        self._control = control
        self._output = output
        self._on_exited = on_exited
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._forks: dict[str, Callable[[int, str], None]] = {}
        self._splitter = protocol.Splitter()
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._capture = Capture(cause, self._print)
        try:
            self._process = _start(recipe, child_end, self._capture)
        except BaseException:
            self._capture.finish()
            raise
        self.pid = self._process.pid
        procfs.set_oom_score_adj(self.pid, OOM_SCORE_ADJ)
        self._capture.begin()
        control.setblocking(False)
        self._loop.add_reader(control, self._on_readable)
        self._stop_watch = watch_exit(self.pid, self._ended)

    # -------------------------------------------------------------------------------------------- asking

    async def load(self, message: dict[str, Any]) -> None:
        """Import the user's module.

        Raises:
            TemplateFailed: that raised, or ended the process.
        """
        self._send({"kind": protocol.LOAD, **message})
        await self._loaded

    def fork(self, message: dict[str, Any], fds: list[int], on_forked: Callable[[int, str], None]) -> None:
        """Ask for a container. `on_forked(pid, "")`, or (0, why not); (0, "") when the template died.

        The descriptors must stay open until it is called.
        """
        if not self.is_alive:
            raise TemplateGone
        self._forks[message["container"]] = on_forked
        self._send({"kind": protocol.FORK, **message}, fds)

    def kill(self) -> None:
        """End it at once. Its containers go on."""
        if self.is_alive:
            self._process.kill()

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
            self._process.kill()

    def _read(self) -> bool:
        """Take what has arrived; False at the end of the stream."""
        try:
            data = self._control.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
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
            self._answer(message["container"], int(message["pid"]), "")
        elif kind == protocol.EXITED:
            how = Exit(
                exit_code=message["exit_code"],
                signal=message["signal"],
                cpu_ms=int(message["cpu_ms"]),
                max_rss_kib=int(message["max_rss_kib"]),
            )
            self._on_exited(message["container"], int(message["pid"]), how)
        elif kind == protocol.FORK_FAILED:
            self._answer(message["container"], 0, message["message"] or "the fork failed")
        elif kind == protocol.LOADED:
            self.threads = int(message["threads"])
            self._end_load()
            if not self._loaded.done():
                self._loaded.set_result(None)
        elif kind == protocol.LOAD_FAILED:
            self._fail_load(base64.b64decode(message["failure"]))

    def _answer(self, container_id: str, pid: int, why: str) -> None:
        on_forked = self._forks.pop(container_id, None)
        if on_forked is not None:
            on_forked(pid, why)

    # -------------------------------------------------------------------------------------------- ending

    def _end_load(self) -> None:
        """What it printed until now belongs to the container that caused the load; what comes later to nobody."""
        self._capture.flush()
        self._is_loading = False

    def _fail_load(self, payload: bytes) -> None:
        self._end_load()
        if not self._loaded.done():
            self._loaded.set_exception(TemplateFailed(payload))
            self._loaded.exception()  # nobody may be waiting any more

    def _print(self, lines: Sequence[LogLine]) -> bool:
        return self._output(lines) if self._is_loading else True

    def _ended(self) -> None:
        """The process is a zombie: hear what it still said, collect it, tell."""
        while self._has_more() and self._read():
            pass
        self.is_alive = False
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        self.exit = collect_exit(self.pid)
        self._process.returncode = 0  # it was collected: Popen need not try
        if self._is_loading:
            self._fail_load(_died_loading(self.exit))
        self._capture.finish()
        forks, self._forks = self._forks, {}
        for on_forked in forks.values():
            on_forked(0, "")
        self._on_death(self)
        self.dead.set_result(None)

    def _has_more(self) -> bool:
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


def _start(recipe: TemplateRecipe, child_end: socket.socket, capture: Capture) -> subprocess.Popen[bytes]:
    out, err = capture.child_fds
    return subprocess.Popen(
        recipe.argv,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        cwd=recipe.cwd,
        env=recipe.env,
        pass_fds=[child_end.fileno()],
        start_new_session=True,
    )


def collect_exit(pid: int) -> Exit:
    """How a child of ours that has ended did so; neither code nor signal if somebody else has collected it."""
    found = collect(pid)
    if found is None:
        return Exit()
    status, cpu_ms, rss_kib = found
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Exit(signal=-code, cpu_ms=cpu_ms, max_rss_kib=rss_kib)
    return Exit(exit_code=code, cpu_ms=cpu_ms, max_rss_kib=rss_kib)


def _died_loading(how: Exit) -> bytes:
    message = f"the process that imports the module ended with {how.describe()} before the import was done"
    return encode_failure_text("StartupError", message, module="jitney.errors")
