"""Keys and values of others, shown to a person: plain data is unpickled, nothing else, so no code of theirs runs here.

Functions put what they like into a dict or a queue, and whoever looks at it with a command is not to run what they
put. A pickle that names a class or a function is shown as what it names.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import msgspec

from jitney.client import codec
from jitney.values import dicts

SHOWN_CHARS_MAX = 200


class Opaque:
    """Something that is not shown, and what it is."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return f"<{self.what}>"


class _Named(pickle.UnpicklingError):
    """The pickle names something."""


class _Plain(pickle.Unpickler):
    """Takes numbers, texts, bytes and containers of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise _Named(f"{module}.{name}")


def _unpickled(body: bytes, size: int) -> Any:
    try:
        return _Plain(io.BytesIO(body)).load()
    except _Named as error:
        return Opaque(f"{error}, {size:,} bytes")
    except Exception:
        return Opaque(f"{size:,} bytes that are no pickle")


def key(body: bytes) -> Any:
    """A key, or what stands for it."""
    if body[:1] == codec.PICKLED_KEY:
        return _unpickled(body[1:], len(body))
    try:
        return codec.decode_key(body)
    except Exception:
        return Opaque(f"{len(body):,} bytes that are no key")


def value(body: bytes) -> Any:
    """A value or an item, or what stands for it."""
    number = dicts.unpack_integer(body)
    if number is not None:
        return number
    if body[:1] == b"P":
        return _unpickled(body[1:], len(body))
    if body[:1] == b"F":
        return Opaque(f"{int.from_bytes(body[1:9], 'little'):,} bytes, in a file")
    return Opaque(f"{len(body):,} bytes")


def line(shown: Any) -> str:
    """On one line, cut where it is long."""
    text = repr(shown)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"


def plain(shown: Any) -> Any:
    """As it goes into JSON: what JSON does not have is its text."""
    try:
        msgspec.json.encode(shown)
    except Exception:
        return repr(shown)
    return shown
