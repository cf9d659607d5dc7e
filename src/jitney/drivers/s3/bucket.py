"""A bucket by `obstore`: asked again when it fails, and its errors as ours.

What fails for a moment (no connection, an answer that is cut off, too slow, 5xx, "slow down") is tried again, with
growing pauses that differ by chance, until `patience_s` is over. Everything that is done here may be done twice. What
is wrong for good (credentials, a bucket that is not there) is told at once. Messages have no credentials in them, nor
what the other side answered in full.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from jitney.drivers.s3.address import Address
from jitney.errors import (
    BucketAccessError,
    BucketError,
    BucketUnavailableError,
    StorageFullError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from obstore.store import S3Store

log = logging.getLogger("jitney.bucket")

T = TypeVar("T")
Taking = AbstractContextManager[Callable[[memoryview], None]]

EXTRA = "s3"
DATA_TYPE = "application/octet-stream"
AT_ONCE = 16  # requests
STREAMS_AT_ONCE = 8
PIECE_BYTES = 256 * 1024  # of what is streamed: it is still in the processor's cache when it is taken
PATIENCE_S = 60.0
ANSWER_S = 30.0  # for one request, all of its answer included
CONNECT_S = 5.0
PAUSE_S = 0.1  # before the second try; twice as much before each further one
PAUSE_S_MAX = 5.0
PAGE = 1_000

_ROLE = "http://169.254.169.254/"  # where a machine of AWS is asked for credentials, when there are no others
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_NOT_ALLOWED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity")
_AGAIN = (408, 429, 500, 502, 503, 504)


class Missing(Exception):
    """The bucket has no such object."""


class OutOfRange(Exception):
    """The object ends before the part that was asked for begins."""


class Settings(NamedTuple):
    """How a bucket is reached. `credentials`: AWS_* variables, or what they are found by; the repr has none of them."""

    address: Address
    endpoint: str = ""  # "": that of AWS
    region: str = ""
    credentials: Mapping[str, str] = {}
    patience_s: float = PATIENCE_S
    answer_s: float = ANSWER_S

    def __repr__(self) -> str:
        return f"Settings({self.address}, endpoint={self.endpoint!r}, region={self.region!r})"


class Item(NamedTuple):
    """An object as listed; its name is without the prefix."""

    name: str
    size: int
    modified_ms: int


class Answer(NamedTuple):
    """What was read of an object."""

    data: bytes
    size: int  # of all of it
    type: str


def need_obstore() -> Any:
    """The library.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import obstore
    except ImportError as error:
        raise UnsupportedError(
            f"nothing can be kept in a bucket: obstore cannot be imported ({error})",
            hint=f"pip install 'jitney[{EXTRA}]'",
        ) from None
    return obstore


