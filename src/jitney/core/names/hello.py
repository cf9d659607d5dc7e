"""The first message of a TLS connection (RFC 8446 4.1.2): which server it asks for."""

from __future__ import annotations

from typing import NamedTuple

from jitney.core.names import Malformed

HELLO_BYTES_MAX = 16 * 1024
RECORD_BYTES_MAX = 16 * 1024
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED_HELLO = 0, 0xFE0D


class Hello(NamedTuple):
    """What a client says openly. `encrypted`: it may mean another server than it says, behind the one that it says."""

    name: str
    encrypted: bool


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise Malformed("a part is longer than the whole")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        return _Reader(self.take(self.number(size)))

    def left(self) -> int:
        return len(self._data) - self._at


def parse_hello(data: bytes) -> Hello | None:
    """The message at the beginning of a connection; None: more is needed.

    Raises:
        Malformed: it is no such message, or names no server.
    """
    message = _handshake(data)
    if message is None:
        if len(data) > HELLO_BYTES_MAX:
            raise Malformed("too long a first message")
        return None
    body = _Reader(message)
    body.take(2 + 32)
    body.vector(1)  # session
    body.vector(2)  # ciphers
    body.vector(1)  # compression
    extensions = body.vector(2) if body.left() else _Reader(b"")
    names: list[str] = []
    seen: set[int] = set()
    while extensions.left():
        kind, value = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise Malformed("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            names = _names(value)
    if len(names) != 1:
        raise Malformed("it names no server")
    return Hello(names[0], _ENCRYPTED_HELLO in seen)


def _handshake(data: bytes) -> bytes | None:
    """The body of the first handshake message, put together from its records."""
    whole, at = b"", 0
    while len(data) - at >= 5:
        if data[at] != _HANDSHAKE or data[at + 1] != 3:
            raise Malformed("it is not TLS")
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < size <= RECORD_BYTES_MAX:
            raise Malformed("a record of no size")
        piece = data[at + 5 : at + 5 + size]
        whole += piece
        if whole[0] != _CLIENT_HELLO if whole else False:
            raise Malformed("it does not begin with a hello")
        if len(whole) >= 4:
            needed = int.from_bytes(whole[1:4], "big")
            if needed > HELLO_BYTES_MAX:
                raise Malformed("too long a first message")
            if len(whole) >= 4 + needed:
                return whole[4 : 4 + needed]
        if len(piece) < size:
            return None
        at += 5 + size
    if data[at : at + 1] not in (b"", bytes([_HANDSHAKE])):
        raise Malformed("it is not TLS")
    return None


def _names(value: _Reader) -> list[str]:
    entries, names = value.vector(2), []
    while entries.left():
        kind, name = entries.number(1), entries.vector(2)
        if kind == 0:
            try:
                names.append(name.take(name.left()).decode("ascii").lower().removesuffix("."))
            except UnicodeDecodeError:
                raise Malformed("a name with letters that no host has") from None
    return names
