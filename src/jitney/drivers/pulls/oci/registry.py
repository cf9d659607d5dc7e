"""The registry protocol, as far as pulling needs it: manifests and blobs of one repository."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from jitney.drivers.pulls.oci import addresses
from jitney.drivers.pulls.oci.challenge import Challenge, parse_challenge
from jitney.drivers.pulls.oci.credentials import Credentials
from jitney.drivers.pulls.oci.finishing import finish
from jitney.drivers.pulls.oci.manifest import ACCEPT, CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX, Descriptor
from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.drivers.pulls.oci.web import Web
from jitney.errors import AuthError, ImageBuildError, InvalidError, JitneyError, NotFoundError, PermissionDeniedError
from jitney.errors import ConnectionError as UnavailableError
from jitney.values.references import DOCKER_HUB, Reference, is_digest

DOCKER_HUB_HOST = "registry-1.docker.io"
TOKEN_BYTES_MAX = 1 << 20
ERROR_BYTES_MAX = 16 << 10
WRITE_BYTES = 1 << 20
CUTS_MAX = 100  # of one download, even if each attempt gets further
HTTPS_PORT = 443


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a repository is asked for."""

    scheme: str
    host: str
    repository: str
    is_mirror: bool = False

    @property
    def url(self) -> str:
        """The head of its addresses."""
        return f"{self.scheme}://{self.host}/v2/{self.repository}"


def places(reference: Reference, settings: PullSettings) -> list[Place]:
    """The mirror, if one is set, and then the registry itself."""
    host = DOCKER_HUB_HOST if reference.host == DOCKER_HUB else reference.host
    found = [Place(scheme=_scheme(host, settings), host=host, repository=reference.repository)]
    if mirror := settings.mirrors.get(reference.host):
        scheme, _, rest = mirror.rpartition("://")
        mirror_host, _, prefix = rest.strip("/").partition("/")
        repository = f"{prefix}/{reference.repository}" if prefix else reference.repository
        scheme = scheme or _scheme(mirror_host, settings)
        found.insert(0, Place(scheme=scheme, host=mirror_host, repository=repository, is_mirror=True))
    return found


def _scheme(host: str, settings: PullSettings) -> str:
    name = URL(f"https://{host}").host or ""
    is_plain = host in settings.insecure or name in settings.insecure or addresses.is_loopback_name(name)
    return "http" if is_plain else "https"


class Sink(Protocol):
    """What a download is written to."""

    @property
    def size(self) -> int:
        """Bytes that it has."""
        ...

    def append(self, chunk: bytes) -> None:
        """More of them."""
        ...

    def restart(self) -> None:
        """From the beginning again."""
        ...


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class _ErrorLine(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_ErrorLine] = []


class Cut(Exception):
    """A download ended before its end."""


