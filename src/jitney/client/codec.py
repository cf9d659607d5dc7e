"""Keys and values of dicts, and items of queues, as bytes.

Keys compare by their bytes, on a server that never reads them. So a key has one form wherever it is made: `K` and
msgpack for str, bytes, int, float, bool, None and tuples of these; for anything else `P` and a pickle of a fixed
protocol that does not depend on which parts of the key are one object. `1`, `1.0` and `True` are three keys.

Values are payloads (runner.payload), but for integers of 64 bits, which the server can add to (values.dicts).
"""

from __future__ import annotations

import io
import os
import pickle
from typing import TYPE_CHECKING, Any

import msgspec

from jitney.client import results
from jitney.client import session as sessions
from jitney.errors import DeserializationError, InvalidError, SerializationError
from jitney.runner import payload, state
from jitney.values import dicts, queues

if TYPE_CHECKING:
    from jitney.client.session import Session

KEY_PROTOCOL = 4
PLAIN_KEY, PICKLED_KEY = b"K", b"P"
_WORD_MAX = 1 << 64

_pack = msgspec.msgpack.Encoder().encode


def encode_key(key: Any) -> bytes:
    """A key as bytes: equal keys give equal bytes.

    >>> encode_key(("a", 1)) == encode_key(("a", 1)), encode_key(1) == encode_key(True)
    (True, False)

    Raises:
        SerializationError: it cannot be pickled. InvalidError: it is too large.
    """
    if type(key) is str or _is_plain(key):
        body = PLAIN_KEY + _pack(key)
    else:
        body = PICKLED_KEY + _pickled(key)
    dicts.check_key(body)
    return body


def _is_plain(key: Any) -> bool:
    kind = type(key)
    if kind is int:
        return bool(-(_WORD_MAX >> 1) <= key < _WORD_MAX)
    if kind is tuple:
        return all(map(_is_plain, key))
    return kind is str or kind is bytes or kind is float or kind is bool or key is None


def _pickled(key: Any) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, KEY_PROTOCOL)
    pickler.fast = True  # no memo: a part that occurs twice is written twice, be it one object or two
    try:
        pickler.dump(key)
    except Exception as error:
        kind = f"{type(key).__module__}.{type(key).__qualname__}".replace("builtins.", "")
        raise SerializationError(
            f"a key of type {kind} cannot be pickled ({type(error).__name__}: {error})",
            hint="use str, int, bytes, or a tuple of them",
        ) from error
    return file.getvalue()


def decode_key(body: bytes) -> Any:
    """The key of some bytes.

    Raises:
        DeserializationError: it cannot be unpickled here.
    """
    try:
        if body[:1] == PLAIN_KEY:
            return _with_tuples(msgspec.msgpack.decode(body[1:]))
        if body[:1] == PICKLED_KEY:
            return pickle.loads(body[1:])
    except Exception as error:
        raise DeserializationError(
            f"a key cannot be unpickled here: {type(error).__name__}: {error}",
            hint="the module that its class comes from must be installed on this side too",
        ) from error
    raise DeserializationError(f"a key of an unknown kind ({body[:1]!r}, {len(body):,} bytes)")


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if type(value) is list else value


def encode_value(session: Session, dict_id: str, value: Any) -> bytes:
    """A value of a dict; a large one is in a file then, synced to disk.

    Raises:
        SerializationError: it cannot be pickled. InvalidError: it is too large.
    """
    if type(value) is int and dicts.INTEGER_MIN <= value <= dicts.INTEGER_MAX:
        return dicts.pack_integer(value)
    name = dicts.value_file(dict_id, os.urandom(16))
    body = _encode(value, "the value", blobs=session.blobs, inline_max=dicts.INLINE_VALUE_BYTES_MAX, name=name)
    try:
        dicts.check_entry(dict_id, b"", body)
    except InvalidError:
        _remove(session, body)
        raise
    return body


def _remove(session: Session, body: bytes) -> None:
    file = dicts.referenced(body)
    if file:
        try:
            os.unlink(os.path.join(session.blobs, file))
        except OSError:
            pass


def encode_item(value: Any) -> bytes:
    """An item of a queue.

    Raises:
        SerializationError: it cannot be pickled. InvalidError: it is too large.
    """
    body = _encode(value, "the item", blobs=None, inline_max=0, name="")
    queues.check_items([body])
    return body


def _encode(value: Any, what: str, *, blobs: str | None, inline_max: int, name: str) -> bytes:
    try:
        return payload.encode(
            value, pool=None, blobs=blobs, inline_max=inline_max, name=name, main_by_value=state.config is None
        )
    except payload.UnpicklableError as error:
        raise SerializationError(f"{what}: {error}", hint="put plain data, or what pickle takes") from error.__cause__


def decode_value(body: bytes) -> Any:
    """A value of a dict, or an item of a queue.

    Raises:
        DeserializationError: it cannot be unpickled here.
    """
    if body[:1] == dicts.SMALL_INTEGER:
        return dicts.unpack_integer(body)
    return results.decode(sessions.current(), body)
