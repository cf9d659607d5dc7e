"""Questions to a name server, and answers (RFC 1035), as far as a resolver of allowed names needs them."""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address
from typing import NamedTuple

from jitney.core.names import Malformed

A = 1
IN = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, REFUSED = 0, 1, 2, 3, 5
HEADER_BYTES = 12
NAME_CHARS_MAX = 253
_LABEL = re.compile(rb"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class Query(NamedTuple):
    """One question. `question` is as it came: the asker compares it, capital letters and all."""

    number: int
    name: str  # lower case, no dot at its end
    kind: int
    recursion: bool
    question: bytes


def parse_query(data: bytes) -> Query:
    """The question of a packet.

    Raises:
        Malformed: it has none, or more than one, or is not a question.
    """
    if len(data) < HEADER_BYTES:
        raise Malformed("no header")
    number, flags, questions, answers, _, _ = struct.unpack_from(">6H", data)
    if flags & 0xF800:
        raise Malformed("no plain question")  # an answer, or another operation
    if questions != 1 or answers:
        raise Malformed(f"{questions} questions")
    labels, at = _labels(data)
    if len(data) < at + 4:
        raise Malformed("it ends in the question")
    kind, group = struct.unpack_from(">2H", data, at)
    if group != IN:
        raise Malformed("not of the internet")
    name = ".".join(label.decode("ascii").lower() for label in labels)
    if not name or len(name) > NAME_CHARS_MAX:
        raise Malformed("no name, or a too long one")
    return Query(number, name, kind, bool(flags & 0x100), data[HEADER_BYTES : at + 4])


def _labels(data: bytes) -> tuple[list[bytes], int]:
    labels: list[bytes] = []
    at = HEADER_BYTES
    while True:
        if at >= len(data):
            raise Malformed("it ends in the name")
        size = data[at]
        if not size:
            return labels, at + 1
        label = data[at + 1 : at + 1 + size]
        if size > 63 or len(label) != size or not _LABEL.fullmatch(label):
            raise Malformed("a part of the name that no host has")
        labels.append(label)
        at += 1 + size
        if at > HEADER_BYTES + 255:
            raise Malformed("too long a name")


def reply(query: Query, code: int, address: str = "", ttl_s: int = 0) -> bytes:
    """The answer to a question: an address, or nothing and a code."""
    flags = 0x8080 | (0x100 if query.recursion else 0) | code
    answer = b""
    if address:
        answer = struct.pack(">HHHIH", 0xC000 | HEADER_BYTES, A, IN, ttl_s, 4) + IPv4Address(address).packed
    header = struct.pack(">6H", query.number, flags, 1, 1 if address else 0, 0, 0)
    return header + query.question + answer


def reply_malformed(data: bytes) -> bytes | None:
    """The answer to what is no question; None where not even its number can be read, or it is an answer itself."""
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        return None
    return data[:2] + struct.pack(">5H", 0x8080 | FORMAT_ERROR, 0, 0, 0, 0)


def answers_to(data: bytes, query: Query) -> bool:
    """Whether a packet is an answer to this question."""
    end = HEADER_BYTES + len(query.question)
    return (
        len(data) >= end
        and data[:2] == struct.pack(">H", query.number)
        and bool(data[2] & 0x80)
        and data[HEADER_BYTES:end].lower() == query.question.lower()
    )
