"""What names lead to, asked on this side of the wall, and kept for a while."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

from jitney.core.egress import nameservers
from jitney.core.names import dns

KEPT_FOR_S = 30.0
KEPT_MAX = 4_096
WITHIN_S = 10.0
RELAY_WITHIN_S = 4.0
ANSWER_BYTES_MAX = 65_535

Resolve = Callable[[str], Awaitable[list[str]]]


class NoSuchName(Exception):
    """The name does not exist."""


class CannotTell(Exception):
    """Nobody answers just now."""


async def resolve(name: str) -> list[str]:
    """The addresses of a name, by this machine's own means.

    Raises:
        NoSuchName: it has none.
        CannotTell: nobody answers.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(loop.getaddrinfo(name, 443, type=socket.SOCK_STREAM), WITHIN_S)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5)):
            raise NoSuchName(name) from error
        raise CannotTell(name) from error
    except (OSError, TimeoutError, UnicodeError) as error:
        raise CannotTell(name) from error
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class Lookup:
    """Remembers what was found: a name leads to the same addresses until they are asked for anew."""

    def __init__(self, by: Resolve = resolve) -> None:
        self._by = by
        self._kept: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[list[str]]] = {}

    async def __call__(self, name: str) -> list[str]:
        """The addresses of a name; raises as `resolve` does."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(name)
        if kept is not None and now < kept[0]:
            return kept[1]
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._ask(name))
        return await asyncio.shield(asking)

    async def _ask(self, name: str) -> list[str]:
        try:
            found = await self._by(name)
        finally:
            self._asking.pop(name, None)
        self._kept[name] = asyncio.get_running_loop().time() + KEPT_FOR_S, found
        self._kept.move_to_end(name)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return found


class _Once(asyncio.DatagramProtocol):
    def __init__(self, query: dns.Query) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and dns.answers_to(data, self._query):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def relay(data: bytes, query: dns.Query, *, by_tcp: bool, resolver_file: str = "/etc/resolv.conf") -> bytes:
    """Ask this machine's own name servers a container's question as it is; the first answer.

    Raises:
        CannotTell: none answers.
    """
    for server in _servers(resolver_file):
        try:
            async with asyncio.timeout(RELAY_WITHIN_S):
                return await (_by_tcp if by_tcp else _by_udp)(data, query, server)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            continue
    raise CannotTell(query.name)


def _servers(resolver_file: str) -> tuple[str, ...]:
    try:
        return nameservers(Path(resolver_file).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ()


async def _by_udp(data: bytes, query: dns.Query, server: str) -> bytes:
    loop = asyncio.get_running_loop()
    transport, once = await loop.create_datagram_endpoint(lambda: _Once(query), remote_addr=(server, 53))
    try:
        transport.sendto(data)
        return await once.answer
    finally:
        transport.close()


async def _by_tcp(data: bytes, query: dns.Query, server: str) -> bytes:
    reader, writer = await asyncio.open_connection(server, 53)
    try:
        writer.write(len(data).to_bytes(2, "big") + data)
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
    if not dns.answers_to(answer, query):
        raise OSError("an answer to something else")
    return answer