class Registry:
    """One repository at one place.

    Args:
        what: the image, for messages.
    """

    def __init__(self, place: Place, web: Web, settings: PullSettings, credentials: Credentials, what: str) -> None:
        self.place = place
        self._web = web
        self._settings = settings
        self._credentials = credentials
        self._what = what
        self._secret = ""
        self._proving = asyncio.Lock()

    @property
    def is_anonymous(self) -> bool:
        """Whether everybody could have had what came so far."""
        return not (self._credentials and self._secret)

    async def manifest(self, wanted: str) -> tuple[bytes, str, str]:
        """Bytes, media type and digest of what a tag or a digest names.

        Raises:
            AuthError, ConnectionError, NotFoundError, PermissionDeniedError, ResourceExhaustedError: see the port.
            ImageBuildError: it does not have the digest.
        """
        async with self._get(f"manifests/{wanted}", {"Accept": ACCEPT}) as response:
            data = await _body(response, MANIFEST_BYTES_MAX, self._what)
            media_type = response.headers.get("Content-Type", "")
            said = response.headers.get("Docker-Content-Digest", "")
        expected = wanted if is_digest(wanted) else said if is_digest(said) else ""
        digest = expected or digest_of(data, "sha256")
        if digest_of(data, digest.partition(":")[0]) != digest:
            raise mismatch(self._what, "a manifest", digest)
        return data, media_type, digest

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """A configuration.

        Raises:
            ImageBuildError: it does not have the digest.
        """
        if descriptor.size > CONFIG_BYTES_MAX:
            raise InvalidError(f"the configuration of {self._what} has {descriptor.size:,} bytes")
        memory = Memory()
        await self.download(descriptor, memory)
        if digest_of(memory.data, descriptor.digest.partition(":")[0]) != descriptor.digest:
            raise mismatch(self._what, "the configuration", descriptor.digest)
        return bytes(memory.data)

    async def download(
        self, descriptor: Descriptor, sink: Sink, on_bytes: Callable[[int], None] = lambda count: None
    ) -> None:
        """All of a blob, from where the sink stands. Its digest is for the caller to check.

        Raises:
            ConnectionError: it cannot be had.
            ImageBuildError: it is longer than it should be.
        """
        failures = cuts = 0
        while sink.size < descriptor.size:
            before = sink.size
            try:
                await self._piece(descriptor, sink, on_bytes)
            except (Cut, aiohttp.ClientError, TimeoutError, ConnectionResetError) as error:
                failures = 1 if sink.size > before else failures + 1
                cuts += 1
                if failures >= self._settings.attempts or cuts >= CUTS_MAX:
                    raise UnavailableError(
                        f"a layer of {self._what} breaks off after {sink.size:,} of {descriptor.size:,} bytes"
                        f" ({str(error) or type(error).__name__})",
                        hint="check the network, and try again: what is here is kept",
                    ) from None
                await self._web.pause(failures)

    async def _piece(self, descriptor: Descriptor, sink: Sink, on_bytes: Callable[[int], None]) -> None:
        start = sink.size
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._get(f"blobs/{descriptor.digest}", headers) as response:
            if start and not (response.status == 206 and _starts_at(response, start)):
                # It sends all of it again, or something else than was asked for.
                on_bytes(-start)
                sink.restart()
                if response.status != 200:
                    raise Cut(f"status {response.status}")
            while chunk := await self._gather(response):
                if sink.size + len(chunk) > descriptor.size:
                    raise ImageBuildError(
                        f"a layer of {self._what} is longer than its {descriptor.size:,} bytes",
                        hint="the registry sends something else than was pushed; push the image again",
                    )
                await finish(asyncio.to_thread(sink.append, chunk))
                on_bytes(len(chunk))
        if sink.size < descriptor.size:
            raise Cut("the registry closed the connection")

    @staticmethod
    async def _gather(response: aiohttp.ClientResponse) -> bytes:
        """Some of a body: writing is worth a turn of a thread then. What came before a break is kept."""
        parts: list[bytes] = []
        count = 0
        try:
            while count < WRITE_BYTES and (chunk := await response.content.readany()):
                parts.append(chunk)
                count += len(chunk)
        except (aiohttp.ClientError, TimeoutError, ConnectionResetError):
            if not parts:
                raise
        return b"".join(parts)

    # ---------------------------------------------------------------------------------------------- requests

    @contextlib.asynccontextmanager
    async def _get(self, path: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer, with a token where one is wanted."""
        url = f"{self.place.url}/{path}"
        good = {200, 206, 416} if "Range" in headers else {200}
        for is_last in (False, True):
            secret = self._secret
            async with self._web.request(url, headers=headers, secret=secret) as response:
                if response.status == 401 and not is_last:
                    challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
                else:
                    if response.status not in good:
                        raise await self._refusal(response)
                    yield response
                    return
            await self._prove(challenge, secret)

    async def _prove(self, challenge: Challenge | None, refused: str) -> None:
        """Get what opens the repository; several downloads that find a token expired get one."""
        async with self._proving:
            if self._secret != refused:
                return
            if challenge is None:
                raise self._no_access("it wants a kind of proof that is not known here")
            if challenge.scheme == "basic":
                if not self._credentials.username:
                    raise self._no_access("it wants a name and a password")
                self._secret = self._credentials.basic
                return
            self._secret = f"Bearer {await self._token(challenge)}"

    async def _token(self, challenge: Challenge) -> str:
        query = {"service": challenge.service, "scope": challenge.scope or f"repository:{self.place.repository}:pull"}
        credentials = self._credentials
        form = None
        if credentials.identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            form["client_id"] = "jitney"
            url = challenge.realm
        else:
            url = str(URL(challenge.realm).update_query({key: value for key, value in query.items() if value}))
        secret = credentials.basic if credentials.username and form is None else ""
        async with self._web.request(url, secret=secret, form=form) as response:
            if response.status in (400, 401, 403):
                raise self._no_access("its token service refuses the credentials")
            if response.status != 200:
                raise UnavailableError(
                    f"the token service of {self.place.host} answers with status {response.status}",
                    hint="check the registry's name; try again later",
                )
            data = await _body(response, TOKEN_BYTES_MAX, self._what)
        try:
            found = msgspec.json.decode(data, type=_Token)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found = _Token()
        token = found.token or found.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise UnavailableError(f"the token service of {self.place.host} gives no token", hint="try again later")
        return token

    def _no_access(self, why: str) -> AuthError:
        has = (
            "the credentials for it are wrong, or not for this image" if self._credentials else "there are none for it"
        )
        return AuthError(
            f"{self.place.host} does not give {self._what} ({why}): it does not exist, or {has}",
            hint="check the name; give the image a `secret` with REGISTRY_USERNAME and REGISTRY_PASSWORD,"
            " or `docker login` on the worker's machine",
        )

    async def _refusal(self, response: aiohttp.ClientResponse) -> JitneyError:
        try:
            said = msgspec.json.decode(await _body(response, ERROR_BYTES_MAX, self._what), type=_Errors).errors
        except (msgspec.MsgspecError, UnicodeDecodeError, aiohttp.ClientError, JitneyError):
            said = []
        text = _plain(said[0].message or said[0].code) if said else f"status {response.status}"
        if response.status == 401:
            return self._no_access(text)
        if response.status == 403:
            return PermissionDeniedError(
                f"{self.place.host} does not let these credentials have {self._what} ({text})",
                hint="check the name, and what the account may read",
            )
        if response.status == 404:
            return NotFoundError(
                f"{self.place.host} has no {self._what} ({text})", hint="check the name and the tag of the image"
            )
        return UnavailableError(
            f"{self.place.host} answers with status {response.status} ({text})",
            hint="check that it is a registry; try again later",
        )


class Memory:
    """A sink for little."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        """See Sink."""
        return len(self.data)

    def append(self, chunk: bytes) -> None:
        """See Sink."""
        self.data += chunk

    def restart(self) -> None:
        """See Sink."""
        self.data.clear()


def digest_of(data: bytes | bytearray, kind: str) -> str:
    """The digest, as registries write it."""
    return f"{kind}:{hashlib.new(kind, data).hexdigest()}"


def mismatch(what: str, part: str, digest: str) -> ImageBuildError:
    """The error for content that is not what its name says."""
    return ImageBuildError(
        f"{part} of {what} is not what it should be: its digest is not {digest}",
        hint="something on the way changes or cuts it; check proxies and mirrors, and try again",
    )


def _starts_at(response: aiohttp.ClientResponse, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


async def _body(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    try:
        data = await response.content.read(limit + 1)
        while len(data) <= limit and (more := await response.content.read(limit + 1 - len(data))):
            data += more
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"the answer for {what} breaks off ({error})", hint="try again") from None
    if len(data) > limit:
        raise InvalidError(f"the answer for {what} has more than {limit:,} bytes", hint="check that it is a registry")
    return data


def _plain(text: str) -> str:
    """A stranger's words for a message of ours."""
    return "".join(letter for letter in text[:200] if letter.isprintable())
