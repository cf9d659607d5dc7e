"""A registry in this process, which misbehaves on request."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

from jitney.testing.images import MadeImage

TOKEN = "let-me-in"


@dataclass
class Fault:
    """What happens to requests whose path has `part`, so many times."""

    part: str
    status: int = 0  # answer so
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1  # send so many bytes, and break off
    lie: bytes | None = None  # send this instead
    times: int = 1


class FakeRegistry:
    """Serves images on a port of this machine, by plain HTTP.

    Args:
        login: (name, password) that it wants; None: everybody may.
        token: whether it wants a token, to be had for the login, or for nothing.
        ranges: whether it can send a part of a blob.
        elsewhere: where it sends those who want a blob ("" = nowhere); "{digest}" is filled in.
    """

    def __init__(
        self,
        *,
        login: tuple[str, str] | None = None,
        token: bool = False,
        ranges: bool = True,
        elsewhere: str = "",
    ) -> None:
        self.login, self.token, self.ranges, self.elsewhere = login, token, ranges, elsewhere
        self.tags: dict[tuple[str, str], MadeImage] = {}
        self.blobs: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, dict[str, str]]] = []  # path with its query, headers
        self.gate: asyncio.Event | None = None  # blobs wait for it, after their first bytes
        self.waiting = asyncio.Event()  # ... one does
        self._asked = asyncio.Event()
        self.port = 0

    @property
    def host(self) -> str:
        """As a reference has it."""
        return f"127.0.0.1:{self.port}"

    def push(self, name: str, image: MadeImage) -> str:
        """Have an image as "repository:tag"; the reference to pull it by."""
        repository, _, tag = name.partition(":")
        self.tags[repository, tag] = image
        self.blobs |= image.blobs
        self.types[image.digest] = image.media_type
        return f"{self.host}/{name}"

    def asked(self, part: str) -> int:
        """How many requests had `part` in their path."""
        return sum(part in path for path, _ in self.requests)

    async def until_asked(self, part: str, count: int) -> None:
        """Wait until so many requests had `part` in their path."""
        while self.asked(part) < count:
            self._asked.clear()
            await self._asked.wait()

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        await web.SockSite(self._runner, listening).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, dict(request.headers)))
        self._asked.set()
        fault = next((each for each in self.faults if each.part in request.path and each.times), None)
        if fault:
            fault.times -= 1
            if fault.status:
                return web.Response(status=fault.status, headers=fault.headers)
        if request.path == "/token":
            return self._give_token(request)
        if not self._may(request):
            return self._challenge()
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", request.path)
        if not found:
            return web.Response(status=404)
        repository, kind, name = found.groups()
        serve: Callable[..., Awaitable[web.StreamResponse]] = self._manifest if kind == "manifests" else self._blob
        return await serve(request, repository, name, fault)

    async def _manifest(
        self, request: web.Request, repository: str, name: str, fault: Fault | None
    ) -> web.StreamResponse:
        image = self.tags.get((repository, name))
        digest = image.digest if image else name
        if digest not in self.blobs:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        body = fault.lie if fault and fault.lie is not None else self.blobs[digest]
        headers = {"Docker-Content-Digest": digest, "Content-Type": self.types.get(digest, "application/json")}
        return web.Response(body=body, headers=headers)

    async def _blob(self, request: web.Request, repository: str, name: str, fault: Fault | None) -> web.StreamResponse:
        if self.elsewhere:
            return web.Response(status=307, headers={"Location": self.elsewhere.format(digest=name)})
        if name not in self.blobs:
            return _error(404, "BLOB_UNKNOWN", "blob unknown")
        body = fault.lie if fault and fault.lie is not None else self.blobs[name]
        start = 0
        if self.ranges and (wanted := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))):
            start = int(wanted.group(1))
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        response.content_length = len(body) - start
        await response.prepare(request)
        if self.gate:
            await response.write(body[start : start + 1])
            start += 1
            self.waiting.set()
            await self.gate.wait()
        if fault and fault.cut_after >= 0:
            await response.write(body[start : start + fault.cut_after])
            assert request.transport
            request.transport.close()
            return response
        await response.write(body[start:])
        await response.write_eof()
        return response

    # ---------------------------------------------------------------------------------------------- who may

    def _may(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        if self.token:
            return given == f"Bearer {TOKEN}"
        return self.login is None or self._is_login(given)

    def _is_login(self, given: str) -> bool:
        assert self.login
        return given == "Basic " + base64.b64encode(":".join(self.login).encode()).decode()

    def _challenge(self) -> web.Response:
        realm = f'realm="http://{self.host}/token",service="fake",scope="repository:x:pull"'
        header = f"Bearer {realm}" if self.token else 'Basic realm="fake"'
        return web.json_response(
            {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
            status=401,
            headers={"WWW-Authenticate": header},
        )

    def _give_token(self, request: web.Request) -> web.Response:
        if self.login and not self._is_login(request.headers.get("Authorization", "")):
            return web.Response(status=401)
        return web.json_response({"token": TOKEN, "expires_in": 300})


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)
