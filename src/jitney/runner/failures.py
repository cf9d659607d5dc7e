"""Failures as bytes: what went wrong as text that anyone can show, and the exception itself where it can travel.

    'E' | u32 size of the JSON | JSON {"type", "module", "message", "traceback"} | pickled exception or nothing

The text is what counts: the exception is user data of a user's class, which may refuse to be pickled, be huge, or only
fail when it is rebuilt. Reading the text needs no unpickling, so the server may do it too.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from typing import Any, NamedTuple

KIND = b"E"
EXCEPTION_BYTES_MAX = 1024 * 1024  # a larger exception travels as text only
MESSAGE_CHARS_MAX = 16 * 1024
TRACEBACK_CHARS_MAX = 64 * 1024

_U32 = struct.Struct("<I")
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


class FailureInfo(NamedTuple):
    """A failure as it arrived. `exception` is None where it could not travel or cannot be rebuilt here."""

    type_name: str
    message: str
    traceback: str
    exception: BaseException | None
    module: str = ""


class _Full(Exception):
    """The pickled exception is over its limit."""


class _Bounded:
    """A file that takes at most EXCEPTION_BYTES_MAX."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.room = EXCEPTION_BYTES_MAX

    def write(self, part: Any) -> int:
        data = bytes(part)
        self.room -= len(data)
        if self.room < 0:
            raise _Full
        self.parts.append(data)
        return len(data)


def encode_failure(error: BaseException) -> bytes:
    """The failure payload of an exception; never raises because of what the exception is."""
    kind = type(error)
    return _assemble(
        str(getattr(kind, "__qualname__", "Exception")),
        str(getattr(kind, "__module__", "") or ""),
        message_of(error),
        format_traceback(error),
        _pickle(error),
    )


def encode_failure_text(type_name: str, message: str, traceback: str = "", *, module: str = "") -> bytes:
    """A failure payload without an exception object."""
    return _assemble(type_name, module, message, traceback, b"")


def decode_failure(payload: bytes, *, rebuild: bool = True) -> FailureInfo:
    """What an 'E' payload says. `rebuild=False` never unpickles. Hostile bytes give a failure that says so."""
    try:
        if payload[:1] != KIND:
            raise ValueError("not a failure")
        (size,) = _U32.unpack_from(payload, 1)
        text = json.loads(bytes(payload[5 : 5 + size]))
        rest = payload[5 + size :]
        fields = [str(text.get(key, "")) for key in ("type", "message", "traceback", "module")]
    except (ValueError, struct.error, AttributeError) as error:
        return FailureInfo("Exception", f"an unreadable failure of {len(payload)} bytes ({error})", "", None)
    exception = _rebuild(bytes(rest)) if rebuild and rest else None
    return FailureInfo(fields[0], fields[1], fields[2], exception, fields[3])


def message_of(error: BaseException) -> str:
    """`str(error)`, whatever its `__str__` does."""
    try:
        return str(error)
    except Exception as why:
        return f"<the message of {type(error).__name__} cannot be made: {type(why).__name__}>"


def format_traceback(error: BaseException) -> str:
    """The traceback as text, without the frames of the runner above the user's code."""
    import traceback as tracebacks

    where = error.__traceback__
    while where is not None and where.tb_frame.f_code.co_filename.startswith(_OURS):
        where = where.tb_next
    try:
        lines = tracebacks.format_exception(type(error), error, where)
    except Exception as why:
        lines = [f"<the traceback of {type(error).__name__} cannot be made: {type(why).__name__}>\n"]
    return "".join(lines)


def _pickle(error: BaseException) -> bytes:
    for dump in (_plain, _cloud):
        file = _Bounded()
        try:
            dump(error, file)
        except _Full:
            return b""
        except Exception:
            continue
        return b"".join(file.parts)
    return b""


def _plain(error: BaseException, file: Any) -> None:
    pickle.Pickler(file, 5).dump(error)


def _cloud(error: BaseException, file: Any) -> None:
    import cloudpickle

    cloudpickle.Pickler(file, 5).dump(error)


def _rebuild(data: bytes) -> BaseException | None:
    try:
        value = pickle.loads(data)
    except Exception:  # anything can happen in a stranger's __reduce__ or __init__; the text is still there
        return None
    return value if isinstance(value, BaseException) else None


def _assemble(type_name: str, module: str, message: str, traceback: str, exception: bytes) -> bytes:
    text = json.dumps(
        {
            "type": type_name[:512],
            "module": module[:512],
            "message": _shorten(message, MESSAGE_CHARS_MAX),
            "traceback": _shorten(traceback, TRACEBACK_CHARS_MAX),
        },
        separators=(",", ":"),
    ).encode()
    return b"".join([KIND, _U32.pack(len(text)), text, exception])


def _shorten(text: str, limit: int) -> str:
    """`text` with its middle left out: the head says what was called, the tail what failed."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[-tail:]}"
