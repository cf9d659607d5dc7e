"""One small table of packet rules, put into the kernel without the `nft` program: nfnetlink, standard library only.

A table is data: chains with their hook and rules, a rule a run of expressions that load a value, compare it, and end in
a verdict. `put` replaces the whole table in one transaction, so there is no moment without rules.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_network
from typing import NamedTuple

from jitney.runner.wall.netlink import CREATE, NO_ACK, Netlink, Request, attribute, attributes

NETFILTER = 12  # NETLINK_NETFILTER
BATCH_BEGIN, BATCH_END = 0x10, 0x11
SUBSYSTEM = 10
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, GET_CHAINS, NEW_RULE = 0, 2, 3, 4, 6
APPEND = 0x800
INET = 1  # the family of tables that see IPv4 and IPv6
NESTED = 0x8000
IN, OUT = 6, 7  # NFT_META_IIFNAME, NFT_META_OIFNAME
PROTOCOL = 15  # NFT_META_NFPROTO
IPV4 = 2
EQUAL, DIFFERENT = 0, 1
VERDICT_REGISTER, REGISTER = 0, 1
ESTABLISHED_OR_RELATED = 2 | 4
DESTINATION_TRANSLATED = 1 << 5
LOCAL = 2  # RTN_LOCAL
NAME_BYTES = 16
_ADDRESS_AT = {"saddr": 12, "daddr": 16}

Expression = bytes


class Hook(NamedTuple):
    """Where the kernel calls a chain."""

    number: int
    priority: int
    kind: str = "filter"


PREROUTING = Hook(0, -150)  # before any other table translates addresses
INPUT = Hook(1, -10)
FORWARD = Hook(2, -10)
OUTPUT = Hook(3, -10)
POSTROUTING = Hook(4, 100, "nat")


class Chain(NamedTuple):
    """Rules in order; what none of them decides is accepted."""

    name: str
    hook: Hook
    rules: Sequence[Sequence[Expression]]


class NoPacketRules(OSError):
    """The kernel does not take the table: the message says why."""


# ---------------------------------------------------------------------------------------------------- expressions


def _expression(name: str, *values: bytes) -> Expression:
    data = attribute(2 | NESTED, b"".join(values)) if values else b""
    return attribute(1 | NESTED, attribute(1, name.encode() + b"\0") + data)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _value(kind: int, value: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(1, value))


def _compare(operator: int, value: bytes) -> Expression:
    return _expression("cmp", _number(1, REGISTER), _number(2, operator), _value(3, value))


def _masked(mask: bytes) -> Expression:
    return _expression(
        "bitwise",
        _number(1, REGISTER),
        _number(2, REGISTER),
        _number(3, len(mask)),
        _value(4, mask),
        _value(5, bytes(len(mask))),
    )


def interface(which: int, name: str, operator: int = EQUAL) -> Expression:
    """The packet came in (IN) or goes out (OUT) by `name`; "jt*" is every name that begins with jt."""
    raw = name[:-1].encode() if name.endswith("*") else name.encode().ljust(NAME_BYTES, b"\0")
    return _expression("meta", _number(2, which), _number(1, REGISTER)) + _compare(operator, raw)


def protocol(operator: int, family: int) -> Expression:
    """The packet is of this family (IPV4), or is not."""
    return _expression("meta", _number(2, PROTOCOL), _number(1, REGISTER)) + _compare(operator, bytes([family]))


def address(which: str, cidr: str) -> Expression:
    """The packet is IPv4 and its "saddr" or "daddr" is of `cidr`."""
    network = ip_network(cidr)
    return address_bits(which, int(network.netmask), int(network.network_address))


def address_bits(which: str, mask: int, value: int) -> Expression:
    """The packet is IPv4 and its "saddr" or "daddr" has `value` where `mask` has ones."""
    load = _expression("payload", _number(1, REGISTER), _number(2, 1), _number(3, _ADDRESS_AT[which]), _number(4, 4))
    return protocol(EQUAL, IPV4) + load + _masked(struct.pack(">I", mask)) + _compare(EQUAL, struct.pack(">I", value))


def to_this_machine() -> Expression:
    """The packet's destination is an address of this machine."""
    lookup = _expression("fib", _number(1, REGISTER), _number(2, 3), _number(3, 2))
    return lookup + _compare(EQUAL, struct.pack("=I", LOCAL))


