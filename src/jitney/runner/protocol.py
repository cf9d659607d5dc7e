"""Server <-> runner: the protocol on a container's own link. Sans-I/O and standard library only: both sides import it.

A frame is `u32 length | u8 kind | body`, little-endian, `length` counting kind and body. Hot frames (RUN, RESULTS,
ITEMS) are packed tables, so that a batch of a hundred inputs costs one system call and no object per field; the rest
are JSON. Payloads are opaque here (runner.payload knows their form).

The token of an input is its lease: a number that the server never uses twice, so that a result of an attempt that was
given up is known as stale. Order: HELLO, then WELCOME or REJECT; READY once the user's start-up code has run; then RUN
frames at any time, each of inputs of one call. A container whose link breaks connects again and says HELLO with the
tokens of the inputs that it still works on, and keeps results that it could not send.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

FRAME_BYTES_MAX = 64 * 1024 * 1024

# server -> runner
WELCOME = 1  # json {}
REJECT = 2  # json {"reason": str}: exit now
RUN = 3  # header json {"call": id, "method": name, "durable": bool, "by_file": bool} + table of inputs
RUN_BATCH = 4  # the same; the inputs are one @batched invocation, and may be of several calls: header has "calls"
#   (a list with the call id of each input) instead of "call"
CANCEL = 5  # u64 tokens: raise InputCancellation in those that run (a FAILURE follows); drop the others (RECALLED)
RECALL = 6  # u64 tokens: give back those that have not started (RECALLED)
CREDIT = 7  # u64 token, u32 items: the generator may be that much further ahead
STOP = 8  # json {"grace_ms": int}: finish what runs, give back what waits, run @exit, exit 0
# runner -> server
HELLO = 20  # json {"container": id, "token": str, "pid": int, "python": str, "ready": bool,
#   "running": [[token, call id, index, attempt], ...]} (inputs held and not yet reported, after a broken link)
READY = 21  # json {"phases_ms": {"load": ms, "enter": ms}}
RESULTS = 22  # table of results
ITEMS = 23  # u64 token, u32 first, u32 count, u32 sizes..., payloads
RECALLED = 24  # u64 tokens
FAILED = 25  # payload of a failure: start-up code raised; the process ends after this
BYE = 26  # json {}: drained, about to exit

# RESULTS status, equal to values.calls.Status
SUCCESS = 1
FAILURE = 2

_HEAD = struct.Struct("<IB")
_INPUT = struct.Struct("<QIHI")  # token, index, attempt, size
_RESULT = struct.Struct("<QBQI")  # token, status, duration in ns, size
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_ITEMS = struct.Struct("<QII")


class RunInput(NamedTuple):
    """One input handed to a runner. `attempt` counts from 1."""

    token: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    attempt: int
    payload: bytes


class Result(NamedTuple):
    """What became of one input. `payload` is a value, or a failure when status is not SUCCESS."""

    token: int
    status: int
    duration_ns: int
    payload: bytes


class ProtocolError(Exception):
    """The peer sent bytes that are not of this protocol: the link cannot be trusted any more."""


def pack(kind: int, body: bytes = b"") -> bytes:
    """A whole frame."""
    return _HEAD.pack(len(body) + 1, kind) + body


def pack_json(kind: int, value: dict[str, Any]) -> bytes:
    """A whole frame with a JSON body."""
    return pack(kind, json.dumps(value, separators=(",", ":")).encode())


def unpack_json(body: bytes) -> dict[str, Any]:
    """The JSON body of a frame.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:  # the latter: brackets in brackets in brackets
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError("not a JSON object")
    return value


def run_header(call_id: str, method: str, durable: bool, by_file: bool = False) -> bytes:
    """The header of RUN frames of one call: encode it once per call.

    `by_file`: who called does not see the shared memory that this container writes to.
    """
    fields = {"call": call_id, "method": method, "durable": durable, "by_file": by_file}
    return json.dumps(fields, separators=(",", ":")).encode()


def batch_header(call_ids: list[str], method: str, by_file: bool = False) -> bytes:
    """The header of a RUN_BATCH frame."""
    return json.dumps({"calls": call_ids, "method": method, "by_file": by_file}, separators=(",", ":")).encode()


def pack_run(header: bytes, inputs: list[RunInput], *, batch: bool = False) -> bytes:
    """A RUN (or RUN_BATCH) frame: inputs of one call, to be worked on in this order."""
    parts = [_U32.pack(len(header)), header, _U32.pack(len(inputs))]
    parts += [_INPUT.pack(item.token, item.index, item.attempt, len(item.payload)) for item in inputs]
    parts += [item.payload for item in inputs]
    return pack(RUN_BATCH if batch else RUN, b"".join(parts))


