"""The worker's end of a keeper (runner.keep.keeper): asks it for processes, and hears of their ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jitney.drivers.runtime.forking.exits import exit_of
from jitney.drivers.runtime.kept.channel import Channel, Message
from jitney.ports.runtime import Stats
from jitney.values.containers import Exit

SOCKET = "keeper.sock"


class BoxFailed(Exception):
    """The box, or something in it, cannot be made: the message says why, for the user to read."""


class BoxGone(Exception):
    """The box has ended, and all that was in it."""

    def __init__(self) -> None:
        super().__init__("the box around it has ended")


class KeptChild:
    """A process that the keeper has started (forking.template.Child). `pid` is the box's number for it."""

    def __init__(self, keeper: Keeper, pid: int) -> None:
        self.pid = pid
        self._keeper = keeper
        self._on_ended: Callable[[Exit], None] | None = None
        self._exit: Exit | None = None

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """See the protocol."""
        self._on_ended = on_ended
        if self._exit is not None:
            on_ended(self._exit)

    def kill(self) -> None:
        """See the protocol."""
        if self._exit is None:
            self._keeper.signal(self.pid, 9)

    def ended(self, how: Exit) -> None:
        """The keeper has collected it, or is gone itself."""
        if self._exit is None:
            self._exit = how
            if self._on_ended is not None:
                self._on_ended(how)


class Listener(Protocol):
    """Who hears what a keeper tells unasked."""

    def orphan_ended(self, pid: int, how: Exit) -> None:
        """A process has ended that had come to the keeper: perhaps a container whose template is gone."""
        ...

    def over(self, pid: int, used_kib: int) -> None:
        """A process had more memory than its limit, and is being ended."""
        ...

    def gone(self) -> None:
        """The keeper has ended: called once."""
        ...


