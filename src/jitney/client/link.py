"""The link to the server, for the portal's loop: requests, streams and calls over one Unix socket.

A link outlives its connections. When one breaks, the next use or whatever is under way brings up another one, with
growing pauses, for `GIVE_UP_S`; then everything under way fails with `ConnectionError`. After a new connection, in this
order:

1. Requests that are safe to ask twice are sent again (nearly all: the client chooses ids, and the server takes a
   repeat as one). A stream is not resumed, since only its reader knows how far it came: it ends with `ConnectionError`.
2. Each connected call is opened again. The server may hold results that the old connection did not take, and sends
   them now.
3. When a request that was sent after that is answered, those results are all here. Only then do the calls send again
   the inputs that still have none: an input whose result was on its way does not run a second time.

Frames that are written in one turn of the loop leave in one system call.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from jitney.client.greeting import GREETING_S, Endpoint, check_welcome, hello, no_server
from jitney.errors import ConnectionError, JitneyError, from_code
from jitney.values.calls import Output
from jitney.wire import codec
from jitney.wire.frames import Splitter
from jitney.wire.messages import link as messages
from jitney.wire.messages.link import Message
from jitney.wire.methods import SERVER_STATUS, Method

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)

GIVE_UP_S = 60.0  # without a connection, until what is under way fails
RETRY_S_MIN = 0.05
RETRY_S_MAX = 0.5  # below the time for which a server waits for a client to come back
CLOSE_S = 1.0  # for what is unsent to leave
WRITE_BYTES_HIGH = 4 * 1024 * 1024  # unsent bytes from which senders wait
STREAM_EVENTS_HIGH = 10_000  # unread events of one stream from which the link reads no further


class StreamBroken(ConnectionError):
    """The connection broke in the middle of what cannot be asked again as it is."""


class Receiver(Protocol):
    """A connected call, as the link sees it. All are called on the portal and may not block."""

    def on_outputs(self, outputs: list[Output]) -> None:
        """Inputs have ended."""

    def on_items(self, first: int, payloads: list[bytes]) -> None:
        """The generator yielded; `payloads[0]` is number `first`."""

    def on_refused(self, refused: messages.Refused) -> None:
        """Inputs came back."""

    def opening(self) -> Message:
        """What opens the call (again)."""
        ...

    def on_connected(self) -> None:
        """The call is open on a new connection, and results from before it are here: send what is outstanding."""

    def on_lost(self, error: JitneyError) -> None:
        """There will be no more connection."""


class _Connection(asyncio.Protocol):
    """One connection of a link: frames in, frames out."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._unsent: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.greeting: asyncio.Future[Message] = self._loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                message = codec.decode_from_server(body)
                if self.greeting.done():
                    self._link.receive(message)
                else:
                    self.greeting.set_result(message)
        except JitneyError:
            assert self.transport is not None
            self.transport.abort()  # the stream cannot be trusted any more: a new connection begins a new one

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.greeting.done():
            self.greeting.set_exception(exc or ConnectionResetError("the server hung up"))
            self.greeting.exception()  # it may be that nobody waits for it any more
        self.writable.set()
        self.ended.set()
        self._link.lost(self)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def send(self, frame: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(frame)

    def flush(self) -> None:
        frames, self._unsent = self._unsent, []
        if frames and self.transport is not None and not self.transport.is_closing():
            self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))