def unpack_run(body: bytes) -> tuple[bytes, list[RunInput]]:
    """(header, inputs) of a RUN frame; `json.loads` the header once per distinct value."""
    try:
        (header_size,) = _U32.unpack_from(body)
        at = 4 + header_size
        header = bytes(body[4:at])
        (count,) = _U32.unpack_from(body, at)
        at += 4
        end_of_table = at + count * _INPUT.size
        offset, inputs = end_of_table, []
        for token, index, attempt, size in _INPUT.iter_unpack(body[at:end_of_table]):
            inputs.append(RunInput(token, index, attempt, body[offset : offset + size]))
            offset += size
    except struct.error as error:
        raise ProtocolError(f"RUN: {error}") from None
    if offset != len(body) or len(inputs) != count:
        raise ProtocolError("RUN: sizes do not add up")
    return header, inputs


def pack_results(results: list[Result]) -> bytes:
    """A RESULTS frame."""
    parts = [_U32.pack(len(results))]
    parts += [_RESULT.pack(r.token, r.status, r.duration_ns, len(r.payload)) for r in results]
    parts += [r.payload for r in results]
    return pack(RESULTS, b"".join(parts))


def unpack_results(body: bytes) -> list[Result]:
    """The results of a RESULTS frame."""
    try:
        (count,) = _U32.unpack_from(body)
        offset = end_of_table = 4 + count * _RESULT.size
        results = []
        for token, status, duration_ns, size in _RESULT.iter_unpack(body[4:end_of_table]):
            results.append(Result(token, status, duration_ns, body[offset : offset + size]))
            offset += size
    except struct.error as error:
        raise ProtocolError(f"RESULTS: {error}") from None
    if offset != len(body) or len(results) != count:
        raise ProtocolError("RESULTS: sizes do not add up")
    return results


def pack_items(token: int, first: int, payloads: list[bytes]) -> bytes:
    """An ITEMS frame: values that the generator of input `token` yielded, the first being number `first`."""
    sizes = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
    return pack(ITEMS, b"".join([_ITEMS.pack(token, first, len(payloads)), sizes, *payloads]))


def unpack_items(body: bytes) -> tuple[int, int, list[bytes]]:
    """(token, first, payloads) of an ITEMS frame."""
    try:
        token, first, count = _ITEMS.unpack_from(body)
        sizes = struct.unpack_from(f"<{count}I", body, _ITEMS.size)
    except struct.error as error:
        raise ProtocolError(f"ITEMS: {error}") from None
    offset, payloads = _ITEMS.size + 4 * count, []
    for size in sizes:
        payloads.append(body[offset : offset + size])
        offset += size
    if offset != len(body):
        raise ProtocolError("ITEMS: sizes do not add up")
    return token, first, payloads


def pack_tokens(kind: int, tokens: list[int]) -> bytes:
    """A CANCEL, RECALL or RECALLED frame."""
    return pack(kind, struct.pack(f"<{len(tokens)}Q", *tokens))


def unpack_tokens(body: bytes) -> list[int]:
    """The tokens of a CANCEL, RECALL or RECALLED frame."""
    try:
        return [token for (token,) in _U64.iter_unpack(body)]
    except struct.error as error:
        raise ProtocolError(f"tokens: {error}") from None


def pack_credit(token: int, items: int) -> bytes:
    """A CREDIT frame."""
    return pack(CREDIT, _U64.pack(token) + _U32.pack(items))


def unpack_credit(body: bytes) -> tuple[int, int]:
    """(token, items) of a CREDIT frame."""
    if len(body) != 12:
        raise ProtocolError("CREDIT: wrong size")
    return _U64.unpack_from(body)[0], _U32.unpack_from(body, 8)[0]


class Splitter:
    """Cuts a byte stream into (kind, body) frames. One copy per frame; a partial frame is kept until it is whole."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = _HEAD.size

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that are whole now.

        Raises:
            ProtocolError: a length of zero or over the limit.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data, self._rest = bytes(self._rest), bytearray()
        frames, at, end = [], 0, len(data)
        self._need = _HEAD.size
        while end - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(data, at)
            if not 1 <= length <= FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes")
            if end - at < 4 + length:
                self._need = 4 + length
                break
            frames.append((kind, data[at + 5 : at + 4 + length]))
            at += 4 + length
        if at < end:
            self._rest = bytearray(data[at:])
        return frames
