"""Where processes come to that were written down, once they go on: a socket by whose name they know the worker.

Its name is the same in every run of a server folder's worker, as it is in the memory that was written down. It is an
abstract one: nobody can remove it. Whoever comes is known by its process id, which the kernel tells, and who is not
expected is sent away.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")
BACKLOG = 128


class Door:
    """See the module. Opened when the first one is expected."""

    def __init__(self, name: str) -> None:
        self.address = f"\0jitney-{os.getuid()}-{name}-door"
        self._listener: socket.socket | None = None
        self._expected: dict[int, asyncio.Future[socket.socket]] = {}

    def expect(self, pid: int) -> asyncio.Future[socket.socket]:
        """The socket to a process that is about to come.

        Raises:
            OSError: another process has this door.
        """
        if self._listener is None:
            self._open()
        coming: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._expected[pid] = coming
        coming.add_done_callback(lambda _: self._expected.pop(pid, None))
        return coming

    def _open(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            visitor, _ = self._listener.accept()
        except OSError:
            return
        pid, _, _ = _CREDENTIALS.unpack(visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        coming = self._expected.get(pid)
        if coming is None or coming.done():
            visitor.close()
        else:
            coming.set_result(visitor)

    def close(self) -> None:
        """Nobody is expected any more."""
        for coming in list(self._expected.values()):
            coming.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
