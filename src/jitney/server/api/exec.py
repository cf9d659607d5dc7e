"""Commands in containers: a client's stream on the one side, a worker's reports on the other.

A session is one pending `container.exec`. It is of the link that asked for it: when that breaks, or the stream is not
wanted any more, the request is cancelled, and the worker is told to end the command. When the worker goes, all of its
sessions fail. What passes through is counted on the way: output that comes twice is dropped, input that comes twice is
not passed on again, and neither side can be more than a bounded number of bytes ahead of the other.
"""

from __future__ import annotations

import asyncio

from jitney.errors import (
    AlreadyExistsError,
    ConnectionError,
    InvalidError,
    NotFoundError,
    ResourceExhaustedError,
    UnsupportedError,
    from_code,
)
from jitney.ports.store import Store
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import did_you_mean
from jitney.server.fleet import Fleet
from jitney.server.link import Link
from jitney.server.scaling import Node
from jitney.server.state import Container
from jitney.values import ids
from jitney.values.containers import Phase
from jitney.values.exec import INPUT_BYTES_AHEAD, KILLED
from jitney.wire import methods
from jitney.wire.messages import exec as em
from jitney.wire.messages import workers as wm
from jitney.wire.messages.apps import Done

SESSIONS_MAX_CONTAINER = 16
SESSIONS_MAX_NODE = 128


class Session:
    """A command that runs, as seen from here."""

    def __init__(self, container: Container, node: Node, emit: Emit) -> None:
        self.container = container
        self.node = node
        self.emit = emit
        self.ended: asyncio.Future[em.ExecEnded] = asyncio.get_running_loop().create_future()
        self.inputs = 0  # that were passed on
        self.outputs = 0
        self._untaken = 0  # bytes of input
        self._changed = asyncio.Event()

    def sent(self, count: int) -> None:
        """Input has been passed on."""
        self._untaken += count

    def taken(self, count: int) -> None:
        """The command has taken input."""
        self._untaken -= count
        self._changed.set()

    async def room(self) -> None:
        """Return when more input may be passed on, or none will be taken any more."""
        while self._untaken >= INPUT_BYTES_AHEAD and not self.ended.done():
            self._changed.clear()
            await self._changed.wait()

    def end(self, how: em.ExecEnded | Exception) -> None:
        """It is over."""
        if self.ended.done():
            return
        if isinstance(how, Exception):
            self.ended.set_exception(how)
            self.ended.exception()  # nobody may be waiting any more
        else:
            self.ended.set_result(how)
        self._changed.set()


