"""Commands in containers that live already (ports.interactive): a sitter in the box starts each (runner.keep)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from jitney.drivers.runtime.forking.session import Session, close_all, open_pipes
from jitney.drivers.runtime.kept.channel import Channel, Message
from jitney.drivers.runtime.kept.container import Container
from jitney.drivers.walls import render as walls
from jitney.ports.interactive import (
    KILLED,
    NOT_EXECUTABLE,
    ContainerGone,
    ExecFailed,
    ExecSpec,
    OnOutput,
    TtySize,
)


class KeptCommand:
    """See `forking.session.Command`. What a sitter says is heard here."""

    def __init__(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._on_ended: Callable[[int], None] | None = None
        self._code: int | None = None
        self._is_killed = False  # and so has ended by that, also where it hears first that nobody reads it any more
        self._channel = Channel(sock, self._take, self._hung_up)

    def _take(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "ended":
            self._ended(KILLED if self._is_killed else int(message["code"]) & 0xFF)
        elif not self.started.done():
            if kind == "started":
                self.started.set_result(None)
            else:
                failed = ExecFailed(str(message["message"])[:2000], int(message["code"]) or NOT_EXECUTABLE)
                self.started.set_exception(failed)

    def _hung_up(self) -> None:
        if not self.started.done():
            self.started.set_exception(ContainerGone())
            self.started.exception()
        self._ended(KILLED)

    def _ended(self, code: int) -> None:
        if self._code is None:
            self._code = code
            if self._on_ended is not None:
                self._loop.call_soon(self._on_ended, code)

    def watch(self, on_ended: Callable[[int], None]) -> None:
        """See the protocol."""
        self._on_ended = on_ended
        if self._code is not None:
            self._loop.call_soon(on_ended, self._code)

    def signal(self, signum: int) -> None:
        """See the protocol."""
        self._channel.send({"kind": "signal", "signum": signum})

    def resize(self, size: TtySize) -> None:
        """Its terminal has another size."""
        self._channel.send({"kind": "resize", "rows": size.rows, "columns": size.cols})

    def kill(self) -> None:
        """See the protocol. What it has left in the background goes too."""
        self._is_killed = True
        self._channel.send({"kind": "kill"})

    def close(self) -> None:
        """Nothing is said to it any more: it ends."""
        self._channel.close()


class TerminalSession(Session):
    """One whose terminal is on the other side of the wall."""

    def __init__(self, command: KeptCommand, feed: int, screen: int, on_output: OnOutput) -> None:
        self._kept = command
        super().__init__(command, feed, {1: screen}, on_output, is_tty=True)

    def resize(self, size: TtySize) -> None:
        """See the port."""
        self._kept.resize(size)


class Commands:
    """The commands that run in the containers of one runtime."""

    def __init__(self) -> None:
        self._running: dict[str, dict[Session, KeptCommand]] = {}

    async def start(self, container: Container, fork: Message, spec: ExecSpec, on_output: OnOutput) -> Session:
        """Run a command in a container that was forked so.

        Raises:
            ExecFailed: it cannot be started.
            ContainerGone: the container has ended.
        """
        message = render_command(container, fork, spec)
        ours, theirs = open_pipes() if spec.tty is None else _open_carriers()
        mine, its = socket.socketpair()
        command = KeptCommand(mine)
        try:
            joins = container.group.join_fds if container.group is not None else ()
            container.box.keeper.command(container.id, message, [its.fileno(), *theirs], joins)
            its.close()  # what has it now is on its way: when that is lost, we hear the end of it
            await command.started
        except ContainerGone:
            close_all(ours)
            if container.is_ending or container.box.is_closed:
                raise
            raise ExecFailed("there is no room for another process in the container", NOT_EXECUTABLE) from None
        except BaseException:
            close_all(ours)
            command.close()
            raise
        finally:
            its.close()
            close_all(theirs)
        feed, *outputs = ours
        session = (
            Session(command, feed, dict(enumerate(outputs, 1)), on_output, is_tty=False)
            if spec.tty is None
            else TerminalSession(command, feed, outputs[0], on_output)
        )
        running = self._running.setdefault(container.id, {})
        running[session] = command
        session.ended.add_done_callback(lambda _: running.pop(session, None))
        return session

    def end(self, container_id: str) -> None:
        """The container has ended."""
        for session, command in list(self._running.pop(container_id, {}).items()):
            session.kill()
            command.close()


def render_command(container: Container, fork: Message, spec: ExecSpec) -> dict[str, Any]:
    """What a sitter is asked for."""
    cwd = os.path.normpath(os.path.join(fork["cwd"], spec.cwd))
    base = {**walls.base_env(container.box.image), **fork["env"]}
    own = {"JITNEY_IS_REMOTE": "1", "JITNEY_TASK_ID": container.id}
    return {
        "argv": [*spec.argv],
        "env": {**base, **container.launch.secrets, **own, **spec.env, "PWD": cwd},
        "cwd": cwd,
        "rlimits": fork["rlimits"],
        "tty": [spec.tty.rows, spec.tty.cols] if spec.tty is not None else None,
    }


def _open_carriers() -> tuple[list[int], list[int]]:
    """(ours, theirs): what is typed, and what is shown."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for is_input in (True, False):
            reader, writer = os.pipe()
            ours.append(writer if is_input else reader)
            theirs.append(reader if is_input else writer)
    except OSError:
        close_all([*ours, *theirs])
        raise
    return ours, theirs
