"""Answers for names in hubs, and carries what containers say to the names that they may reach.

An allowed name gets an address that stands for it; what connects there says by its destination which name it means.
The porter finds out itself where that name is, looks whether the first bytes ask for the same name, and then passes
bytes on without reading them. What shares a server with an allowed name can still be asked for inside of TLS.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from jitney.core.egress import NAMES, may_stand_for_a_name
from jitney.core.names import ANY, Malformed, dns, listed
from jitney.core.names.head import parse_host
from jitney.core.names.hello import parse_hello
from jitney.core.names.table import NameTable
from jitney.drivers.network.names import lookup
from jitney.drivers.network.names.lookup import CannotTell, Lookup, NoSuchName

CONNECTIONS_MAX = 512  # of one container
QUERIES_MAX = 64  # of one container, at a time
FIRST_BYTES_WITHIN_S = 10.0
CONNECT_WITHIN_S = 10.0
TRIED_MAX = 4
PIECE_BYTES = 256 * 1024
TTL_S = 30
SAID_AGAIN_AFTER_S = 60.0
SAID_MAX = 2_000
OnRefused = Callable[[str, str, str, str], None]  # hub, container's address, name, why


@dataclass
class Guest:
    """A container that is known."""

    names: tuple[str, ...]
    cidrs: tuple[str, ...]
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    queries: int = 0


class Refusal(Exception):
    """This is not passed on; the message says why."""


class Porter:
    """All hubs of a worker."""

    def __init__(self, on_refused: OnRefused, lookup: Lookup | None = None) -> None:
        self._on_refused = on_refused
        self._lookup = lookup or Lookup()
        self._hubs: dict[str, Hub] = {}
        self._said: OrderedDict[tuple[str, ...], float] = OrderedDict()

    async def open(self, hub_id: str, sockets: Sequence[socket.socket], refused: Sequence[str]) -> None:
        """Listen at a hub's sockets: questions by UDP and by TCP, then HTTP and TLS."""
        hub = Hub(hub_id, tuple(refused), self._lookup, self._refuse)
        self._hubs[hub_id] = hub
        await hub.listen(*sockets)

    def admit(self, hub_id: str, address: str, names: Sequence[str], cidrs: Sequence[str]) -> None:
        """Know a container, anew if it is known."""
        self._hubs[hub_id].forget(address)
        self._hubs[hub_id].guests[address] = Guest(tuple(names), tuple(cidrs))

    def forget(self, hub_id: str, address: str) -> None:
        """Know it no more."""
        if hub_id in self._hubs:
            self._hubs[hub_id].forget(address)

    def shut(self, hub_id: str) -> None:
        """Close a hub's sockets and connections."""
        hub = self._hubs.pop(hub_id, None)
        if hub is not None:
            hub.close()

    def _refuse(self, hub_id: str, address: str, name: str, why: str) -> None:
        """Say what was refused, the same once a minute."""
        now = asyncio.get_running_loop().time()
        key = (hub_id, address, name, why)
        if now < self._said.get(key, now):
            return
        self._said[key] = now + SAID_AGAIN_AFTER_S
        self._said.move_to_end(key)
        if len(self._said) > SAID_MAX:
            self._said.popitem(last=False)
        self._on_refused(hub_id, address, name, why)


