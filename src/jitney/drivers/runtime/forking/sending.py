"""Messages with descriptors out of a non-blocking socket, in order, without ever blocking the loop."""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any

from jitney.runner import template_protocol as protocol


class Sender:
    """What the socket does not take now goes when it can. To one whose other end is gone, nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Say it; the descriptors are duplicated, and may be closed at once."""
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

    def close(self) -> None:
        """Before the socket is closed: send no more."""
        self._loop.remove_writer(self._sock)
        for _, descriptors in self._unsent:
            for one in descriptors:
                os.close(one)
        self._unsent.clear()
