"""The listening side of links: clients, workers, and clients inside containers, on a Unix socket.

The call messages are handled in the turn in which they arrive, with no task and no await between: they are the hot
path. So are requests whose handlers answer at once (`api.reply`); the others run as tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import msgspec

from jitney.errors import InvalidError, JitneyError
from jitney.server.api.reply import Reply
from jitney.server.api.table import Table
from jitney.server.connected import Connected
from jitney.wire import codec
from jitney.wire.frames import Inbox
from jitney.wire.messages import link as m

log = logging.getLogger("jitney.link")

REPLIES_MAX = 10_000  # that one peer may wait for, such as items of queues
WRITE_BUFFER_MAX = 64 * 1024 * 1024  # a peer that does not read: events of streams are dropped past this


class Link(asyncio.BufferedProtocol):
    """One connection of a peer."""

    def __init__(self, table: Table, calls: Connected, admit: Callable[[m.Hello], m.Welcome], links: set[Link]) -> None:
        self.role = ""
        self.container_id = ""  # of a container: proven by its token
        self._table = table
        self._calls = calls
        self._admit = admit
        self._links = links
        self._inbox = Inbox()
        self._transport: asyncio.Transport | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._gone: list[Callable[[], None]] = []
        self._replies: dict[int, Reply] = {}  # that are owed, or hold something

    # ------------------------------------------------------------------------------------------- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._inbox.room()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for body in self._inbox.filled(nbytes):
                self._message(codec.decode_from_peer(body))
        except InvalidError as error:
            self.send(m.Failed(0, error.code, error.message))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._links.discard(self)
        for task in self._tasks.values():
            task.cancel()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.gone()
        for action in self._gone:
            action()
        self._gone.clear()
        self._calls.link_lost(self)

    # ------------------------------------------------------------------------------------------- sending

    def send(self, message: m.Message) -> None:
        """Queue a message; a link that has broken drops it."""
        if self._transport is not None:
            self._transport.write(codec.encode_frame(message))

    def close(self) -> None:
        """Hang up, after what is queued."""
        if self._transport is not None:
            self._transport.close()

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None

    @property
    def is_clogged(self) -> bool:
        """Whether the peer has stopped reading."""
        return self._transport is not None and self._transport.get_write_buffer_size() > WRITE_BUFFER_MAX

    def on_gone(self, action: Callable[[], None]) -> None:
        """Run `action` when the peer has hung up (at once, if it has)."""
        if self._transport is None:
            action()
        else:
            self._gone.append(action)

    # ------------------------------------------------------------------------------------------- receiving

    def _message(self, message: m.FromPeer) -> None:
        if not self.role:
            self._hello(message)
        elif isinstance(message, m.Inputs):
            self._calls.inputs(self, message)
        elif isinstance(message, m.Invoke):
            self._calls.invoke(self, message)
        elif isinstance(message, m.Request):
            self._begin(message)
        elif isinstance(message, m.Received):
            reply = self._replies.pop(message.id, None)
            if reply is not None:
                reply.received()
        elif isinstance(message, m.Credit):
            self._calls.credit(message)
        elif isinstance(message, m.OpenCall):
            self._calls.open(self, message)
        elif isinstance(message, m.EndInputs):
            self._calls.end_inputs(message)
        elif isinstance(message, m.CancelCall):
            self._calls.cancel(message)
        elif isinstance(message, m.CancelRequest):
            self._cancel(message.id)
        else:
            raise InvalidError("a second Hello")

    def _hello(self, message: m.FromPeer) -> None:
        if not isinstance(message, m.Hello):
            raise InvalidError("the first message is not Hello")
        try:
            welcome = self._admit(message)
        except JitneyError as error:
            self.send(m.Failed(0, error.code, error.message, error.hint))
            self.close()
            return
        self.role = message.role
        if self.role == "container":
            self.container_id = message.token.partition(".")[0]
        self._links.add(self)
        self.send(welcome)

    def _cancel(self, number: int) -> None:
        task, reply = self._tasks.get(number), self._replies.pop(number, None)
        if task is not None:
            task.cancel()
        if reply is not None:
            is_owed = not reply.is_answered
            reply.gone()
            if is_owed:
                self.send(m.Failed(number, "cancelled", "the request was cancelled"))

    def _reply(self, number: int, answer: bytes | JitneyError) -> None:
        reply = self._replies.get(number)
        if reply is not None and reply.is_over:
            del self._replies[number]
        if isinstance(answer, bytes):
            self.send(m.Answer(number, answer))
        else:
            self.send(m.Failed(number, answer.code, answer.message, answer.hint))

    def _begin(self, request: m.Request) -> None:
        if len(self._replies) >= REPLIES_MAX:
            why = f"this connection waits for {len(self._replies):,} answers already"
            self.send(m.Failed(request.id, "resource_exhausted", why, "wait for some, or use another connection"))
            return
        if request.id in self._replies:
            raise InvalidError("a request has the number of another that is under way")
        reply = self._table.begin(self, request.id, request.method, request.body, self._reply)
        if reply is not None:
            if not reply.is_over:
                self._replies[request.id] = reply
            return
        task = self._tasks[request.id] = asyncio.get_running_loop().create_task(self._answer(request))
        task.add_done_callback(lambda task: self._ended(request.id, task))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        """Here, as nothing of a task that is cancelled before its first step is ever run."""
        if self._tasks.get(number) is task:
            del self._tasks[number]
        if task.cancelled():
            self.send(m.Failed(number, "cancelled", "the request was cancelled"))

    async def _answer(self, request: m.Request) -> None:
        def emit(event: msgspec.Struct) -> None:
            self.send(m.Event(request.id, codec.encode(event)))

        try:
            answer = m.Answer(request.id, await self._table.call(self, request.method, request.body, emit))
            if self._transport is not None:
                self._transport.writelines(codec.encode_answer(answer))
        except JitneyError as error:
            self.send(m.Failed(request.id, error.code, error.message, error.hint))
