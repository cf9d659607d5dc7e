"""The link to the server: commands come as a stream, reports go as requests, and the link may break at any time.

One connection at a time. Each new one says Hello, opens the stream `worker.attach` (with what runs here now), and
then sends the reports that were not acknowledged: a report may arrive twice, and never not at all. Reports are sent at
once, log lines after LINGER_S or LINGER_LINES, whichever is first; one batch is under way at a time (see outbox).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

import msgspec

from jitney.errors import BY_CODE, ConnectionError, InternalError, InvalidError
from jitney.values.containers import LogLine
from jitney.wire import codec
from jitney.wire.frames import Splitter
from jitney.wire.home import Home
from jitney.wire.messages import workers
from jitney.wire.messages.link import PROTOCOL, Answer, Event, Failed, FromServer, Hello, Message, Request, Welcome
from jitney.wire.methods import WORKER_ATTACH, WORKER_REPORT, A, Method, Q
from jitney.worker.outbox import Outbox

log = logging.getLogger("jitney.worker")

RETRY_S = 0.1
RETRY_S_MAX = 1.0
GREETING_S = 10.0  # for a server that accepts and then says nothing
LINGER_S = 0.002
LINGER_LINES = 256
ATTACH_ID = 1

_command = msgspec.msgpack.Decoder(workers.WorkerCommand)


class Connection(asyncio.Protocol):
    """One connection: bytes in and out, messages cut and decoded."""

    def __init__(self, on_message: Callable[[FromServer], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                self._on_message(codec.decode_from_server(body))
        except InvalidError as error:
            log.warning("link_broken reason=%s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: Message) -> None:
        """Queue a message; it is lost if the connection is."""
        if self._transport is not None:
            self._transport.write(codec.encode_frame(message))

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class ServerLink:
    """See the module. All callbacks run on the loop; `on_lost` once for each time that the link is lost."""

    def __init__(
        self,
        home: Home,
        *,
        version: str,
        attach: Callable[[], workers.WorkerAttach],
        on_command: Callable[[workers.WorkerCommand], None],
        on_restored: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.outbox = Outbox()
        self._home = home
        self._version = version
        self._attach = attach
        self._on_command = on_command
        self._on_restored = on_restored
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._is_attached = False
        self._request_id = ATTACH_ID
        self._greeting: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_soon = False
        self._drained = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Answer | Failed]] = {}

    # -------------------------------------------------------------------------------------------- connections

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        delay_s = RETRY_S
        while True:
            if await self._serve():
                delay_s = RETRY_S
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_S_MAX)

    async def _serve(self) -> bool:
        """One connection from beginning to end; whether the server took us."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(
                lambda: Connection(self._on_message), str(self._home.socket())
            )
        except OSError:
            return False
        self._connection = connection
        connection.send(Hello(PROTOCOL, self._version, self._home.read_token(), "worker", os.getpid()))
        self._greeting = loop.call_later(GREETING_S, connection.abort)
        try:
            await asyncio.shield(connection.closed)
        finally:
            self._greeting.cancel()
            connection.abort()
            self._connection = None
            was_attached, self._is_attached = self._is_attached, False
            self.outbox.give_back()
            asked, self._asked = self._asked, {}
            for waiting in asked.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the link to the server broke"))
                    waiting.exception()  # nobody may be waiting any more
            if was_attached:
                self._on_lost()
        return was_attached

    def _on_message(self, message: FromServer) -> None:
        if isinstance(message, Event):
            self._take_command(message.body)
        elif isinstance(message, Answer | Failed):
            self._answered(message)
        elif isinstance(message, Welcome) and self._connection is not None and not self._is_attached:
            self._is_attached = True
            if self._greeting is not None:
                self._greeting.cancel()
            self._on_restored()
            self._request(ATTACH_ID, WORKER_ATTACH.name, self._attach())
            self.kick()

    def _take_command(self, body: bytes) -> None:
        try:
            command = _command.decode(body)
        except msgspec.MsgspecError as error:
            log.error("command_not_understood reason=%s", error)  # of a newer server
            return
        self._on_command(command)

    def _answered(self, message: Answer | Failed) -> None:
        waiting = self._asked.pop(message.id, None)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(message)
            return
        if message.id <= ATTACH_ID:  # refused, or the stream of commands has ended
            if isinstance(message, Failed):
                log.warning("link_refused code=%s message=%s", message.code, message.message)
            self._break()
            return
        if isinstance(message, Failed):
            kind = BY_CODE.get(message.code)
            log.warning("report_refused code=%s message=%s", message.code, message.message)
            if kind is not None and kind.retryable:
                self._break()  # and send it again
                return
        self.outbox.acknowledged()
        self.kick()
        if not len(self.outbox):
            self._drained.set()

    def _break(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    # -------------------------------------------------------------------------------------------- reports

    def report(self, report: workers.WorkerReport) -> None:
        """Send a report, now or when there is a server."""
        self.outbox.add(report)
        self.kick()

    def lines(self, lines: Sequence[LogLine]) -> bool:
        """Send log lines; False when there is no more room for them."""
        taken = self.outbox.add_lines(lines)
        self.kick()
        return taken

    def kick(self) -> None:
        """Something may be waiting to be sent."""
        outbox = self.outbox
        if not self._is_attached or self._is_soon or not outbox.waits:
            return
        loop = asyncio.get_running_loop()
        if outbox.has_urgent or outbox.lines_waiting >= LINGER_LINES:
            self._is_soon = True
            loop.call_soon(self._flush)
        elif self._timer is None:
            self._timer = loop.call_later(LINGER_S, self._flush)

    def _flush(self) -> None:
        self._is_soon = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_attached:
            return
        reports = self.outbox.take()
        if reports:
            self._request_id += 1
            self._request(self._request_id, WORKER_REPORT.name, workers.WorkerReports(reports=reports))

    async def request(self, method: Method[Q, A], message: Q) -> A:
        """What the server answers.

        Raises:
            ConnectionError: there is no server now, or the link broke: whether it was done is not known.
            JitneyError: the server refused.
        """
        if not self._is_attached:
            raise ConnectionError("there is no link to the server")
        self._request_id += 1
        answer = self._asked[self._request_id] = asyncio.get_running_loop().create_future()
        self._request(self._request_id, method.name, message)
        found = await answer
        if isinstance(found, Failed):
            raise BY_CODE.get(found.code, InternalError)(found.message, hint=found.hint)
        return codec.decode(found.body, method.answer)

    def _request(self, id: int, method: str, body: msgspec.Struct) -> None:
        if self._connection is not None:
            self._connection.send(Request(id, method, codec.encode(body)))

    async def drain(self, timeout_s: float) -> bool:
        """Wait until every report is acknowledged; False when that took too long."""
        self._drained.clear()
        self.kick()
        if not len(self.outbox):
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True