class ExecApi:
    """Handlers of container.exec and container.exec_input."""

    def __init__(self, *, fleet: Fleet, store: Store) -> None:
        self._fleet = fleet
        self._store = store
        self._sessions: dict[str, Session] = {}
        fleet.on_ended.append(self._container_ended)

    def register(self, table: Table) -> None:
        """Answer both methods."""
        table.on(methods.CONTAINER_EXEC, self.exec)
        table.on(methods.CONTAINER_EXEC_INPUT, self.input)

    # ------------------------------------------------------------------------------------------- the client

    async def exec(self, peer: Peer, request: em.Exec, emit: Emit) -> em.ExecEnded:
        """Run a command in a container, for as long as the stream is wanted."""
        exec_id = ids.check(request.exec_id, ids.EXEC)
        if exec_id in self._sessions:
            raise AlreadyExistsError(f"there is a command {exec_id} already")
        if not isinstance(peer, Link):
            raise UnsupportedError(
                "a command lives as long as the link over which it was asked for, and HTTP has none",
                hint="use `jitney container exec`, or the SDK",
            )
        session = self._new(request.container_id, emit)
        if session is None:
            raise await self._no_container(request.container_id)
        self._sessions[exec_id] = session
        try:
            session.node.send(wm.OpenExec(exec_id=exec_id, container_id=session.container.id, spec=request.spec))
            return await asyncio.shield(session.ended)
        finally:
            del self._sessions[exec_id]
            if not session.ended.done() and session.node.connected:
                session.node.send(wm.EndExec(exec_id=exec_id))
            session.end(em.ExecEnded(exit_code=KILLED))

    def _new(self, container_id: str, emit: Emit) -> Session | None:
        """A session in a container that lives; None where there is no such container.

        Raises:
            JitneyError: it cannot take a command now.
        """
        container = self._fleet.containers.get(container_id)
        if container is None:
            return None
        node = self._fleet.nodes.get(container.node_id)
        if node is None or not node.connected:
            raise ConnectionError(
                "the worker that has the container is not connected", hint="it comes back by itself; try again"
            )
        if container.phase is Phase.STARTING:
            raise NotFoundError(f"container {container_id} has not started yet", hint="try again in a moment")
        within = [one for one in self._sessions.values() if one.container is container]
        beside = [one for one in self._sessions.values() if one.node is node]
        if len(within) >= SESSIONS_MAX_CONTAINER or len(beside) >= SESSIONS_MAX_NODE:
            which = f"container {container_id}" if len(within) >= SESSIONS_MAX_CONTAINER else "the machine"
            raise ResourceExhaustedError(
                f"{which} runs {min(len(beside), SESSIONS_MAX_NODE)} commands, which is as many as it may",
                hint="end one of them first",
            )
        return Session(container, node, emit)

    async def _no_container(self, container_id: str) -> NotFoundError:
        """Why there is none: it has ended, or never was."""
        record = await self._store.containers.get(container_id)
        if record is not None:
            how = f": {record.exit.describe()}" if record.exit else ""
            return NotFoundError(
                f"container {container_id} has ended{how}",
                hint=f"`jitney container logs {container_id}` has what it wrote",
            )
        near = did_you_mean(container_id[:64], list(self._fleet.containers))
        return NotFoundError(f"no container {container_id[:64]!r}", hint=near or "see `jitney container list`")

    async def input(self, peer: Peer, request: em.ExecInput, emit: Emit) -> Done:
        """Pass on what a command is told; with data, answered when it may have more."""
        session = self._sessions.get(request.exec_id)
        if session is None:
            raise NotFoundError(f"no command {request.exec_id[:64]!r} runs", hint="it may have ended")
        if request.seq > session.inputs:
            raise InvalidError(f"input number {request.seq} came when number {session.inputs} was due")
        if request.seq == session.inputs:  # otherwise it is a repeat
            session.inputs += 1
            session.sent(len(request.data))
            session.node.send(
                wm.FeedExec(
                    exec_id=request.exec_id,
                    data=request.data,
                    eof=request.eof,
                    size=request.size,
                    signal=request.signal,
                    took=request.took,
                )
            )
        if request.data:
            await session.room()
        return Done()

    # ------------------------------------------------------------------------------------------- the worker

    def report(self, report: wm.ExecOutput | wm.ExecTook | wm.ExecEnded) -> None:
        """A worker: of a command."""
        session = self._sessions.get(report.exec_id)
        if session is None:
            return  # nobody held it any more
        if isinstance(report, wm.ExecOutput):
            if report.seq == session.outputs and not session.ended.done():
                session.outputs += 1
                session.emit(em.ExecOutput(report.fd, report.data))
        elif isinstance(report, wm.ExecTook):
            session.taken(report.count)
        elif report.code:
            session.end(from_code(report.code, report.reason, report.hint))
        else:
            session.end(em.ExecEnded(exit_code=report.exit_code, reason=report.reason))

    def worker_lost(self, node: Node) -> None:
        """Commands do not outlive the link of their worker."""
        for session in self._sessions.values():
            if session.node is node:
                session.end(ConnectionError("the worker that ran the command has gone", hint="run it again"))

    def _container_ended(self, container: Container) -> None:
        """In case that its worker had no occasion to say so."""
        how = f": {container.exit.describe()}" if container.exit is not None else ""
        for session in self._sessions.values():
            if session.container is container:
                session.end(em.ExecEnded(exit_code=KILLED, reason=f"container {container.id} has ended{how}"))