class Hub:
    """One hub."""

    def __init__(self, hub_id: str, refused: tuple[str, ...], lookup: Lookup, refuse: OnRefused) -> None:
        self.guests: dict[str, Guest] = {}
        self._id = hub_id
        self._refused = refused
        self._lookup = lookup
        self._refuse = refuse
        self._table = NameTable(NAMES)
        self._questions: asyncio.DatagramTransport | None = None
        self._servers: list[asyncio.Server] = []

    async def listen(self, udp: socket.socket, tcp: socket.socket, http: socket.socket, tls: socket.socket) -> None:
        """Open all."""
        loop = asyncio.get_running_loop()
        self._questions, _ = await loop.create_datagram_endpoint(lambda: _Questions(self), sock=udp)
        for sock, serve in ((tcp, self._converse), (http, self._carry), (tls, self._carry)):
            server = await asyncio.start_server(self._guarded(serve), sock=sock, limit=PIECE_BYTES)
            self._servers.append(server)

    def close(self) -> None:
        """Close all."""
        if self._questions is not None:
            self._questions.close()
        for server in self._servers:
            server.close()
        for address in list(self.guests):
            self.forget(address)

    def forget(self, address: str) -> None:
        """A container is gone."""
        guest = self.guests.pop(address, None)
        for task in list(guest.tasks) if guest else ():
            task.cancel()

    # ------------------------------------------------------------------ questions

    async def answer(self, data: bytes, address: str, *, by_tcp: bool = False) -> bytes | None:
        """The answer to a question of a container; None: none at all."""
        guest = self.guests.get(address)
        if guest is None or guest.queries >= QUERIES_MAX:
            return None
        try:
            query = dns.parse_query(data)
        except Malformed:
            return dns.reply_malformed(data)
        guest.queries += 1
        try:
            if ANY in guest.names:
                return await lookup.relay(data, query, by_tcp=by_tcp)
            if not listed(query.name, guest.names):
                self._refuse(self._id, address, query.name, "its policy does not list this name")
                return dns.reply(query, dns.NO_SUCH_NAME)
            if query.kind != dns.A:
                return dns.reply(query, dns.NO_ERROR)
            await self._places(query.name, guest)
            return dns.reply(query, dns.NO_ERROR, self._table.address_of(query.name), TTL_S)
        except (Refusal, NoSuchName) as error:
            if isinstance(error, Refusal):
                self._refuse(self._id, address, query.name, str(error))
            return dns.reply(query, dns.NO_SUCH_NAME)
        except (CannotTell, OSError):
            return dns.reply(query, dns.SERVER_FAILURE)
        finally:
            guest.queries -= 1

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        """Answer by UDP."""
        if self._questions is not None:
            self._questions.sendto(data, to)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest) -> None:
        while True:
            size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), FIRST_BYTES_WITHIN_S), "big")
            data = await asyncio.wait_for(reader.readexactly(size), FIRST_BYTES_WITHIN_S)
            answer = await self.answer(data, _address(writer, "peername"), by_tcp=True)
            if answer is None:
                return
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()

    async def _places(self, name: str, guest: Guest) -> list[str]:
        """Where a name is, for this container.

        Raises:
            Refusal: nowhere that it may go.
        """
        found = await self._lookup(name)
        places = [place for place in found if may_stand_for_a_name(place, guest.cidrs, self._refused)]
        if not places:
            raise Refusal(f"this name leads to {', '.join(found[:3])}: no public address")
        return places

    # ------------------------------------------------------------------ connections

    def _guarded(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter, Guest], Awaitable[None]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        """Serve known containers only, each so many connections at a time, and close the connection in the end."""

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            guest = self.guests.get(_address(writer, "peername"))
            try:
                if guest is None or task is None or len(guest.tasks) >= CONNECTIONS_MAX:
                    return
                guest.tasks.add(task)
                await serve(reader, writer, guest)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, NoSuchName, CannotTell):
                pass
            except asyncio.CancelledError:
                pass  # forgotten: nobody waits for this task
            finally:
                if guest is not None and task is not None:
                    guest.tasks.discard(task)
                writer.transport.abort()

        return run

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest) -> None:
        name = self._table.name_of(_address(writer, "sockname"))
        port = int(writer.get_extra_info("sockname")[1])
        if name is None or not listed(name, guest.names):
            return
        try:
            first = await asyncio.wait_for(_first_bytes(reader, name, port), FIRST_BYTES_WITHIN_S)
            there = await self._connect(await self._places(name, guest), port)
        except (Refusal, Malformed) as error:
            self._refuse(self._id, _address(writer, "peername"), name, f"port {port}: {error}")
            return
        try:
            there[1].write(first)
            await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))
        finally:
            there[1].transport.abort()

    async def _connect(self, places: Sequence[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failed: Exception = OSError("nowhere to connect to")
        for place in places[:TRIED_MAX]:
            try:
                return await asyncio.wait_for(asyncio.open_connection(place, port, limit=PIECE_BYTES), CONNECT_WITHIN_S)
            except (OSError, TimeoutError) as error:
                failed = error
        raise failed


class _Questions(asyncio.DatagramProtocol):
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tasks: set[asyncio.Task[None]] = set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.create_task(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = await self._hub.answer(data, addr[0])
        if answer is not None:
            self._hub.send(answer, addr)


async def _first_bytes(reader: asyncio.StreamReader, name: str, port: int) -> bytes:
    """What a container says first, when it asks for `name` in it.

    Raises:
        Refusal: it asks for another.
        Malformed: it cannot be seen for what it asks.
    """
    data = b""
    while True:
        piece = await reader.read(PIECE_BYTES)
        if not piece:
            raise Malformed("it ended before it said what it asks for")
        data += piece
        if port == 80:
            asked = parse_host(data)
        else:
            hello = parse_hello(data)
            asked = hello.name if hello else None
        if asked is not None:
            if asked != name:
                raise Refusal(f"it asks for {asked[:253]} there")
            return data


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes, and the end of them."""
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _address(writer: asyncio.StreamWriter, which: str) -> str:
    found = writer.get_extra_info(which)
    return str(found[0]) if found else ""
