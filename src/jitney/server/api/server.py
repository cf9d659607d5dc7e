"""The server itself: status, stop."""

from __future__ import annotations

from collections.abc import Callable

from jitney.server.api.table import Emit, Peer, Table
from jitney.wire import methods
from jitney.wire.messages import server as sm
from jitney.wire.messages.apps import Done


class ServerApi:
    """Handlers of the server.* methods."""

    def __init__(self, status: Callable[[], sm.ServerStatus], stop: Callable[[bool], None]) -> None:
        self._status = status
        self._stop = stop

    def register(self, table: Table) -> None:
        """Answer the server.* methods."""
        table.on(methods.SERVER_STATUS, self.status)
        table.on(methods.SERVER_STOP, self.stop)

    async def status(self, peer: Peer, request: sm.Empty, emit: Emit) -> sm.ServerStatus:
        """What runs here."""
        return self._status()

    async def stop(self, peer: Peer, request: sm.ServerStop, emit: Emit) -> Done:
        """End the server, soon after this answer."""
        self._stop(request.keep_containers)
        return Done()
