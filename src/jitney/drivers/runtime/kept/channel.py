"""A socket to a process of ours behind a wall: frames out, with descriptors, and frames in. Never blocks the loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from jitney.drivers.runtime.forking.sending import Sender
from jitney.runner import template_protocol as protocol

READ_BYTES = 64 * 1024

Message = dict[str, Any]


class Channel:
    """See the module. `on_end` is called once, when the other side is gone or what it says is none of the protocol."""

    def __init__(self, sock: socket.socket, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._splitter = protocol.Splitter()
        self._sender = Sender(sock)
        self.is_open = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._on_readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Say it; the descriptors are duplicated, and may be closed at once."""
        if self.is_open:
            self._sender.send(message, descriptors)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            for message in self._splitter.feed(data):
                self._on_message(message)
        except (protocol.TemplateProtocolError, KeyError, TypeError, ValueError):
            data = b""
        if not data:
            self.close()

    def close(self) -> None:
        """Hang up."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._sock)
        self._sender.close()
        self._sock.close()
        self._on_end()
