"""The worker's end of a wall: starts the launcher, speaks with the warden, keeps pods in stock.

The socket is non-blocking and read by callbacks. Every request has an answer; all that wait get `WallGone` when the
warden ends. Pods are made one after the other, ahead of need: after each that is taken, and more of them for a while
after a burst has emptied the stock.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.exits import collect, exit_of, watch_exit
from jitney.drivers.runtime.forking.sending import Sender
from jitney.drivers.walls.launchers import Launcher
from jitney.runner import template_protocol as protocol
from jitney.values.containers import Exit

READ_BYTES = 64 * 1024


class WallFailed(Exception):
    """The wall, or something in it, cannot be made: the message says why.

    `code` is that of a shell for a command that is not there, or cannot be executed; otherwise 0.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class WallGone(Exception):
    """The warden has ended, and all behind the wall with it."""


class Pod:
    """A pod that lives. `pid` is the machine's number for its first process."""

    def __init__(self, name: str, pidfd: int) -> None:
        self.name = name
        self.pidfd = pidfd
        self.pid = procfs.pid_of(pidfd)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = -1
        self.gone.set_result(None)

    def kill(self) -> None:
        """End it, and with it all that is in it."""
        if self.pidfd >= 0:
            send_signal(self.pidfd, signal.SIGKILL)