class Bucket:
    """See the module. `pause` waits between tries.

    Raises:
        UnsupportedError: `obstore` is not installed.
        BucketError: something in the settings cannot be.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = settings.address
        self._obstore = need_obstore()
        self._settings = settings
        self._pause = pause
        self._clock = clock
        self._store = self._open(settings)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._threads = ThreadPoolExecutor(STREAMS_AT_ONCE, thread_name_prefix="jitney-bucket")

    def _open(self, settings: Settings) -> S3Store:
        from obstore.store import S3Store

        known = settings.credentials
        options: dict[str, Any] = {
            "access_key_id": known.get("AWS_ACCESS_KEY_ID"),
            "secret_access_key": known.get("AWS_SECRET_ACCESS_KEY"),
            "session_token": known.get("AWS_SESSION_TOKEN"),
            "endpoint": settings.endpoint,
            "region": settings.region or known.get("AWS_REGION") or known.get("AWS_DEFAULT_REGION") or "us-east-1",
        }
        try:
            return S3Store(
                settings.address.bucket,
                client_options={
                    "allow_http": settings.endpoint.startswith("http://"),
                    "timeout": timedelta(seconds=settings.answer_s),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                },
                # We try again ourselves: an answer that is cut off in its middle is for us to see.
                retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=settings.answer_s)},
                # To sign each payload it would be hashed once more: for nothing, where nobody can change it on its way.
                unsigned_payload=is_safe(settings.endpoint),
                **{name: value for name, value in options.items() if value},
            )
        except Exception as error:
            raise BucketError(f"{self.address} cannot be used: {_first_line(error)}", hint=_CONFIGURED) from None

    # ------------------------------------------------------------------------------------------- asking

    async def put(self, name: str, data: bytes | memoryview, *, type: str = DATA_TYPE) -> None:
        """Put an object, or replace it."""
        attributes = {"Content-Type": type}
        await self._try(lambda: self._put(name, data, attributes, "overwrite"))

    async def create(self, name: str, data: bytes) -> bool:
        """Put an object where there is none: whether this, or an earlier try of it, did."""
        try:
            await self._try(lambda: self._put(name, data, {}, "create"))
        except self._obstore.exceptions.AlreadyExistsError:
            return (await self.get(name)).data == data
        return True

    async def _put(self, name: str, data: bytes | memoryview, attributes: dict[str, str], mode: str) -> None:
        path = self.address.prefix + name
        await self._obstore.put_async(self._store, path, data, attributes=attributes, mode=mode, use_multipart=False)

    async def get(self, name: str, part: tuple[int, int] | None = None) -> Answer:
        """An object, or the bytes of it from one place to before another.

        Raises:
            Missing: there is none.
            OutOfRange: it ends before.
        """

        async def work() -> Answer:
            options = None if part is None else {"range": part}
            got = await self._obstore.get_async(self._store, self.address.prefix + name, options=options)
            data = bytes(await got.bytes_async())
            start, end = got.range
            if len(data) != end - start:
                raise _CutOff
            return Answer(data, got.meta["size"], got.attributes.get("Content-Type", ""))

        return await self._try(work)

    async def stream(self, name: str, taking: Callable[[], Taking]) -> None:
        """Hand an object to somebody, piece by piece as it comes, on a thread of ours. A try that fails begins anew.

        Args:
            taking: gives for each try a context manager whose value is called with each piece. Its block ends well when
                all has come; what the context manager raises is not asked for again.

        Raises:
            Missing: there is none.
        """

        async def work() -> Exception | None:
            given_up = threading.Event()
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._stream, name, taking, given_up)
            finally:
                given_up.set()

        refused = await self._try(work)
        if refused is not None:
            raise refused

    def _stream(self, name: str, taking: Callable[[], Taking], given_up: threading.Event) -> Exception | None:
        """What the taker has raised, which is no failure of the bucket."""
        got = self._obstore.get(self._store, self.address.prefix + name)
        try:
            with taking() as take:
                for piece in self._pieces(got, given_up):
                    take(piece)
        except _Far as far:
            raise far.error from None
        except Exception as error:
            return error
        return None

    def _pieces(self, got: Any, given_up: threading.Event) -> Iterator[memoryview]:
        start, end = got.range
        left = end - start
        try:
            for chunk in got.stream(min_chunk_size=PIECE_BYTES):
                piece = memoryview(chunk)
                left -= len(piece)
                if given_up.is_set():
                    break
                yield piece
        except (self._obstore.exceptions.BaseError, OSError) as error:
            raise _Far(error) from None
        if left:
            raise _Far(_CutOff())

    async def has(self, name: str) -> bool:
        """Whether there is such an object."""
        return await self.modified_ms(name) is not None

    async def modified_ms(self, name: str) -> int | None:
        """When an object was put (Unix ms, by the bucket's clock); None: there is none."""
        try:
            meta = await self._try(lambda: self._obstore.head_async(self._store, self.address.prefix + name))
        except Missing:
            return None
        return _item(meta, "").modified_ms

    async def copy(self, name: str, target: str) -> None:
        """Copy an object, inside the bucket.

        Raises:
            Missing: there is none.
        """
        start = self.address.prefix
        await self._try(lambda: self._obstore.copy_async(self._store, start + name, start + target))

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        for at in range(0, len(names), PAGE):
            paths = [self.address.prefix + name for name in names[at : at + PAGE]]
            try:
                await self._try(lambda paths=paths: self._obstore.delete_async(self._store, paths))  # type: ignore[misc]
            except Missing:
                pass

    async def pages(self, folder: str = "", *, after: str = "") -> AsyncIterator[list[Item]]:
        """Objects whose names begin with `folder` (a text that ends with '/', or ''), in order, page by page."""
        start = self.address.prefix
        while True:

            async def work(offset: str = after) -> list[Item]:
                pages = self._obstore.list(
                    self._store, (start + folder) or None, offset=start + offset if offset else None, chunk_size=PAGE
                )
                async for page in pages:
                    return [_item(meta, start) for meta in page]
                return []

            page = await self._try(work)
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1].name

    async def folders(self) -> list[str]:
        """What names begin with, up to their first '/', in order."""
        start = self.address.prefix
        found = await self._try(lambda: self._obstore.list_with_delimiter_async(self._store, start or None))
        return sorted(str(folder).removeprefix(start).strip("/") for folder in found["common_prefixes"])

    # ------------------------------------------------------------------------------------------- trying

    async def _try(self, work: Callable[[], Awaitable[T]]) -> T:
        started_s, pause_s = self._clock(), PAUSE_S
        while True:
            try:
                async with self._room:
                    return await work()
            except (self._obstore.exceptions.BaseError, OSError, _CutOff) as error:
                judged = judge(error, self.address)
                if not isinstance(judged, BucketUnavailableError):
                    raise judged from None
                if self._clock() - started_s + pause_s > self._settings.patience_s:
                    raise judged from None
                log.warning("bucket_asked_again address=%s reason=%s", self.address, judged.message)
            await self._pause(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)


