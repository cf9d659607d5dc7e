"""The same table of methods over HTTP, for everyone who does not speak the link: `POST /v1/<method>`.

Bodies are JSON, or msgpack where the content type says so; the answer comes in the form that was sent. A stream answers
with a JSON object a line, the last of which is the answer. Errors have the status of their class and a typed body:
`{"code": ..., "message": ..., "hint": ...}`. aiohttp is imported when the server listens already: it costs 0.3 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from jitney.errors import AuthError, InvalidError, JitneyError
from jitney.server.api.table import Table
from jitney.server.auth import Auth
from jitney.wire import codec

if TYPE_CHECKING:
    from aiohttp import web

BODY_BYTES_MAX = 64 * 1024 * 1024
MSGPACK = "application/msgpack"
LOOPBACK = "127.0.0.1"


class HttpPeer:
    """Somebody who asked by HTTP: it has the rights of a client, and is gone when its request is over."""

    role = "client"

    def on_gone(self, action: Callable[[], None]) -> None:
        """Run at once: what lives as long as its peer does not live over HTTP."""
        action()


class Http:
    """The HTTP side of a server, on loopback."""

    def __init__(self, table: Table, auth: Auth, is_ready: Callable[[], str], version: str) -> None:
        self._table = table
        self._auth = auth
        self._is_ready = is_ready
        self._version = version
        self._runner: web.AppRunner | None = None

    async def start(self, port: int, *, or_any: bool = False) -> str:
        """Listen on `port` of loopback (0: any that is free; `or_any`: where it is taken too); gives the address.

        Raises:
            OSError: the port is taken.
        """
        from aiohttp import web

        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/v1/{method}", self._method)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/version", self._show_version)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, LOOPBACK, port).start()
        except OSError:
            if not or_any:
                raise
            await web.TCPSite(self._runner, LOOPBACK, 0).start()
        bound = self._runner.addresses[0][1]
        return f"http://{LOOPBACK}:{bound}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        from aiohttp import web

        problem = self._is_ready()
        return web.json_response({"ready": not problem, "problem": problem}, status=503 if problem else 200)

    async def _show_version(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.json_response({"version": self._version})

    async def _method(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        try:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self._auth.is_secret(token.strip()):
                raise AuthError(
                    "no valid bearer token", hint="send `Authorization: Bearer <the server folder's token>`"
                )
            peer, name, body = HttpPeer(), request.match_info["method"], await request.read()
            method, _ = self._table.find(peer, name)
            packed = request.content_type == MSGPACK
            if not packed:
                body = codec.encode(_from_json(body, method.request))
            if method.stream is not None:
                return await self._stream(request, peer, name, body)
            answer = await self._table.call(peer, name, body, _no_events)
            if packed:
                return web.Response(body=answer, content_type=MSGPACK)
            value = codec.decode(answer, method.answer)
            return web.Response(body=msgspec.json.encode(value), content_type="application/json")
        except JitneyError as error:
            detail = {"code": error.code, "message": error.message, "hint": error.hint}
            return web.json_response(detail, status=error.http_status)

    async def _stream(self, request: web.Request, peer: HttpPeer, name: str, body: bytes) -> web.StreamResponse:
        from aiohttp import web

        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        events: asyncio.Queue[Any] = asyncio.Queue()

        async def call() -> None:
            try:
                answer = await self._table.call(peer, name, body, events.put_nowait)
                method, _ = self._table.find(peer, name)
                events.put_nowait({"answer": msgspec.to_builtins(codec.decode(answer, method.answer))})
            except JitneyError as error:
                events.put_nowait({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
            finally:
                events.put_nowait(None)

        task = asyncio.create_task(call())
        try:
            while (event := await events.get()) is not None:
                await response.write(msgspec.json.encode(event) + b"\n")
            await response.write_eof()
        finally:
            task.cancel()
        return response


def _from_json(body: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidError(f"{kind.__name__}: {error}") from None


def _no_events(event: msgspec.Struct) -> None:
    """A method without a stream emits nothing."""