class WallChild:
    """A process that the warden started for us (forking.template.Child)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.pidfd = -1
        self._on_ended: Callable[[Exit], None] | None = None
        self._exit: Exit | None = None

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """See the protocol."""
        self._on_ended = on_ended
        if self._exit is not None:
            on_ended(self._exit)

    def kill(self) -> None:
        """See the protocol."""
        if self.pidfd >= 0:
            send_signal(self.pidfd, signal.SIGKILL)

    def signal_group(self, signum: int) -> None:
        """To its process group, which it leads."""
        if self.pidfd >= 0:
            try:
                os.killpg(self.pid, signum)
            except OSError:
                pass

    def ended(self, how: Exit) -> None:
        """The warden has collected it, or is gone itself."""
        if self._exit is None:
            self._exit = how
            if self.pidfd >= 0:
                os.close(self.pidfd)
                self.pidfd = -1
            if self._on_ended is not None:
                self._on_ended(how)


class Wall:
    """See the module. `on_orphan(pid, exit)` tells of containers whose template is gone; pids are the wall's own."""

    def __init__(self, *, on_orphan: Callable[[int, Exit], None], on_death: Callable[[Wall], None]) -> None:
        self.pid = 0
        self.is_alive = True
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_orphan = on_orphan
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._control: socket.socket | None = None
        self._warden: asyncio.Future[int] = self._loop.create_future()
        self._answers: dict[str, asyncio.Future[list[int]]] = {}
        self._children: dict[str, WallChild] = {}
        self._splitter = protocol.Splitter()
        self._descriptors: list[int] = []
        self._sender: Sender | None = None

    async def open(self, launcher: Launcher, wall: dict[str, Any]) -> None:
        """Have the launcher make it.

        Raises:
            WallFailed: nothing is left of it.
        """
        self._control = launcher.control
        self._loop.add_reader(self._control, self._on_readable)
        watch_exit(launcher.process.pid, lambda: self._launched(launcher.process))
        self._sender = Sender(launcher.control)
        self._sender.send({"kind": "wall", **wall})
        try:
            self.pid = await asyncio.shield(self._warden)
        except BaseException:
            self.kill()
            if not self.pid:
                self._end()
            raise

    def kill(self) -> None:
        """End all behind the wall, at once."""
        if self.pid and self.is_alive:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    # -------------------------------------------------------------------------------------------- asking

    async def hub(self, plan: dict[str, Any] | None, ops: list[Any]) -> None:
        """Set up the wall's own network, if it has one, and what depends on it.

        Raises:
            WallFailed: it cannot be.
        """
        await self._ask("hub", {"kind": "hub", "plan": plan, "ops": ops})

    async def pod(self, name: str, folders: list[str], ops: list[Any], net: dict[str, Any] | None) -> Pod:
        """A new pod.

        Raises:
            WallFailed: it cannot be made.
            WallGone: the warden has ended.
        """
        message = {"kind": "pod", "pod": name, "folders": folders, "ops": ops, "net": net}
        (pidfd,) = await self._ask(f"pod {name}", message)
        return Pod(name, pidfd)

    async def mount(self, where: Pod | WallChild, mounts: list[dict[str, Any]]) -> None:
        """Attach mounts in a pod, or where a template is (runner.wall.mounting has what they are).

        Raises:
            WallFailed: one could not be; `code` is EBUSY where files of what was there are open.
            WallGone: the warden, or what it is for, has ended.
        """
        if where.pidfd < 0:
            raise WallGone
        message = {"kind": "mount", "pod": where.name, "mounts": mounts}
        await self._ask(f"mounted {where.name}", message, [where.pidfd])

    def child(self, name: str) -> WallChild:
        """A process that was started.

        Raises:
            WallGone: it has ended.
        """
        try:
            return self._children[name]
        except KeyError:
            raise WallGone from None

    async def attach(self, pod: Pod, mount: int, target: str, *, read_only: bool) -> None:
        """Attach a mount that is attached nowhere in a pod; the descriptor stays the caller's.

        Raises:
            WallFailed: it could not be.
            WallGone: the warden has ended.
        """
        message = {"kind": "attach", "pod": pod.name, "target": target, "read_only": read_only}
        await self._ask(f"mounted {pod.name}", message, [pod.pidfd, mount])

    async def start(
        self, kind: str, name: str, message: dict[str, Any], descriptors: Sequence[int]
    ) -> tuple[WallChild, list[int]]:
        """A process: a "template", or one that shall "enter" a pod; with the master of its terminal, if it has one.

        Raises:
            WallFailed: it cannot be started.
            WallGone: the warden has ended.
        """
        request = {"kind": kind, "process": name, **message}
        pidfd, *others = await self._ask(f"started {name}", request, descriptors)
        child = self._children[name]
        child.pid, child.pidfd = procfs.pid_of(pidfd), pidfd
        return child, others

    async def _ask(self, key: str, message: dict[str, Any], descriptors: Sequence[int] = ()) -> list[int]:
        if not self.is_alive or self._sender is None:
            raise WallGone
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._answers[key] = answer
        if key.startswith("started "):
            self._children[key.partition(" ")[2]] = WallChild(key.partition(" ")[2])
        self._sender.send(message, descriptors)
        return await answer

    # -------------------------------------------------------------------------------------------- the socket

    def _on_readable(self) -> None:
        assert self._control is not None
        try:
            data, descriptors = protocol.receive(self._control, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        for message in self._splitter.feed(data):
            self._take(message)
        if not data:
            self._loop.remove_reader(self._control)
            self.kill()
            if not self._warden.done():
                self._warden.set_exception(WallFailed("its launcher ended without a word"))
                self._warden.exception()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "warden":
            (pidfd,) = self._handles(1)
            os.close(pidfd)
            self.pid = message["pid"]
            if not self._warden.done():
                self._warden.set_result(self.pid)
        elif kind == "failed":
            failed = WallFailed(message["message"])
            waiters: list[asyncio.Future[Any]] = [self._warden, *self._answers.values()]
            for waiting in waiters:
                if not waiting.done():
                    waiting.set_exception(failed)
                    waiting.exception()
            self._answers.clear()
        elif kind == "ended":
            self._ended(message)
        else:
            key = {"pod": "pod {pod}", "mounted": "mounted {pod}", "started": "started {process}"}.get(kind, kind)
            handles = self._handles(message.get("handles", 0))
            answer = self._answers.pop(key.format(**message), None)
            if answer is None or answer.done():
                for one in handles:  # nobody waits any more: what was made goes with its descriptor's owner
                    send_signal(one, signal.SIGKILL)
                    os.close(one)
            elif message.get("message"):
                answer.set_exception(WallFailed(message["message"], message.get("code", 0)))
            else:
                answer.set_result(handles)

    def _handles(self, count: int) -> list[int]:
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    def _ended(self, message: dict[str, Any]) -> None:
        how = exit_of(message["status"], message["cpu_ms"], message["max_rss_kib"])
        child = self._children.pop(message["process"], None)
        if child is not None:
            self._loop.call_soon(child.ended, how)  # after the answer that it was started
        else:
            self._on_orphan(message["pid"], how)

    # -------------------------------------------------------------------------------------------- ending

    def _launched(self, launcher: subprocess.Popen[bytes]) -> None:
        """The launcher has ended: the warden is our child from now on, as we adopt orphans."""
        launcher.wait()
        if self.pid or self._hear_the_rest():
            watch_exit(self.pid, self._end)
        elif not self._warden.done():
            self._warden.set_exception(WallFailed(f"its launcher ended with exit code {launcher.returncode}"))
            self._warden.exception()

    def _hear_the_rest(self) -> bool:
        if self._control is not None:
            self._on_readable()
        return bool(self.pid)

    def _end(self) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        if self.pid:
            collect(self.pid)
        if self._control is not None:
            self._loop.remove_reader(self._control)
            if self._sender is not None:
                self._sender.close()
            self._control.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(WallGone())
                answer.exception()
        children, self._children = self._children, {}
        for child in children.values():
            child.ended(Exit(signal=signal.SIGKILL))
        for one in self._descriptors:
            os.close(one)
        self._on_death(self)
        self.dead.set_result(None)


def send_signal(pidfd: int, signum: int) -> None:
    """A signal to a process that may be gone."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError, OSError):
        pass
