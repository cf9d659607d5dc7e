"""One careful HTTP client for a pull: addresses are checked, redirects followed by hand, secrets kept to their host."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from jitney.drivers.pulls.oci import addresses
from jitney.drivers.pulls.oci.challenge import pause_ms
from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.errors import ConnectionError as UnavailableError
from jitney.errors import JitneyError, PermissionDeniedError, ResourceExhaustedError

REDIRECTS_MAX = 5
BUFFER_BYTES = 1 << 20
BUSY = frozenset({408, 429, 500, 502, 503, 504})
USER_AGENT = "jitney"

Sleep = Callable[[float], Awaitable[None]]


class Web:
    """A client for one registry and whatever it points to.

    Args:
        private: addresses that are not public may be spoken to.
        insecure: so may hosts without TLS.
        sleep: waits for seconds.
    """

    def __init__(self, settings: PullSettings, *, private: bool, insecure: bool, sleep: Sleep = asyncio.sleep) -> None:
        self._settings = settings
        self._private = private
        self._insecure = insecure
        self._sleep = sleep
        self._direct = self._session(private)
        self._proxied: aiohttp.ClientSession | None = None
        self._proxies = urllib.request.getproxies()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._direct.close()
        if self._proxied:
            await self._proxied.close()

    @contextlib.asynccontextmanager
    async def request(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secret: str = "",
        form: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is not "busy" and not a redirect; tried several times where that may help.

        Args:
            secret: the Authorization header, for this host alone.
            form: sent by POST.

        Raises:
            ConnectionError: no answer.
            PermissionDeniedError: an address that may not be spoken to.
            ResourceExhaustedError: the registry is busy for too long.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._follow(url, dict(headers or {}), secret, form)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                failure = _explain(url, error)
                if attempt >= self._settings.attempts or not failure.retryable:
                    raise failure from None
                await self.pause(attempt)
                continue
            if response.status not in BUSY:
                break
            said = response.headers.get("Retry-After", "")
            response.close()
            if attempt >= self._settings.attempts:
                raise _busy(url, response.status)
            await self.pause(attempt, said, url, response.status)
        try:
            yield response
        finally:
            response.close()

    async def pause(self, attempt: int, said: str = "", url: str = "", status: int = 0) -> None:
        """Wait before the next attempt.

        Raises:
            ResourceExhaustedError: the registry asks for more patience than we have.
        """
        settings = self._settings
        pause = pause_ms(
            attempt,
            retry_after=said,
            now_s=time.time(),
            dice=random.random(),
            backoff_ms=settings.backoff_ms,
            backoff_max_ms=settings.backoff_max_ms,
        )
        if pause > settings.retry_after_max_ms:
            raise _busy(url, status, pause)
        await self._sleep(pause / 1000)

    async def _follow(
        self, url: str, headers: dict[str, str], secret: str, form: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        where = URL(url)
        home = where.origin()
        for _ in range(REDIRECTS_MAX + 1):
            self._check(where)
            secrets = {"Authorization": secret} if secret and where.origin() == home else {}
            session, proxy = self._way(where)
            response = await session.request(
                "POST" if form is not None else "GET",
                where,
                headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT, **headers, **secrets},
                data=form,
                allow_redirects=False,
                proxy=proxy,
            )
            target = response.headers.get("Location", "")
            if response.status not in (301, 302, 303, 307, 308) or not target:
                return response
            response.close()
            where = where.join(URL(target))
        raise UnavailableError(f"{url} leads in circles", hint="the registry is not set up well; try another")

    def _check(self, url: URL) -> None:
        """The parts that no resolver sees.

        Raises:
            AddressDenied: it may not be spoken to.
        """
        if url.scheme != "https" and not (url.scheme == "http" and self._insecure):
            raise addresses.AddressDenied(f"{url.scheme}://{url.host} is not a protected connection")
        address = addresses.literal(url.host or "")
        if address is not None:
            addresses.check(address, private=self._private, host=str(url.host))

    def _way(self, url: URL) -> tuple[aiohttp.ClientSession, str | None]:
        proxy = self.proxy_for(url.scheme, url.host or "")
        if not proxy:
            return self._direct, None
        if self._proxied is None:
            self._proxied = self._session(private=True)  # the proxy itself may be next door; it looks up the names
        return self._proxied, proxy

    def proxy_for(self, scheme: str, host: str) -> str:
        """The proxy that this machine is set up to use for a host; '' = none."""
        proxy = self._proxies.get(scheme, "")
        is_direct = addresses.is_loopback_name(host) or bool(urllib.request.proxy_bypass(host))
        return "" if is_direct or not proxy.startswith(("http://", "https://")) else proxy

    def _session(self, private: bool) -> aiohttp.ClientSession:
        settings = self._settings
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=addresses.Guard(private=private), limit_per_host=settings.downloads + 1
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=settings.connect_timeout_ms / 1000,
                sock_read=settings.stall_timeout_ms / 1000,
            ),
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def _busy(url: str, status: int, pause: int = 0) -> JitneyError:
    host = URL(url).host
    if status == 429:
        again = f"; it wants a pause of {pause // 1000} s" if pause else ""
        return ResourceExhaustedError(
            f"the registry {host} has had too many requests{again}",
            hint="log in to it (anonymous pulls are often limited), set the worker's `registry` to a mirror, or wait",
        )
    return UnavailableError(
        f"the registry {host} fails with status {status}",
        hint="try again later, or set the worker's `registry` to a mirror",
    )


def _explain(url: str, error: Exception) -> JitneyError:
    """What went wrong on the way, for people. Retryable errors are worth another attempt."""
    if isinstance(error, JitneyError):
        return error
    host = URL(url).host
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, addresses.AddressDenied):
            return PermissionDeniedError(f"the registry {host} leads astray: {cause}", hint="do not use this registry")
        cause = getattr(cause, "os_error", None) if hasattr(cause, "os_error") else cause.__cause__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _final(f"this machine does not trust the certificate of the registry {host} ({error})", "certificate")
    if isinstance(error, aiohttp.ClientSSLError):
        return _final(f"the registry {host} does not speak TLS ({error})", "tls")
    if isinstance(error, ValueError):
        return _final(f"the registry {host} leads to an address that is none ({error})", "")
    reason = str(error) or type(error).__name__
    return UnavailableError(
        f"the registry {host} does not answer ({reason})",
        hint="check this machine's network and proxy settings; an image from an archive (`from_oci`) needs neither",
    )


class _Final(UnavailableError):
    retryable = False


HINTS = {
    "certificate": "install its authority on this machine (or name it in SSL_CERT_FILE)",
    "tls": "if it is yours and has none, have the administrator add it to the worker's `insecure_registries`",
    "": "do not use this registry",
}


def _final(message: str, why: str) -> JitneyError:
    return _Final(message, hint=HINTS[why])
