"""Links, addresses, routes and rules, asked of the kernel directly: rtnetlink over one socket, nothing but the standard
library. A program per step (`ip`) costs 5 ms each; a whole batch of requests here costs what the kernel needs.

A request is a value: what the kernel is asked, and the sentence that says so when it refuses. `Netlink.perform` sends
a batch in one message, reads one acknowledgement each, and raises OSError with the sentence of the first that failed.
What must exist to be named by number (`index_of`) is made by an earlier batch.

`runner.wall.hub` puts these together for a wall and its containers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple, Self

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCLUSIVE, REPLACE = 0x400, 0x200, 0x100
ERROR, DONE = 2, 3
NEWLINK, DELLINK, GETLINK, NEWADDR, GETADDR, NEWROUTE, GETROUTE, NEWRULE = 16, 17, 18, 20, 22, 24, 26, 32

IFNAME, MTU, NET_NS_PID, LINKINFO, AF_SPEC = 3, 4, 19, 18, 26
TX_QUEUES, RX_QUEUES = 31, 32
IFF_UP = 1
FORWARDING, ACCEPT_REDIRECTS, SEND_REDIRECTS, RP_FILTER = 1, 4, 6, 8  # IPV4_DEVCONF_*
DST, OIF, GATEWAY, TABLE = 1, 4, 5, 15
TABLE_MAIN, TABLE_LOCAL = 254, 255
UNIVERSE, LINK, HOST = 0, 253, 254  # scopes
UNICAST, LOCAL, BLACKHOLE, UNREACHABLE, THROW = 1, 2, 6, 7, 9
KINDS = {"unicast": UNICAST, "local": LOCAL, "blackhole": BLACKHOLE, "unreachable": UNREACHABLE, "throw": THROW}
NEXT_ON_LINK = 4  # RTNH_F_ONLINK: the next hop is on this link, whatever the table says
STATIC = 4  # RTPROT_STATIC

BATCH_BYTES_MAX = 32 * 1024
ANSWER_BYTES = 64 * 1024
ANSWER_WITHIN_S = 10.0
NAME_BYTES_MAX = 15


class Request(NamedTuple):
    """One thing asked; `what` completes "cannot ..."."""

    kind: int
    flags: int
    body: bytes
    what: str


class LinkFound(NamedTuple):
    """A link, as listed."""

    number: int
    mtu: int


class AddressFound(NamedTuple):
    """An address, as listed, and the number of its link."""

    address: str
    prefix: int
    link: int


class RouteFound(NamedTuple):
    """A route, as listed; `link` is 0 where it leads to none."""

    cidr: str
    table: int
    kind: int
    link: int


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What a run of attributes holds; one that does not fit ends it."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if not 4 <= size <= len(data):
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]


# ---------------------------------------------------------------------------------------------------- requests


def make_veth(name: str, peer: str, peer_pid: int | None = None, mtu: int = 1500) -> Request:
    """A pair of links: `name` here, `peer` in the network namespace of process `peer_pid` (None: here as well)."""
    there = attribute(NET_NS_PID, struct.pack("=I", peer_pid)) if peer_pid is not None else b""
    # The kernel would make a queue for each processor, which takes longer than all the rest.
    shape = (
        attribute(MTU, struct.pack("=I", mtu))
        + attribute(TX_QUEUES, struct.pack("=I", 1))
        + attribute(RX_QUEUES, struct.pack("=I", 1))
    )
    other = _link_head() + attribute(IFNAME, _name(peer)) + shape + there
    info = attribute(1, b"veth") + attribute(2, attribute(1, other))
    body = _link_head() + attribute(IFNAME, _name(name)) + shape + attribute(LINKINFO, info)
    where = f" in process {peer_pid}" if peer_pid is not None else ""
    return Request(NEWLINK, CREATE | EXCLUSIVE, body, f"make the links {name} and {peer}{where}")


def delete_link(name: str) -> Request:
    """A link, and its other end, go."""
    return Request(DELLINK, 0, _link_head() + attribute(IFNAME, _name(name)), f"delete the link {name}")


def link_up(name: str) -> Request:
    """A link starts to carry packets."""
    return Request(NEWLINK, 0, _link_head(IFF_UP, IFF_UP) + attribute(IFNAME, _name(name)), f"bring {name} up")


def set_flags(name: str, **flags: int) -> Request:
    """IPv4 settings of one link: `forwarding`, `rp_filter`, `accept_redirects`, `send_redirects`."""
    known = {
        "forwarding": FORWARDING,
        "rp_filter": RP_FILTER,
        "accept_redirects": ACCEPT_REDIRECTS,
        "send_redirects": SEND_REDIRECTS,
    }
    values = b"".join(attribute(known[flag], struct.pack("=I", value)) for flag, value in flags.items())
    spec = attribute(socket.AF_INET, attribute(1, values))
    body = _link_head() + attribute(IFNAME, _name(name)) + attribute(AF_SPEC, spec)
    return Request(NEWLINK, 0, body, f"set {', '.join(flags)} of {name}")


def without_ipv6(name: str) -> Request:
    """A link makes itself no IPv6 address when it comes up. To be asked before that."""
    spec = attribute(socket.AF_INET6, attribute(8, b"\x01"))
    body = _link_head() + attribute(IFNAME, _name(name)) + attribute(AF_SPEC, spec)
    return Request(NEWLINK, 0, body, f"keep {name} from having an IPv6 address")


def add_address(index: int, address: str) -> Request:
    """An IPv4 address such as "10.1.2.3/32"; its subnet gets a route unless the prefix is 32."""
    text, _, prefix = address.partition("/")
    packed = ip_address(text).packed
    body = struct.pack("=BBBBI", socket.AF_INET, int(prefix or 32), 0, UNIVERSE, index)
    body += attribute(1, packed) + attribute(2, packed)
    return Request(NEWADDR, CREATE | REPLACE, body, f"add the address {address}")


def add_route(
    cidr: str,
    via: str | None = None,
    index: int | None = None,
    kind: str = "unicast",
    table: int = TABLE_MAIN,
) -> Request:
    """A route to `cidr`: by a next hop, straight on a link, or nowhere (`kind` "unreachable" or "blackhole").

    `kind` "throw": this table does not say, and the next rule is asked.
    """
    network = ip_network(cidr)
    scope = {"local": HOST}.get(kind, UNIVERSE if via or kind != "unicast" else LINK)
    head = struct.pack(
        "=BBBBBBBBI",
        socket.AF_INET if network.version == 4 else socket.AF_INET6,
        network.prefixlen,
        0,
        0,
        table if table < 256 else 0,
        STATIC,
        scope,
        KINDS[kind],
        NEXT_ON_LINK if via else 0,
    )
    body = head + attribute(DST, network.network_address.packed) + attribute(TABLE, struct.pack("=I", table))
    if via:
        body += attribute(GATEWAY, ip_address(via).packed)
    if index is not None:
        body += attribute(OIF, struct.pack("=I", index))
    way = f" by {via}" if via else f" ({kind})"
    return Request(NEWROUTE, CREATE | REPLACE, body, f"add the route to {cidr}{way}")


def add_rule(priority: int, incoming: str = "", table: int | None = None) -> Request:
    """Packets that came in by `incoming` ("" any; "lo" our own) are looked up in `table`; None: they are refused."""
    action = 1 if table is not None else UNREACHABLE
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, action, 0)
    body += attribute(6, struct.pack("=I", priority))
    if incoming:
        body += attribute(3, _name(incoming))
    if table is not None:
        body += attribute(TABLE, struct.pack("=I", table))
    return Request(NEWRULE, CREATE | EXCLUSIVE, body, f"add the routing rule {priority}")


def index_of(name: str) -> int:
    """The number of a link of this network namespace.

    Raises:
        OSError: there is none of this name.
    """
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise OSError(errno.ENODEV, f"there is no link {name}") from error


def _link_head(flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, 0, flags, change)


def _name(name: str) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) <= NAME_BYTES_MAX or b"/" in raw or b"\0" in raw:
        raise OSError(errno.EINVAL, f"{name!r} cannot be the name of a link")
    return raw + b"\0"


# ---------------------------------------------------------------------------------------------------- the socket


class Netlink:
    """One netlink socket, for the network namespace that the thread is in when it is made."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(ANSWER_WITHIN_S)
        for option in (10, 11):  # NETLINK_CAP_ACK, NETLINK_EXT_ACK: short answers, with the kernel's own words
            self._socket.setsockopt(270, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The socket goes."""
        self._socket.close()

    def perform(self, requests: Sequence[Request]) -> None:
        """Ask for all of them, in order. The kernel goes on after one that fails.

        Raises:
            OSError: the first that the kernel refused, with its sentence.
        """
        batch: list[Request] = []
        size = 0
        failed: OSError | None = None
        for request in requests:
            if size + len(request.body) > BATCH_BYTES_MAX:
                failed = failed or self._round(batch)
                batch, size = [], 0
            batch.append(request)
            size += len(request.body) + 16
        failed = failed or self._round(batch)
        if failed is not None:
            raise failed

    def transact(self, requests: Sequence[Request]) -> None:
        """Ask for all of them in one message, which the kernel (nfnetlink) takes whole or not at all.

        Raises:
            OSError: it did not.
        """
        failed = self._round(requests)
        if failed is not None:
            raise failed

    def _round(self, batch: Sequence[Request]) -> OSError | None:
        """Send a batch and read an acknowledgement of each that asks for one; the first failure."""
        if not batch:
            return None
        first = self._sequence + 1
        self._socket.sendto(b"".join(self._message(request, ACK) for request in batch), (0, 0))
        waiting = {first + n for n, request in enumerate(batch) if not request.flags & NO_ACK}
        failed: dict[int, OSError] = {}
        while waiting:
            for kind, sequence, body in self._answers():
                if kind != ERROR or not first <= sequence < first + len(batch):
                    continue
                waiting.discard(sequence)
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    failed.setdefault(sequence, _refusal(code, body, batch[sequence - first].what))
                    if batch[sequence - first].flags & NO_ACK:  # the frame of a transaction: nothing else is answered
                        waiting.clear()
        return failed[min(failed)] if failed else None

    def dump(self, request: Request) -> list[bytes]:
        """The bodies of all that are listed.

        Raises:
            OSError: the kernel refused.
        """
        self._socket.sendto(self._message(request, DUMP), (0, 0))
        found: list[bytes] = []
        while True:
            for kind, sequence, body in self._answers():
                if sequence != self._sequence:
                    continue
                if kind == DONE:
                    return found
                if kind == ERROR:
                    raise _refusal(-struct.unpack_from("=i", body)[0], body, request.what)
                found.append(body)

    def links(self) -> dict[str, LinkFound]:
        """All links by name."""
        found: dict[str, LinkFound] = {}
        for body in self.dump(Request(GETLINK, 0, _link_head(), "list links")):
            [number] = struct.unpack_from("=i", body, 4)
            values = dict(attributes(body[16:]))
            [mtu] = struct.unpack("=I", values.get(MTU, bytes(4)))
            found[values.get(IFNAME, b"").rstrip(b"\0").decode()] = LinkFound(number, mtu)
        return found

    def addresses(self) -> list[AddressFound]:
        """All addresses, IPv4 and IPv6."""
        found: list[AddressFound] = []
        for body in self.dump(Request(GETADDR, 0, struct.pack("=BBBBI", 0, 0, 0, 0, 0), "list addresses")):
            _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
            values = dict(attributes(body[8:]))
            packed = values.get(2) or values.get(1)
            if packed:
                found.append(AddressFound(str(ip_address(packed)), prefix, index))
        return found

    def routes(self) -> list[RouteFound]:
        """All IPv4 routes, of all tables."""
        found: list[RouteFound] = []
        ask = Request(GETROUTE, 0, struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0), "list routes")
        for body in self.dump(ask):
            _, prefix, _, _, table, _, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
            values = dict(attributes(body[12:]))
            target = str(ip_address(values.get(DST, bytes(4))))
            [table] = struct.unpack("=I", values[TABLE]) if TABLE in values else (table,)
            [index] = struct.unpack("=I", values[OIF]) if OIF in values else (0,)
            found.append(RouteFound(f"{target}/{prefix}", table, kind, index))
        return found

    def _message(self, request: Request, flags: int) -> bytes:
        self._sequence += 1
        flags = REQUEST | (request.flags & ~NO_ACK) | (0 if request.flags & NO_ACK else flags)
        size = 16 + len(request.body)
        return struct.pack("=IHHII", size, request.kind, flags, self._sequence, 0) + request.body + bytes(-size % 4)

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            data = self._socket.recv(ANSWER_BYTES)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "the kernel does not answer on a netlink socket") from error
        while len(data) >= 16:
            size, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
            if not 16 <= size <= len(data):
                return
            yield kind, sequence, data[16:size]
            data = data[(size + 3) & ~3 :]


NO_ACK = 0x10000  # of ours: never sent


def _refusal(code: int, body: bytes, what: str) -> OSError:
    """The error of an answer, with the kernel's own words where it gave some."""
    words = ""
    for kind, value in attributes(body[20:]):
        if kind == 1:  # NLMSGERR_ATTR_MSG
            words = f" ({value.rstrip(bytes(1)).decode(errors='replace')})"
    return OSError(code, f"cannot {what}: {os.strerror(code)}{words}")
