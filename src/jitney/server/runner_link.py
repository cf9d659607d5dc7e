"""The listening side of containers' links: runner.protocol on a Unix socket.

The first frame must be HELLO with the container's token; anything else, or a container that was given up, is rejected.
Bytes of a container are hostile: a frame that does not parse ends the link, never the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from jitney.core.lifecycle import container as life
from jitney.runner import protocol
from jitney.server.fleet import Fleet
from jitney.server.router import Router
from jitney.server.state import Container
from jitney.values import ids
from jitney.values.containers import Phase

log = logging.getLogger("jitney.runner_link")

HELLO_WAIT_MS = 5_000  # after a restart a runner may be back before its worker: how long its HELLO waits
HELLO_RETRY_MS = 50


class RunnerLink(asyncio.Protocol):
    """One connection of a container."""

    def __init__(self, fleet: Fleet, router: Router, is_token: Callable[[str, str], bool]) -> None:
        self._fleet = fleet
        self._router = router
        self._is_token = is_token
        self._splitter = protocol.Splitter()
        self._transport: asyncio.Transport | None = None
        self._container: Container | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, frame: bytes) -> None:
        """Queue a frame; a link that has broken drops it."""
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        """Hang up, after what is queued."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._splitter.feed(data):
                self._frame(kind, body)
        except protocol.ProtocolError as error:
            log.warning("container %s: %s", self._container.id if self._container else "?", error)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        container = self._container
        if container is not None and container.link is self:
            container.link = None
            container.link_lost_at_ms = self._fleet.now_ms()

    def _frame(self, kind: int, body: bytes) -> None:
        container = self._container
        if container is None:
            if kind != protocol.HELLO:
                raise protocol.ProtocolError("the first frame is not HELLO")
            self._hello(protocol.unpack_json(body), self._fleet.now_ms() + HELLO_WAIT_MS)
        elif kind == protocol.RESULTS:
            self._router.results(container, protocol.unpack_results(body))
        elif kind == protocol.ITEMS:
            self._router.items(container, *protocol.unpack_items(body))
        elif kind == protocol.RECALLED:
            self._router.recalled(container, protocol.unpack_tokens(body))
        elif kind == protocol.READY:
            self._fleet.became_ready(container, _phases(protocol.unpack_json(body)))
        elif kind == protocol.FAILED:
            self._fleet.start_failed(container, body)
        elif kind == protocol.BYE:
            container.link_lost_at_ms = self._fleet.now_ms()
        else:
            raise protocol.ProtocolError(f"a runner does not send kind {kind}")

    def _hello(self, hello: dict[str, Any], until_ms: int) -> None:
        container_id, token = str(hello.get("container", "")), str(hello.get("token", ""))
        if not ids.is_id(container_id, ids.CONTAINER) or not self._is_token(container_id, token):
            self._reject("the token is wrong")
            return
        container = self._fleet.containers.get(container_id)
        if container is None:
            if self._fleet.now_ms() < until_ms and self._transport is not None:
                self._fleet.later(HELLO_RETRY_MS, lambda: self._hello(hello, until_ms))
            else:
                self._reject("the server has given this container up")
            return
        if container.phase in life.FINAL:
            self._reject("the server has given this container up")
            return
        old, container.link = container.link, self
        if old is not None:
            old.close()
        self._container = container
        container.link_lost_at_ms = None
        container.pid = container.pid or _integer(hello.get("pid"))
        self.send(protocol.pack_json(protocol.WELCOME, {}))
        self._router.adopt(container, _held(hello))
        if hello.get("ready"):
            self._fleet.became_ready(container)
        if container.phase is Phase.DRAINING:
            self.send(protocol.pack_json(protocol.STOP, {"grace_ms": 0}))

    def _reject(self, reason: str) -> None:
        self.send(protocol.pack_json(protocol.REJECT, {"reason": reason}))
        self.close()


def _phases(ready: dict[str, Any]) -> dict[str, object]:
    found = ready.get("phases_ms")
    return found if isinstance(found, dict) else {}


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _held(hello: dict[str, Any]) -> list[tuple[int, str, int]]:
    """(token, call id, index) of the inputs that a runner holds, by its HELLO.

    Raises:
        ProtocolError: not a list of these.
    """
    try:
        held = [(int(token), str(call), int(index)) for token, call, index, *_ in hello.get("running", [])]
    except (TypeError, ValueError):
        raise protocol.ProtocolError("HELLO: running is not a list of [token, call, index, attempt]") from None
    return held
