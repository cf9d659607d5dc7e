"""The runner's end of its link: frames out, frames in, and a new connection when it breaks.

Only the main thread reads (a blocking `receive`, or `drain` for what is there). Anybody may send. Whoever notices a
break makes the new connection; the others wait for it or find it made. What could not be sent meanwhile is kept and
goes out after WELCOME, in order.

User code may do anything to this process: close descriptors 0 to 2 or 3 to 100, change folder or signals. So the
socket is on a descriptor far up, and every error on it means the same: connect again.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import mmap
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from jitney.runner import protocol

DESCRIPTOR_MIN = 200
SOCKET_BUFFER_BYTES = 1024 * 1024
READ_BYTES = 256 * 1024
RECONNECT_FOR_S = 60.0
RETRY_MIN_S = 0.05
RETRY_MAX_S = 1.0
WELCOME_WITHIN_S = 5.0
BURST_NS = 600_000  # a frame that came within this of our asking: the next may do so too
SPIN_NS = 400_000
FINISH_WITHIN_S = 2.0


class LinkLost(Exception):
    """The server does not know this container any more, or has not answered for RECONNECT_FOR_S."""


class Connection:
    """One connection of the link."""

    __slots__ = ("early", "ended", "sock", "splitter")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.splitter = protocol.Splitter()
        self.early: list[tuple[int, bytes]] = []  # frames that came with WELCOME
        self.ended = False


class Link:
    """See the module. `hello` gives the body of HELLO; `after_welcome` gives frames to send first on a new connection.

    `unreported` has token -> (call id, index, attempt) of inputs whose result is not out yet; they leave it as their
    RESULTS frame does.
    """

    def __init__(
        self,
        path: str,
        hello: Callable[[], dict[str, Any]],
        after_welcome: Callable[[], list[bytes]],
    ) -> None:
        self.path = path
        self.lock = _thread.allocate_lock()  # held while sending
        self.unreported: dict[int, tuple[str, int, int]] = {}
        self.lost: LinkLost | None = None
        self.on_reconnect: Callable[[], None] | None = None
        self._hello = hello
        self._after_welcome = after_welcome
        self._reconnecting = _thread.allocate_lock()
        self._unsent: list[tuple[bytes, Sequence[int]]] = []
        self._may_spin = hasattr(os, "sched_yield") and (os.cpu_count() or 1) > 1
        self._in_a_burst = False
        # Memory that costs nothing before it is written to: most frames are small, and idle containers many.
        self._buffer = mmap.mmap(-1, READ_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        try:
            # Nobody waits for WELCOME here: READY may follow at once, and REJECT is read with the first frames.
            self.connection = Connection(self._connect())
            self._send_all(protocol.pack_json(protocol.HELLO, hello()))
        except OSError:
            self.connection = self._connect_until(time.monotonic() + RECONNECT_FOR_S)

    # ------------------------------------------------------------------ sending

    def send(self, frame: bytes) -> None:
        """Send a frame, now or after the next WELCOME."""
        with self.lock:
            self.send_locked(frame)

    def send_locked(self, frame: bytes, tokens: Sequence[int] = ()) -> None:
        """As `send`, by a caller that holds `lock`; `tokens` are reported by this frame."""
        if self._unsent or not self._send_all(frame):
            self._unsent.append((frame, tokens))
            return
        for token in tokens:
            self.unreported.pop(token, None)

    def _send_all(self, frame: bytes) -> bool:
        connection = self.connection
        if connection.ended:
            return False
        try:
            connection.sock.sendall(frame)
        except OSError:
            _end(connection)
            return False
        return True

    # ------------------------------------------------------------------ receiving

    def receive(self) -> list[tuple[int, bytes]]:
        """Wait for frames; connects again when the link breaks.

        Raises:
            LinkLost: nobody is there to work for.
        """
        while True:
            connection = self.connection
            if connection.early:
                frames, connection.early = connection.early, []
                return frames
            started_ns = time.perf_counter_ns()
            frames = self._spin(connection, started_ns) if self._in_a_burst else []
            if not frames and not connection.ended:
                frames = self._read(connection, 0)
            self._in_a_burst = self._may_spin and time.perf_counter_ns() - started_ns < BURST_NS
            if frames:
                return frames
            if connection.ended:
                self.reconnect(connection)

    def _spin(self, connection: Connection, started_ns: int) -> list[tuple[int, bytes]]:
        """Look for frames for SPIN_NS without sleeping; whoever else can run on this processor goes first.

        A caller that waits for one result before it asks for the next is heard again within the time that waking a
        sleeping processor costs: for such bursts, and only in them, this halves the round trip.
        """
        until_ns = started_ns + SPIN_NS
        while time.perf_counter_ns() < until_ns:
            try:
                return self._read(connection, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        return []

    def drain(self) -> list[tuple[int, bytes]]:
        """The frames that are here; never waits, never connects."""
        connection = self.connection
        frames, connection.early = connection.early, []
        while not connection.ended:
            try:
                frames += self._read(connection, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        return frames

    def _read(self, connection: Connection, flags: int) -> list[tuple[int, bytes]]:
        try:
            size = connection.sock.recv_into(self._buffer, 0, flags)
        except BlockingIOError:
            raise
        except OSError:
            size = 0
        if size:
            try:
                return connection.splitter.feed(bytes(self._view[:size]))
            except protocol.ProtocolError:
                pass  # the stream cannot be trusted any more
        _end(connection)
        return []

    def finish(self) -> None:
        """Say that nothing more comes, and wait until the server has heard it all.

        A process that ends with frames unread resets the connection, and the server may lose what came before.
        """
        self.lost = LinkLost("this container has said its last")
        connection = self.connection
        try:
            connection.sock.settimeout(FINISH_WITHIN_S)
            connection.sock.shutdown(socket.SHUT_WR)
            while connection.sock.recv(READ_BYTES):
                pass
        except OSError:
            pass
        _end(connection)

    # ------------------------------------------------------------------ connecting

    def reconnect(self, broken: Connection) -> None:
        """Replace a broken connection, unless somebody has.

        Raises:
            LinkLost: rejected, or no server for RECONNECT_FOR_S.
        """
        with self._reconnecting:
            if self.connection is not broken:
                return
            if self.lost is not None:
                raise self.lost
            _end(broken)
            try:
                fresh = self._connect_until(time.monotonic() + RECONNECT_FOR_S)
            except LinkLost as lost:
                self.lost = lost
                raise
            with self.lock:
                self.connection = fresh
                unsent, self._unsent = self._unsent, []
                for frame in self._after_welcome():
                    self.send_locked(frame)
                for frame, tokens in unsent:
                    self.send_locked(frame, tokens)
        if self.on_reconnect is not None:
            self.on_reconnect()

    def _connect_until(self, deadline: float) -> Connection:
        pause = RETRY_MIN_S
        while True:
            try:
                return self._introduce(Connection(self._connect()))
            except (OSError, protocol.ProtocolError):
                pass
            if time.monotonic() + pause > deadline:
                raise LinkLost(f"no server answers at {self.path}")
            time.sleep(pause)
            pause = min(pause * 1.5, RETRY_MAX_S)

    def _introduce(self, connection: Connection) -> Connection:
        """HELLO and WELCOME on a new connection."""
        connection.sock.settimeout(WELCOME_WITHIN_S)
        with self.lock:  # whoever is sending a result has also struck it off when we say what is unreported
            hello = self._hello()
        connection.sock.sendall(protocol.pack_json(protocol.HELLO, hello))
        frames: list[tuple[int, bytes]] = []
        while not frames:
            data = connection.sock.recv(READ_BYTES)
            if not data:
                raise ConnectionResetError
            frames = connection.splitter.feed(data)
        kind, body = frames[0]
        if kind == protocol.REJECT:
            raise LinkLost(rejection(body))
        if kind != protocol.WELCOME:
            raise protocol.ProtocolError("not WELCOME")
        connection.early = frames[1:]
        connection.sock.settimeout(None)
        return connection

    def _connect(self) -> socket.socket:
        low = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            low.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            low.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
            low.connect(self.path)
            try:
                high = fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, DESCRIPTOR_MIN)
            except OSError:  # the limit of descriptors is lower
                return low
        except BaseException:
            low.close()
            raise
        low.close()
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=high)


def rejection(body: bytes) -> str:
    """The reason in a REJECT frame."""
    try:
        return str(protocol.unpack_json(body).get("reason", "rejected"))
    except protocol.ProtocolError:
        return "rejected"


def _end(connection: Connection) -> None:
    """Mark as broken, and wake whoever waits for it. Closing is left to the last user of the object."""
    connection.ended = True
    try:
        connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            connection.sock.detach()  # user code has closed it: the number may be another file's by now


def close_in_child(link: Link) -> None:
    """In a fork of this process: let go of the link without ending it for the parent."""
    connection = link.connection
    connection.ended = True
    try:
        os.close(connection.sock.detach())
    except OSError:
        pass
