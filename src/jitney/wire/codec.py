"""Bytes <-> messages. Everything decoded here may come from a hostile peer: msgspec checks each field's type."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from jitney.errors import InvalidError
from jitney.values.calls import FRAME_BYTES_MAX
from jitney.wire.frames import LENGTH
from jitney.wire.messages.link import Answer, FromPeer, FromServer, Message, Request

T = TypeVar("T")
Buffer = bytes | memoryview

APART_BYTES_MIN = 64 * 1024  # what is as large is not copied into its frame

_encoder = msgspec.msgpack.Encoder()
_from_peer = msgspec.msgpack.Decoder(FromPeer)
_from_server = msgspec.msgpack.Decoder(FromServer)
_EMPTY = b"\xc4\x00"  # no bytes, in msgpack
_BYTES = b"\xc6"  # bytes, with their count in four more


class _LargeRequest(Request, frozen=True, tag=3):
    """A request whose body is a part of the frame that it came in, and no copy of that."""

    body: memoryview  # type: ignore[assignment]


class _LargeAnswer(Answer, frozen=True, tag=4):
    """As `_LargeRequest`."""

    body: memoryview  # type: ignore[assignment]


_large_request = msgspec.msgpack.Decoder(_LargeRequest)
_large_answer = msgspec.msgpack.Decoder(_LargeAnswer)
_REQUEST, _ANSWER = b"\x94\x03", b"\x93\x04"  # how they begin: an array of so many, and the tag


def encode(value: object) -> bytes:
    """`value` as msgpack."""
    return _encoder.encode(value)


def decode(body: Buffer, kind: type[T]) -> T:
    """`body` as a `kind`.

    Raises:
        InvalidError: it is not one; the message has the path of the first wrong field.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidError(f"{kind.__name__}: {error}") from None


def before(value: msgspec.Struct, tail: Buffer) -> bytes:
    """`value`, whose last bytes are empty, up to where `tail` stands in their place: it is sent behind this, uncopied.

    >>> before(Answer(1, b""), b"x" * 300) + b"x" * 300 == encode(Answer(1, b"x" * 300)).replace(b"\xc5", b"\xc6\0\0")
    True
    """
    head = _encoder.encode(value)
    assert head.endswith(_EMPTY)
    return head.removesuffix(_EMPTY) + _BYTES + len(tail).to_bytes(4, "big")


def request_before(number: int, method: str, head: bytes, tail: Buffer) -> bytes:
    """The frame of a request, up to `tail`. `head`: what its message has before that.

    Raises:
        InvalidError: it is over the limit of a frame.
    """
    front = _encoder.encode(Request(number, method, b"")).removesuffix(_EMPTY) + _BYTES
    length = len(head) + len(tail)
    frame_length = len(front) + 4 + length
    if frame_length > FRAME_BYTES_MAX:
        raise InvalidError(f"a frame of {frame_length:,} bytes is over the limit of {FRAME_BYTES_MAX:,}")
    return b"".join((LENGTH.pack(frame_length), front, length.to_bytes(4, "big"), head))


def encode_answer(answer: Answer) -> list[bytes]:
    """An answer with its length in front, to be sent one behind the other: a large body is not copied."""
    if len(answer.body) < APART_BYTES_MIN:
        return [encode_frame(answer)]
    front = before(Answer(answer.id, b""), answer.body)
    return [LENGTH.pack(len(front) + len(answer.body)) + front, answer.body]


def encode_frame(message: Message) -> bytes:
    """A message with its length in front, ready for the socket."""
    buffer = bytearray(4)
    _encoder.encode_into(message, buffer, 4)
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "little")
    return bytes(buffer)


def decode_from_peer(body: Buffer) -> FromPeer:
    """What a peer sent to the server. Of a large request, which came in memory of its own, nothing is copied.

    Raises:
        InvalidError: not a message of this protocol.
    """
    try:
        if isinstance(body, memoryview) and body[: len(_REQUEST)] == _REQUEST:
            return _large_request.decode(body)
        message: FromPeer = _from_peer.decode(body)
        return message
    except msgspec.MsgspecError as error:
        raise InvalidError(f"message: {error}") from None


def decode_from_server(body: Buffer) -> FromServer:
    """What the server sent to a peer. Of a large answer nothing is copied, as of a request.

    Raises:
        InvalidError: not a message of this protocol.
    """
    try:
        if isinstance(body, memoryview) and body[: len(_ANSWER)] == _ANSWER:
            return _large_answer.decode(body)
        message: FromServer = _from_server.decode(body)
        return message
    except msgspec.MsgspecError as error:
        raise InvalidError(f"message: {error}") from None
