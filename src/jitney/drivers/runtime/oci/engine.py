"""A thin client of an engine's HTTP API, over its Unix socket. Docker's, which Podman speaks too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

API = "v1.40"  # Docker 19.03, Podman 3
ANSWER_S = 120.0  # a busy disk may make an engine slow
LINE_BYTES_MAX = 1024 * 1024


class EngineError(Exception):
    """The engine has refused, or does not answer: the message is for the user to read. `status` 0: no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class EngineClient:
    """See the module. Inside a running loop."""

    def __init__(self, path: str, *, answer_s: float = ANSWER_S) -> None:
        self.path = path
        self._answer_s = answer_s
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(path=self.path, limit=0)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def close(self) -> None:
        """Hang up."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -------------------------------------------------------------------------------------------- what it can

    async def version(self) -> dict[str, Any]:
        """Of the engine and its parts."""
        return await self._json("GET", "/version")

    async def info(self) -> dict[str, Any]:
        """What it says of itself and the machine."""
        return await self._json("GET", "/info")

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """A container that does not run yet: its id.

        Raises:
            EngineError: with status 404 there is no such image, with 409 the name is taken.
        """
        made = await self._json("POST", f"/containers/create?{urlencode({'name': name})}", body)
        return str(made["Id"])

    async def start(self, container: str) -> None:
        """Run it."""
        await self._call("POST", f"/containers/{quote(container)}/start")

    async def wait(self, container: str) -> int:
        """Its exit code, when it does not run any more."""
        done = await self._json("POST", f"/containers/{quote(container)}/wait?condition=not-running", timeout_s=None)
        return int(done["StatusCode"])

    async def inspect(self, container: str) -> dict[str, Any]:
        """What is known of it."""
        return await self._json("GET", f"/containers/{quote(container)}/json")

    async def logs(self, container: str, lines: int) -> str:
        """The last lines that its first process has printed."""
        query = urlencode({"stdout": 1, "stderr": 1, "tail": lines})
        return _text_of(await self._call("GET", f"/containers/{quote(container)}/logs?{query}"))

    async def remove(self, container: str) -> None:
        """End it, and remove it with its volumes; one that is not there is no error."""
        try:
            await self._call("DELETE", f"/containers/{quote(container)}?force=1&v=1")
        except EngineError as error:
            if error.status not in (404, 409):  # 409: it is being removed
                raise

    async def containers(self, label: str) -> list[str]:
        """The ids of those with a label, also of those that do not run."""
        query = urlencode({"all": 1, "filters": json.dumps({"label": [label]})})
        found = await self._any("GET", f"/containers/json?{query}")
        return [str(one["Id"]) for one in found]

    async def networks(self) -> list[str]:
        """Their names."""
        return [str(one["Name"]) for one in await self._any("GET", "/networks")]

    async def images(self, label: str) -> list[str]:
        """The ids of those with a label."""
        query = urlencode({"filters": json.dumps({"label": [label]})})
        found = await self._any("GET", f"/images/json?{query}")
        return [str(one["Id"]) for one in found]

    async def image_names(self, label: str) -> list[str]:
        """Their names in full, "repository:tag"."""
        query = urlencode({"filters": json.dumps({"label": [label]})})
        found = await self._any("GET", f"/images/json?{query}")
        return [str(name) for one in found for name in one.get("RepoTags") or []]

    async def import_image(self, archive: AsyncIterator[bytes], *, repository: str, label: str) -> str:
        """Make an image of a root file system's tar: its id."""
        query = urlencode({"fromSrc": "-", "repo": repository, "changes": f"LABEL {label}"})
        found = ""

        def take(message: dict[str, Any]) -> None:
            nonlocal found
            said = str(message.get("status", ""))
            found = said if said.startswith("sha256:") else found

        await self._stream("POST", f"/images/create?{query}", archive, "application/x-tar", take)
        return found or str((await self.image(repository))["Id"])

    async def pull(self, reference: str) -> None:
        """Fetch an image from its registry."""
        query = urlencode(
            {"fromImage": reference, **({} if ":" in reference.rpartition("/")[2] else {"tag": "latest"})}
        )
        await self._stream("POST", f"/images/create?{query}", None, "", _ignore)

    async def build(
        self,
        context: AsyncIterator[bytes],
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        on_line: Callable[[str], None],
    ) -> None:
        """Build a Dockerfile of a context's tar."""

        def take(message: dict[str, Any]) -> None:
            for line in str(message.get("stream", "")).splitlines():
                if line.strip():
                    on_line(line)

        path = f"/build?{urlencode(query)}"
        await self._stream("POST", path, context, "application/x-tar", take, headers=headers)

    async def image(self, reference: str) -> dict[str, Any]:
        """What is known of an image."""
        return await self._json("GET", f"/images/{quote(reference, safe='')}/json")

    async def remove_image(self, reference: str, *, force: bool = False) -> None:
        """Take a name from an image, and the image away with its last one; one that is not there is no error.

        `force`: also while containers of a build have it, which Podman keeps for a moment after the build.
        """
        try:
            await self._call("DELETE", f"/images/{quote(reference, safe='')}{'?force=1' if force else ''}")
        except EngineError as error:
            if error.status != 404:
                raise

    async def save(self, reference: str) -> AsyncIterator[bytes]:
        """An image as an archive, in the form of `docker save`."""
        path = f"/images/{quote(reference, safe='')}/get"
        async with self._request("GET", path, timeout_s=None) as answer:
            async for chunk in answer.content.iter_any():
                yield chunk

    # -------------------------------------------------------------------------------------------- how it is asked

    async def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = ANSWER_S
    ) -> dict[str, Any]:
        found = await self._any(method, path, body, timeout_s=timeout_s)
        if not isinstance(found, dict):
            raise EngineError(f"the engine at {self.path} has answered {method} {path} with no object")
        return found

    async def _any(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = ANSWER_S
    ) -> Any:
        data = await self._call(method, path, body, timeout_s=timeout_s)
        try:
            return json.loads(data)
        except ValueError:
            raise EngineError(f"the engine at {self.path} has answered {method} {path} with no JSON") from None

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = ANSWER_S
    ) -> bytes:
        async with self._request(method, path, json_body=body, timeout_s=timeout_s) as answer:
            return await answer.read()

    async def _stream(
        self,
        method: str,
        path: str,
        data: AsyncIterator[bytes] | None,
        content_type: str,
        on_message: Callable[[dict[str, Any]], None],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A request that is answered by lines of JSON while it goes on; an error may be one of them."""
        headers = {**(headers or {}), **({"Content-Type": content_type} if content_type else {})}
        async with self._request(method, path, data=data, headers=headers, timeout_s=None) as answer:
            async for line in _lines(answer.content):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(message, dict):
                    continue
                if message.get("error"):
                    raise EngineError(str(message["error"]), 500)
                on_message(message)

    def _request(
        self,
        method: str,
        path: str,
        *,
        json_body: Mapping[str, Any] | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = ANSWER_S,
    ) -> _Request:
        total = None if timeout_s is None else min(timeout_s, self._answer_s)
        return _Request(
            self.path,
            f"{method} {path.partition('?')[0]}",
            self._client().request(
                method,
                f"http://engine/{API}{path}",
                json=json_body,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=total, sock_connect=self._answer_s),
            ),
        )


class _Request:
    """One request: its answer, if that is a good one; every failure is an EngineError."""

    def __init__(self, path: str, what: str, request: Any) -> None:
        self._path = path
        self._what = what
        self._request = request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            answer: aiohttp.ClientResponse = await self._request.__aenter__()
            if answer.status < 400:
                return answer
            text = await answer.text(errors="replace")
            await self._request.__aexit__(None, None, None)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._failed(error) from error
        raise EngineError(_reason(text) or f"{self._what}: status {answer.status}", answer.status)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)
        if isinstance(error, aiohttp.ClientError | OSError | asyncio.TimeoutError):
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> EngineError:
        why = "no answer in time" if isinstance(error, asyncio.TimeoutError) else str(error) or type(error).__name__
        return EngineError(f"the engine at {self._path} does not answer ({self._what}): {why}")


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        rest = rest[-LINE_BYTES_MAX:]
    if rest:
        yield rest


def _reason(text: str) -> str:
    """What the engine says is wrong."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()[:2000]
    return str(found.get("message") or found.get("cause") or "")[:2000] if isinstance(found, dict) else ""


def _text_of(data: bytes) -> str:
    """Log lines out of frames: a byte that tells the stream, three of nothing, and the length."""
    parts: list[bytes] = []
    at = 0
    while at + 8 <= len(data) and data[at] in (0, 1, 2) and data[at + 1 : at + 4] == b"\0\0\0":
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        parts.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return b"".join(parts or [data]).decode(errors="replace")


def _ignore(message: dict[str, Any]) -> None:
    """Its progress."""
