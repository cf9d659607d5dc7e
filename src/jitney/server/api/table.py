"""Method name -> handler: what links and HTTP alike call.

A handler is a coroutine, which runs as a task; or, where each microsecond counts, a function that is called in the turn
in which the request came, and answers by a `Reply`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from jitney.errors import InternalError, InvalidError, JitneyError, NotFoundError, PermissionDeniedError
from jitney.server.api.reply import Now, Reply, Send
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
        self._now: dict[str, tuple[str, msgspec.msgpack.Decoder[Any], Now]] = {}

    def on(self, method: Method[Q, A], handler: Handler[Q, A]) -> None:
        """Answer `method` by `handler(peer, request, emit)`; `emit` sends an event of its stream."""
        assert METHODS[method.name] is method
        self._handlers[method.name] = (method, handler)

    def at_once(self, method: Method[Q, A], handler: Now) -> None:
        """Answer `method` by `handler(peer, request, reply)`, with no task and no await between."""
        assert method.stream is None
        self._now[method.name] = (method.scope, msgspec.msgpack.Decoder(method.request), handler)
        self.on(method, self._awaited(handler))

    def _awaited(self, handler: Now) -> Handler[Any, Any]:
        """The same for callers that wait in a task. Nobody can say there that a held answer has come: it is sent."""

        async def call(peer: Peer, request: Any, emit: Emit) -> bytes:
            answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

            def send(number: int, answer: bytes | JitneyError) -> None:
                if answered.done():
                    return
                if isinstance(answer, bytes):
                    answered.set_result(answer)
                else:
                    answered.set_exception(answer)

            reply = Reply(0, send)
            handler(peer, request, reply)
            try:
                body = await answered
            except BaseException:
                reply.gone()
                raise
            reply.received()
            return body

        return call

    def begin(self, peer: Peer, number: int, name: str, body: bytes, send: Send) -> Reply | None:
        """Have a handler answer at once, or when it can. None: the method has no such handler."""
        found = self._now.get(name)
        if found is None:
            return None
        scope, decoder, handler = found
        reply = Reply(number, send)
        try:
            if scope not in SCOPES.get(peer.role, frozenset()):
                raise PermissionDeniedError(f"{name} is not for a {peer.role}")
            handler(peer, decoder.decode(body), reply)
        except msgspec.MsgspecError as error:
            reply.refuse(InvalidError(f"{name}: {error}"))
        except Exception as error:
            reply.refuse(error)
        return reply

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
            answer = await handler(peer, request, emit)
            return answer if isinstance(answer, bytes) else codec.encode(answer)
        except JitneyError:
            raise
        except msgspec.ValidationError as error:
            raise InvalidError(str(error)) from None
        except Exception as error:
            log.exception("%s failed", name)
            raise InternalError(f"{name} failed in the server: {error!r}", hint="see server.log") from error