def is_safe(endpoint: str) -> bool:
    """Whether what is sent arrives as it was sent: over TLS, or on this machine."""
    url = urlsplit(endpoint)
    return url.scheme != "http" or url.hostname in ("127.0.0.1", "::1", "localhost")


class _Far(Exception):
    """A failure of the bucket, beside those of who takes what comes from it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _CutOff(Exception):
    """An answer ended before its end."""

    def __str__(self) -> str:
        return "an answer was cut off"


_CONFIGURED = "look at `contents` and what belongs to it with `jitney config show`"


def judge(error: Exception, address: Address) -> Exception:
    """What an error means: an exception of ours, or itself where the caller knows what to do with it."""
    name, text = type(error).__name__, str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    code = found[1] if (found := _CODE.search(text)) else ""
    if name == "AlreadyExistsError":
        return error
    if status == 416:
        return OutOfRange()
    if code == "NoSuchBucket":
        return BucketError(f"there is no bucket {address.bucket!r}", hint=f"make it, or {_CONFIGURED}")
    if code in _FULL or status == 507:
        return StorageFullError(f"{address} is full ({code or status})", hint="free some space, then try again")
    if _ROLE in text or ("credential" in text.lower() and not status):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file in contents_credentials"
        return BucketAccessError(f"there are no credentials for {address}, and this machine has no role", hint=hint)
    refused = name in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403)
    if refused or code in _NOT_ALLOWED:
        return BucketAccessError(
            f"{address} refuses what it was asked with ({code or status or 'no access'})",
            hint=f"check the credentials, and that they may list, read, write and delete there; {_CONFIGURED}",
        )
    if isinstance(error, FileNotFoundError):
        return Missing()
    if "configured region" in text:
        return BucketError(f"{address} is in another region than was said", hint=f"set contents_region; {_CONFIGURED}")
    if status and status not in _AGAIN and status < 500:
        return BucketError(f"{address} does not do what it was asked ({code or status})", hint=_CONFIGURED)
    return BucketUnavailableError(
        f"{address} cannot be used now ({code or status or _first_line(error)})",
        hint="check that its endpoint can be reached; what was asked can be asked again",
    )


def _first_line(error: Exception) -> str:
    """What a person can use of a message: the library adds what it looks like inside."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rpartition("Error performing ")[2][:200]


def _item(meta: Mapping[str, Any], start: str) -> Item:
    modified_ms = int(meta["last_modified"].timestamp() * 1000)
    return Item(str(meta["path"]).removeprefix(start), int(meta["size"]), modified_ms)