class _Pending:
    """A request that has no answer yet."""

    __slots__ = ("answer", "events", "frame", "method", "resend")

    def __init__(self, method: Method[Any, Any], frame: bytes, resend: bool) -> None:
        self.method = method
        self.frame = frame
        self.resend = resend
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.events: asyncio.Queue[bytes | None] | None = None

    def fail(self, error: JitneyError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()
        if self.events is not None:
            self.events.put_nowait(None)


class Link:
    """A connection to one server that is made again when it breaks. Of the portal's loop."""

    def __init__(self, locate: Callable[[bool], Awaitable[Endpoint]], *, was_connected: bool = False) -> None:
        """`locate(is_wanted)` says where the server is, and may start one.

        `is_wanted` is False while nobody asks for anything new, and what was under way at a break waits for its server.
        `was_connected`: this process has had to do with the server already, so it is waited for the first time too.
        """
        self._locate = locate
        self._new_uses = 0  # that wait for a connection
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._calls: dict[str, Receiver] = {}
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._was_connected = was_connected
        self._closed = False
        self.boot_id = ""
        self.lost_at_s: float | None = None  # on the monotonic clock; None while connected, and before the first time
        self.endpoint: Endpoint | None = None

    # ------------------------------------------------------------------------------------------- connections

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    async def connect(self, *, is_new: bool = True) -> None:
        """Return when there is a connection. `is_new`: for something new, rather than to go on after a break.

        Raises:
            ConnectionError: no server answers.
            AuthError, VersionError: it refuses this client.
        """
        if self._connection is not None:
            return
        if self._closed:
            raise ConnectionError("this session is closed")
        self._new_uses += is_new
        try:
            await asyncio.shield(self._bring_up())
        finally:
            self._new_uses -= is_new

    def _bring_up(self) -> asyncio.Task[None]:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        return self._connecting

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        assert error is not None
        self._fail_all(error if isinstance(error, JitneyError) else ConnectionError(str(error)))

    async def _connect(self) -> None:
        deadline = time.monotonic() + (GIVE_UP_S if self._was_connected else 0.0)
        pause_s = RETRY_S_MIN
        while True:
            try:
                await self._connect_once()
                return
            except ConnectionError:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _connect_once(self) -> None:
        endpoint = await self._locate(self._new_uses > 0)
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(lambda: _Connection(self), endpoint.socket)
        except OSError as error:
            raise no_server(endpoint, error) from None
        try:
            connection.send(codec.encode_frame(hello(endpoint)))
            async with asyncio.timeout(GREETING_S):
                welcome = check_welcome(await connection.greeting, endpoint)
        except OSError as error:  # TimeoutError is one
            raise no_server(endpoint, error) from None
        finally:
            if not connection.greeting.done() or self._closed:
                assert connection.transport is not None
                connection.transport.abort()
        if connection.transport is None or connection.transport.is_closing():
            raise no_server(endpoint, ConnectionResetError("the server hung up"))
        self.endpoint, self.boot_id = endpoint, welcome.boot_id
        self._connection, self._was_connected, self.lost_at_s = connection, True, None
        for pending in self._pending.values():
            connection.send(pending.frame)
        if self._calls:
            self._reopen(list(self._calls))

    def _reopen(self, call_ids: list[str]) -> None:
        for call_id in call_ids:
            self.send(self._calls[call_id].opening())
        fence = next(self._ids)
        pending = _Pending(
            SERVER_STATUS, codec.encode_frame(messages.Request(fence, SERVER_STATUS.name, b"\x80")), False
        )
        self._pending[fence] = pending

        def reached(answer: asyncio.Future[bytes]) -> None:
            self._pending.pop(fence, None)
            if answer.cancelled() or isinstance(answer.exception(), ConnectionError):
                return  # that connection broke too: the next one does all this again
            for call_id in call_ids:
                if (receiver := self._calls.get(call_id)) is not None:
                    receiver.on_connected()

        pending.answer.add_done_callback(reached)
        if self._connection is not None:
            self._connection.send(pending.frame)

    def resume(self, call_id: str, receiver: Receiver) -> None:
        """As `open`, for a call that was begun on another connection: `on_connected` follows."""
        self.open(call_id, receiver)
        if self._connection is not None:
            self._reopen([call_id])

    def lost(self, connection: _Connection) -> None:
        """The connection broke; called by it."""
        if connection is not self._connection:
            return
        self._connection, self.lost_at_s = None, time.monotonic()
        for number, pending in list(self._pending.items()):
            if not pending.resend:
                del self._pending[number]
                pending.fail(
                    StreamBroken(
                        f"the connection broke while {pending.method.name!r} was under way",
                        hint="it may have taken effect; look before you ask again",
                    )
                )
        if (self._pending or self._calls) and not self._closed:
            self._bring_up()

    def _fail_all(self, error: JitneyError) -> None:
        pending, self._pending = self._pending, {}
        calls, self._calls = self._calls, {}
        for one in pending.values():
            one.fail(error)
        for receiver in calls.values():
            receiver.on_lost(error)

    async def close(self) -> None:
        """Send what is unsent and hang up. What is under way fails."""
        self._closed = True
        connection, self._connection = self._connection, None
        if self._connecting is not None:
            self._connecting.cancel()
        if connection is not None and connection.transport is not None:
            connection.flush()
            connection.transport.close()
        self._fail_all(ConnectionError("the session was closed"))
        if connection is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await connection.ended.wait()
            except TimeoutError:
                pass

    def abandon(self) -> None:
        """In a forked child: close our copy of the socket, and say nothing to the server: it is the parent's."""
        connection, self._connection, self._closed = self._connection, None, True
        if connection is not None and connection.transport is not None:
            socket = connection.transport.get_extra_info("socket")
            if socket is not None and socket.fileno() >= 0:
                os.close(socket.fileno())

    # ------------------------------------------------------------------------------------------- requests

    async def request(self, method: Method[Q, A], message: Q, *, resend: bool = True) -> A:
        """The server's answer. `resend=False` for what must not be asked twice.

        Raises:
            JitneyError: the server's typed error, or `ConnectionError`.
        """
        number, pending = self._new(method, message, resend)
        try:
            await self._ask(number, pending)
            return codec.decode(await pending.answer, method.answer)
        finally:
            self._forget(number, pending)

    async def request_held(self, method: Method[Q, A], message: Q) -> tuple[A, Callable[[bool], None]]:
        """As `request`, for an answer that holds something: to be told whether it has arrived where it was wanted."""
        number, pending = self._new(method, message, True)
        try:
            await self._ask(number, pending)
            body = await pending.answer
        except asyncio.CancelledError:
            self.send(messages.CancelRequest(number))  # it may be answered already
            raise
        finally:
            self._pending.pop(number, None)

        def settle(has_arrived: bool) -> None:
            self.send(messages.Received(number) if has_arrived else messages.CancelRequest(number))

        return codec.decode(body, method.answer), settle

    def stream(self, method: Method[Q, A], message: Q) -> Stream[A]:
        """The events of a request, to iterate over; then its answer."""
        return Stream(self, method, message)

    def _new(self, method: Method[Q, A], message: Q, resend: bool) -> tuple[int, _Pending]:
        number = next(self._ids)
        frame = codec.encode_frame(messages.Request(number, method.name, codec.encode(message)))
        return number, _Pending(method, frame, resend)

    async def _ask(self, number: int, pending: _Pending) -> None:
        while self._connection is None:
            await self.connect()
        self._pending[number] = pending
        self._connection.send(pending.frame)
        await self._connection.writable.wait()

    def _forget(self, number: int, pending: _Pending) -> None:
        if self._pending.pop(number, None) is not None and not pending.answer.done():
            self.send(messages.CancelRequest(number))

    # ------------------------------------------------------------------------------------------- calls

    def open(self, call_id: str, receiver: Receiver) -> None:
        """Deliver messages of this call to `receiver`, until `release`."""
        self._calls[call_id] = receiver
        if self._connection is None:
            self._bring_up()

    def release(self, call_id: str) -> None:
        """The call is over."""
        self._calls.pop(call_id, None)

    def send(self, message: Message) -> bool:
        """Send a message of a call. False without a connection: `on_connected` follows when there is one."""
        if self._connection is None:
            return False
        self._connection.send(codec.encode_frame(message))
        return True

    async def drained(self) -> None:
        """Return when the socket takes more."""
        if self._connection is not None:
            await self._connection.writable.wait()

    # ------------------------------------------------------------------------------------------- what arrives

    def receive(self, message: Message) -> None:
        """A message from the server; called by the connection."""
        match message:
            case messages.Outputs(call_id, outputs):
                if (receiver := self._calls.get(call_id)) is not None:
                    receiver.on_outputs(outputs)
            case messages.Items(call_id, first, payloads):
                if (receiver := self._calls.get(call_id)) is not None:
                    receiver.on_items(first, payloads)
            case messages.Answer(number, body):
                if (pending := self._pending.get(number)) is not None and not pending.answer.done():
                    pending.answer.set_result(body)
                    if pending.events is not None:
                        pending.events.put_nowait(None)
            case messages.Event(number, body):
                if (pending := self._pending.get(number)) is not None and pending.events is not None:
                    pending.events.put_nowait(body)
                    self._hold_back(pending.events.qsize() > STREAM_EVENTS_HIGH)
            case messages.Failed(number, code, text, hint):
                if (pending := self._pending.get(number)) is not None:
                    pending.fail(from_code(code, text, hint))
            case messages.Refused(call_id):
                if (receiver := self._calls.get(call_id)) is not None:
                    receiver.on_refused(message)

    def _hold_back(self, full: bool) -> None:
        """A reader that does not keep up with its stream slows the server down; nothing is dropped."""
        transport = self._connection.transport if self._connection is not None else None
        if transport is None or transport.is_closing():
            return
        if full and transport.is_reading():
            transport.pause_reading()
        elif not full and not transport.is_reading():
            transport.resume_reading()


class Stream(Generic[A]):
    """Events of one request. After the last one `answer` has the server's answer."""

    def __init__(self, link: Link, method: Method[Any, A], message: msgspec.Struct) -> None:
        self._link = link
        self._method = method
        self._number, self._pending = link._new(method, message, False)
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pending.events = self._events
        self._asked = False
        self.answer: A | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def ask(self) -> None:
        """Send the request now, rather than with the first event that is waited for."""
        if not self._asked:
            self._asked = True
            await self._link._ask(self._number, self._pending)

    async def __anext__(self) -> Any:
        if self.answer is not None:
            raise StopAsyncIteration
        await self.ask()
        body = await self._events.get()
        if self._events.qsize() < STREAM_EVENTS_HIGH // 2:
            self._link._hold_back(False)
        if body is None:
            try:
                self.answer = codec.decode(await self._pending.answer, self._method.answer)
            finally:
                self.close()
            raise StopAsyncIteration
        return codec.decode(body, self._method.stream)

    def close(self) -> None:
        """Want no more of it."""
        self._link._forget(self._number, self._pending)
