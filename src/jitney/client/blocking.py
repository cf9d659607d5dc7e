"""The direct path of what blocks, `f.remote(x)` or `d[key]`: no event loop and no thread hop.

Each calling thread has a connection of its own. A call is one `sendall` and, as a rule, one `recv`: waking two threads
of this process would cost more than the whole rest of a warm call. What is not the rule (a refusal, a break, a server
that is not there) is left to the portal, which goes on with the same call id, or asks again.
"""

from __future__ import annotations

import os
import socket
import struct
import threading

from jitney.client.greeting import GREETING_S, Endpoint, check_welcome, hello
from jitney.errors import JitneyError, from_code
from jitney.values.calls import CallKind, Output
from jitney.wire import codec
from jitney.wire.codec import Buffer
from jitney.wire.frames import Inbox
from jitney.wire.messages.link import (
    Answer,
    CancelCall,
    Failed,
    Invoke,
    Message,
    Outputs,
    Received,
    Refused,
    Request,
)


class Connection:
    """A blocking connection of one thread to one server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._inbox = Inbox()
        self._ready: list[bytes | memoryview] = []
        self._asked = 0
        self._within_s = 0  # for ever
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(GREETING_S)
            self._socket.connect(endpoint.socket)
            self._socket.sendall(codec.encode_frame(hello(endpoint)))
            check_welcome(self._receive(), endpoint)
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def __del__(self) -> None:
        self._socket.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def expect(self, within_s: int) -> None:
        """A server that lets us wait longer counts as gone. A timeout of Python's would wake us up for every piece."""
        if within_s != self._within_s:
            limit = struct.pack("@ll", within_s, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self._within_s = within_s

    def _receive(self) -> Message:
        while not self._ready:
            flags = socket.MSG_WAITALL if self._inbox.is_large else 0
            count = self._socket.recv_into(self._inbox.room(), 0, flags)
            if not count:
                raise ConnectionResetError("the server hung up")
            self._ready = self._inbox.filled(count)
        return codec.decode_from_server(self._ready.pop(0))

    def call(self, message: Invoke) -> Output | None:
        """The output of the call; None when it was refused.

        Raises:
            OSError: the connection broke. The server may know the call.
        """
        frame = codec.encode_frame(message)
        sent = False
        try:
            self._socket.sendall(frame)
            sent = True
            while True:
                answer = self._receive()
                if isinstance(answer, Outputs) and answer.call_id == message.call_id:
                    return answer.outputs[0]
                if isinstance(answer, Refused) and answer.call_id == message.call_id:
                    return None
        except BaseException as error:
            # Ctrl-C, or a cancelled input of the container that this runs in; perhaps in the middle of a frame, so
            # that nothing else can be asked on this connection.
            if sent and not isinstance(error, OSError):
                self._give_up(message.call_id)
            self._socket.close()
            raise

    def ask(self, method: str, body: bytes, *, held: bool, tail: Buffer = b"") -> Buffer:
        """The body of the answer to a request; `held`: the server is told that it has come. `tail`: see codec.before.

        Raises:
            JitneyError: the server's typed error.
            OSError: the connection broke. The server may have done it.
        """
        self._asked = number = self._asked + 1
        try:
            if tail:
                self._socket.sendall(codec.request_before(number, method, body, tail))
                self._socket.sendall(tail)
            else:
                self._socket.sendall(codec.encode_frame(Request(number, method, body)))
            while True:
                answer = self._receive()
                if isinstance(answer, Answer) and answer.id == number:
                    if held:
                        self._socket.sendall(codec.encode_frame(Received(number)))
                    return answer.body
                if isinstance(answer, Failed) and answer.id == number:
                    break
        except BaseException:
            self._socket.close()  # perhaps in the middle of a frame; what the server holds for us goes back
            raise
        raise from_code(answer.code, answer.message, answer.hint)

    def _give_up(self, call_id: str) -> None:
        try:
            self._socket.settimeout(1.0)
            self._socket.sendall(codec.encode_frame(CancelCall(call_id)))
        except OSError:
            pass


class _OfThread(threading.local):
    connection: Connection | None = None
    pid: int = 0


_mine = _OfThread()


def _connection(endpoint: Endpoint) -> Connection | None:
    """This thread's connection; None where there can be none."""
    connection = _mine.connection
    if connection is None or connection.endpoint != endpoint or _mine.pid != os.getpid():
        try:
            connection = _mine.connection = Connection(endpoint)
        except (OSError, JitneyError):
            return None
        _mine.pid = os.getpid()
    return connection


def ask(
    endpoint: Endpoint, method: str, body: bytes, *, held: bool = False, tail: Buffer = b"", within_s: int = 0
) -> Buffer | None:
    """The body of the answer to a request, by this thread's connection. None: let the portal ask.

    Args:
        endpoint: the server.
        method: its name.
        body: the message.
        held: the answer holds something; see talk.
        tail: what the message ends with; see codec.before.
        within_s: a server that does not go on for so long counts as gone; 0: it is waited for.

    Raises:
        JitneyError: the server's typed error.
        BaseException: what interrupted the wait.
    """
    connection = _connection(endpoint)
    if connection is None:
        return None
    try:
        connection.expect(within_s)
        return connection.ask(method, body, held=held, tail=tail)
    except JitneyError:
        raise
    except OSError:
        _mine.connection = None
        return None
    except BaseException:
        _mine.connection = None
        raise


def call(endpoint: Endpoint, call_id: str, function_id: str, method: str, payload: bytes) -> Output | None:
    """The output of one input, by this thread's connection. None: let the portal do it.

    Raises:
        BaseException: what interrupted the wait; the call has been cancelled.
    """
    connection = _connection(endpoint)
    if connection is None:
        return None
    try:
        return connection.call(Invoke(call_id, function_id, method, CallKind.UNARY, payload))
    except (OSError, JitneyError):
        _mine.connection = None
        return None
    except BaseException:
        _mine.connection = None
        raise
