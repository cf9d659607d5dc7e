"""Bytes <-> messages. Everything decoded here may come from a hostile peer: msgspec checks each field's type."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from jitney.errors import InvalidError
from jitney.wire.messages.link import FromPeer, FromServer, Message

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_from_peer = msgspec.msgpack.Decoder(FromPeer)
_from_server = msgspec.msgpack.Decoder(FromServer)


def encode(value: object) -> bytes:
    """`value` as msgpack."""
    return _encoder.encode(value)


def decode(body: bytes, kind: type[T]) -> T:
    """`body` as a `kind`.

    Raises:
        InvalidError: it is not one; the message has the path of the first wrong field.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidError(f"{kind.__name__}: {error}") from None


def encode_frame(message: Message) -> bytes:
    """A message with its length in front, ready for the socket."""
    buffer = bytearray(4)
    _encoder.encode_into(message, buffer, 4)
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "little")
    return bytes(buffer)


def decode_from_peer(body: bytes) -> FromPeer:
    """What a peer sent to the server.

    Raises:
        InvalidError: not a message of this protocol.
    """
    try:
        message: FromPeer = _from_peer.decode(body)
        return message
    except msgspec.MsgspecError as error:
        raise InvalidError(f"message: {error}") from None


def decode_from_server(body: bytes) -> FromServer:
    """What the server sent to a peer.

    Raises:
        InvalidError: not a message of this protocol.
    """
    try:
        message: FromServer = _from_server.decode(body)
        return message
    except msgspec.MsgspecError as error:
        raise InvalidError(f"message: {error}") from None