class Keeper:
    """See the module. Listens in `folder`, which the box sees, until the one connection has come."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.usages: dict[int, Stats] = {}  # what was told last, by pid
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._channel: Channel | None = None
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._children: dict[str, KeptChild] = {}
        self._ends = 0
        self._path = str(folder / SOCKET)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._server.bind(self._path)
            os.chmod(self._path, 0o666)  # the keeper is another user; nobody else gets into the folder
            self._server.listen(1)
        except BaseException:
            self._server.close()
            raise
        self._server.setblocking(False)
        self._loop.add_reader(self._server, self._on_connection)

    async def connected(self) -> None:
        """Return when the keeper is there."""
        await asyncio.shield(self._connected)

    def _on_connection(self) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:
            return
        self._stop_listening()
        self._channel = Channel(sock, self._take, self._ended)
        self._connected.set_result(None)

    def _stop_listening(self) -> None:
        if self._server.fileno() >= 0:
            self._loop.remove_reader(self._server)
            self._server.close()
            try:
                os.unlink(self._path)
            except OSError:
                pass

    # -------------------------------------------------------------------------------------------- asking

    async def start(
        self, name: str, message: Mapping[str, Any], descriptors: Sequence[int], joins: Sequence[int] = ()
    ) -> KeptChild:
        """A process.

        Raises:
            BoxFailed: it cannot be started.
            BoxGone: the keeper has ended.
        """
        request = {"kind": "start", **message, "process": name, "descriptors": len(descriptors), "joins": len(joins)}
        child = self._children[name] = KeptChild(self, 0)
        try:
            await self._ask(f"started {name}", request, [*descriptors, *joins])
        except BaseException:
            self._children.pop(name, None)  # if it comes to run after all, it hears the end of its own socket
            raise
        return child

    def command(
        self, container: str, message: Mapping[str, Any], descriptors: Sequence[int], joins: Sequence[int]
    ) -> None:
        """A command in a container: its sitter answers on a socket of its own."""
        request = {"kind": "command", **message, "container": container, "descriptors": len(descriptors)}
        self._send({**request, "joins": len(joins)}, [*descriptors, *joins])

    async def prepare(self, container: str, folders: Sequence[str], cwd: str) -> None:
        """The folders of a container.

        Raises:
            BoxFailed: they cannot be made, or one is missing.
            BoxGone: the keeper has ended.
        """
        request = {"kind": "prepare", "container": container, "folders": [*folders], "cwd": cwd}
        await self._ask(f"prepared {container}", request)

    async def clean(self, container: str, pid: int, spared: Sequence[int]) -> None:
        """End and remove what a container has left; containers that live are `spared`. No keeper: nothing is left."""
        request = {"kind": "clean", "container": container, "pid": pid, "spared": [*spared], "seen": self._ends}
        try:
            await self._ask(f"cleaned {container}", request)
        except BoxGone:
            pass  # and with it all that there was
        self.usages.pop(pid, None)

    async def look(self, pid: int) -> int:
        """Memory of a process now, in KiB; 0 if the keeper is gone."""
        try:
            return int((await self._ask(f"look {pid}", {"kind": "look", "pid": pid}))["kib"])
        except BoxGone:
            return 0

    def watch(self, pid: int, limit_kib: int) -> None:
        """Count what it uses, and end it when it has more than the limit (0 = none)."""
        self.usages[pid] = Stats(processes=1)
        self._send({"kind": "watch", "pid": pid, "limit_kib": limit_kib})

    def signal(self, pid: int, signum: int) -> None:
        """To a process of the box."""
        self._send({"kind": "signal", "pid": pid, "signum": signum})

    def kill(self, pid: int) -> None:
        """End it and its descendants."""
        self._send({"kind": "kill", "pid": pid})

    def end(self) -> None:
        """End all that is in the box, at once."""
        self._send({"kind": "end"})

    def _send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        if self._channel is not None:
            self._channel.send(message, descriptors)

    async def _ask(self, key: str, message: Message, descriptors: Sequence[int] = ()) -> Message:
        if self._channel is None or not self._channel.is_open:
            raise BoxGone
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._answers[key] = answer
        self._send(message, descriptors)
        return await answer

    # -------------------------------------------------------------------------------------------- hearing

    def _take(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "ended":
            self._process_ended(message)
        elif kind == "usage":
            self._used(message)
        elif kind == "over":
            self._listener.over(int(message["pid"]), int(message["kib"]))
        else:
            self._answered(kind, message)

    def _answered(self, kind: str, message: Message) -> None:
        key = {"started": "process", "prepared": "container", "cleaned": "container", "look": "pid"}[kind]
        name = message[key]
        child = self._children.get(name) if kind == "started" else None
        if child is not None:
            child.pid = int(message["pid"])
        answer = self._answers.pop(f"{kind} {name}", None)
        if answer is None or answer.done():
            return
        if message.get("message"):
            answer.set_exception(BoxFailed(str(message["message"])[:2000]))
        else:
            answer.set_result(message)

    def _process_ended(self, message: Message) -> None:
        how = exit_of(int(message["status"]), int(message["cpu_ms"]), int(message["max_rss_kib"]))
        name = message["process"]
        if name:
            self._ends += 1
            child = self._children.pop(name, None)
            if child is not None:
                self._loop.call_soon(child.ended, how)  # after the answer that it was started
        else:
            self._listener.orphan_ended(int(message["pid"]), how)

    def _used(self, message: Message) -> None:
        pid = int(message["pid"])
        if pid not in self.usages:
            return  # not asked for, or not any more
        self.usages[pid] = Stats(
            processes=int(message["processes"]), rss_kib=int(message["rss_kib"]), cpu_ms=int(message["cpu_ms"])
        )

    def close(self) -> None:
        """Hang up: the keeper ends what it has, and itself."""
        self._stop_listening()
        if self._channel is not None:
            self._channel.close()

    def _ended(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BoxGone())
                answer.exception()
        self._answers.clear()
        children, self._children = self._children, {}
        for child in children.values():
            child.ended(Exit(signal=9))
        self._listener.gone()