def answer(operator: int = DIFFERENT) -> Expression:
    """The packet belongs to a connection that was allowed, or is an error about one; with EQUAL: it does not."""
    return _connection(0, ESTABLISHED_OR_RELATED, operator)


def redirected(operator: int = DIFFERENT) -> Expression:
    """The packet's destination was translated by a rule of this machine; with EQUAL: it was not."""
    return _connection(2, DESTINATION_TRANSLATED, operator)


def _connection(key: int, bits: int, operator: int) -> Expression:
    load = _expression("ct", _number(2, key), _number(1, REGISTER))
    return load + _masked(struct.pack("=I", bits)) + _compare(operator, bytes(4))


def masquerade() -> Expression:
    """The packet leaves with the address of the link that it leaves by."""
    return _expression("masq")


def _verdict(code: int) -> Expression:
    return _expression("immediate", _number(1, VERDICT_REGISTER), attribute(2 | NESTED, _code(code)))


def _code(code: int) -> bytes:
    return attribute(2 | NESTED, _number(1, code))


DROP, ACCEPT = _verdict(0), _verdict(1)


# ---------------------------------------------------------------------------------------------------- tables


def put(table: str, chains: Sequence[Chain]) -> None:
    """The table is exactly this, from one moment to the next.

    Raises:
        NoPacketRules: the kernel refused; nothing has changed.
    """
    name = attribute(1, table.encode() + b"\0")
    requests = [
        _request(NEW_TABLE, CREATE, name, f"make the table {table}"),
        _request(DELETE_TABLE, 0, name, f"replace the table {table}"),
        _request(NEW_TABLE, CREATE, name, f"make the table {table}"),
    ]
    for chain in chains:
        of_chain = chain.name.encode() + b"\0"
        priority = attribute(2, struct.pack(">i", chain.hook.priority))
        hook = attribute(4 | NESTED, _number(1, chain.hook.number) + priority)
        body = name + attribute(3, of_chain) + hook + _number(5, 1) + attribute(7, chain.hook.kind.encode() + b"\0")
        requests.append(_request(NEW_CHAIN, CREATE, body, f"make the chain {chain.name} of {table}"))
        for number, rule in enumerate(chain.rules, 1):
            body = name + attribute(2, of_chain) + attribute(4 | NESTED, b"".join(rule))
            what = f"add rule {number} to the chain {chain.name} of {table}"
            requests.append(_request(NEW_RULE, CREATE | APPEND, body, what))
    _transact(requests)


def remove(table: str) -> bool:
    """The table goes; whether it was there.

    Raises:
        NoPacketRules: the kernel refused.
    """
    name = attribute(1, table.encode() + b"\0")
    try:
        _transact([_request(DELETE_TABLE, 0, name, f"remove the table {table}")])
    except NoPacketRules as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def chains_of(table: str) -> list[str]:
    """The names of a table's chains; none where there is no such table.

    Raises:
        OSError: the kernel has no such tables, or we may not ask.
    """
    with Netlink(NETFILTER) as netlink:
        listed = netlink.dump(_request(GET_CHAINS, 0, b"", "list packet rules"))
    names = []
    for body in listed:
        values = dict(attributes(body[4:]))
        if values.get(1, b"").rstrip(b"\0") == table.encode():
            names.append(values.get(3, b"").rstrip(b"\0").decode(errors="replace"))
    return names


def _request(kind: int, flags: int, body: bytes, what: str) -> Request:
    return Request(SUBSYSTEM << 8 | kind, flags, struct.pack(">BBH", INET, 0, 0) + body, what)


def _transact(requests: Sequence[Request]) -> None:
    frame = struct.pack(">BBH", socket.AF_UNSPEC, 0, SUBSYSTEM)
    begin = Request(BATCH_BEGIN, NO_ACK, frame, "begin to change packet rules")
    end = Request(BATCH_END, NO_ACK, frame, "change packet rules")
    try:
        with Netlink(NETFILTER) as netlink:
            netlink.transact([begin, *requests, end])
    except OSError as error:
        raise NoPacketRules(error.errno, error.strerror or str(error)) from error
