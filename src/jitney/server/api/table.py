"""Method name -> handler: what links and HTTP alike call."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from jitney.errors import InternalError, InvalidError, JitneyError, NotFoundError, PermissionDeniedError
from jitney.wire import codec
from jitney.wire.methods import METHODS, Method

log = logging.getLogger("jitney.api")

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)

SCOPES = {
    "client": frozenset({"user", "container"}),
    "container": frozenset({"container"}),
    "worker": frozenset({"worker"}),
}


class Peer(Protocol):
    """Who asks: its role decides which methods it may call."""

    role: str

    def on_gone(self, action: Callable[[], None]) -> None:
        """Run `action` when the peer has hung up (at once, if it has)."""


Emit = Callable[[msgspec.Struct], None]
Handler = Callable[[Peer, Q, Emit], Awaitable[A]]


class Table:
    """All methods that this server answers."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Method[Any, Any], Handler[Any, Any]]] = {}

    def on(self, method: Method[Q, A], handler: Handler[Q, A]) -> None:
        """Answer `method` by `handler(peer, request, emit)`; `emit` sends an event of its stream."""
        assert METHODS[method.name] is method
        self._handlers[method.name] = (method, handler)

    def missing(self) -> set[str]:
        """Methods of the table that nobody answers."""
        return set(METHODS) - set(self._handlers)

    def find(self, peer: Peer, name: str) -> tuple[Method[Any, Any], Handler[Any, Any]]:
        """The method and its handler.

        Raises:
            NotFoundError: no such method. PermissionDeniedError: not for this peer's role.
        """
        try:
            method, handler = self._handlers[name]
        except KeyError:
            raise NotFoundError(f"no method {name[:64]!r}", hint="this server may be older than the client") from None
        if method.scope not in SCOPES.get(peer.role, frozenset()):
            raise PermissionDeniedError(f"{name} is not for a {peer.role}")
        return method, handler

    async def call(self, peer: Peer, name: str, body: bytes, emit: Emit) -> bytes:
        """Decode, handle, encode.

        Raises:
            JitneyError: what the handler raised; anything else is logged and becomes an InternalError.
        """
        method, handler = self.find(peer, name)
        request = codec.decode(body, method.request)
        try:
            return codec.encode(await handler(peer, request, emit))
        except JitneyError:
            raise
        except msgspec.ValidationError as error:
            raise InvalidError(str(error)) from None
        except Exception as error:
            log.exception("%s failed", name)
            raise InternalError(f"{name} failed in the server: {error!r}", hint="see server.log") from error
