"""A socket to a process of ours behind a wall: frames out, with descriptors, and frames in. Never blocks the loop."""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

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
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self.is_open = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._on_readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Say it; the descriptors are duplicated, and may be closed at once."""
        if not self.is_open:
            return
        self._unsent.append((memoryview(protocol.pack(message)), [os.dup(one) for one in descriptors]))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            frame, descriptors = self._unsent[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
            try:
                sent = self._sock.sendmsg([frame], rights)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError:
                sent = len(frame)  # it is gone: the end of the stream tells
            for one in descriptors:
                os.close(one)
            if sent < len(frame):
                self._unsent[0] = (frame[sent:], [])
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._sock)

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
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptors in self._unsent:
            for one in descriptors:
                os.close(one)
        self._unsent.clear()
        self._on_end()
