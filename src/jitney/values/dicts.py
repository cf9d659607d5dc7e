"""Dicts: keys and values are bytes to everybody but the client. See client.codec for what they mean.

The one value that the server can read is a small integer, so that it can add to it: `I` and eight bytes.
"""

from __future__ import annotations

import re
import struct

import msgspec
from msgspec.structs import replace

from jitney.errors import InvalidError
from jitney.values.calls import BY_FILE, INLINE_BYTES_MAX_DURABLE

KEY_BYTES_MAX = 64 * 1024
VALUE_BYTES_MAX = 100 * 1024 * 1024
INLINE_VALUE_BYTES_MAX = INLINE_BYTES_MAX_DURABLE  # larger values are in a file of home.blobs, by reference
UPDATE_ENTRIES_MAX = 10_000
ENTRIES_MAX = 1_000_000  # of one dict: its keys are in the server's memory
ENTRY_TTL_MS = 7 * 24 * 3_600_000  # since it was last read or written
PAGE_ENTRIES_MAX = 1_000
PAGE_BYTES_MAX = 8 * 1024 * 1024

SMALL_INTEGER = b"I"
INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1

_INTEGER = struct.Struct("<cq")
_REFERENCE_HEAD = 9  # 'F', and the size of what is in the file
_FILE = re.compile(r"(di-[0-9A-Za-z]{22})\.[0-9a-f]{32}")


class DictEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry as stored. `number` is of the entry for as long as it is there, and grows with each new one."""

    number: int
    key: bytes
    value: bytes | None  # None: left out, see `size`
    size: int
    used_at_ms: int

    def over(self, earlier: DictEntry) -> DictEntry:
        """This, with the value of an earlier state of the same entry."""
        return replace(self, value=earlier.value)


def pack_integer(number: int) -> bytes:
    """The value that a small integer is stored as.

    >>> unpack_integer(pack_integer(-7))
    -7
    """
    return _INTEGER.pack(SMALL_INTEGER, number)


def unpack_integer(value: bytes) -> int | None:
    """The small integer that `value` is; None if it is something else."""
    if len(value) != _INTEGER.size or value[:1] != SMALL_INTEGER:
        return None
    return int(_INTEGER.unpack(value)[1])


def value_file(dict_id: str, entropy: bytes) -> str:
    """The name of the file in home.blobs that has a large value.

    >>> value_file("di-0000000000000000000000", bytes(16))
    'di-0000000000000000000000.00000000000000000000000000000000'
    """
    assert len(entropy) == 16
    return f"{dict_id}.{entropy.hex()}"


def owner_of(file: str) -> str:
    """The dict whose value would be in a file of that name; '' if no value would."""
    match = _FILE.fullmatch(file)
    return match[1] if match else ""


def referenced(value: bytes) -> str:
    """The name of the file that `value` is in; '' if it is inline. Whatever may be in it."""
    if value[:1] != BY_FILE:
        return ""
    name = value[_REFERENCE_HEAD:].decode("ascii", "replace")
    return name if _FILE.fullmatch(name) else ""


def check_entry(dict_id: str, key: bytes, value: bytes) -> None:
    """Refuse what cannot be an entry.

    Raises:
        InvalidError: the key or the value is too large, or in a file that is not of this dict.
    """
    check_key(key)
    if len(value) > INLINE_VALUE_BYTES_MAX:
        raise InvalidError(
            f"a value of {len(value):,} bytes is sent inline; the limit is {INLINE_VALUE_BYTES_MAX:,}",
            hint="larger values go by a file: use the SDK, on the server's machine",
        )
    if value[:1] == BY_FILE and owner_of(referenced(value)) != dict_id:
        raise InvalidError("a value in a file that is not of this dict")
    if value[:1] == BY_FILE and int.from_bytes(value[1:_REFERENCE_HEAD], "little") > VALUE_BYTES_MAX:
        raise InvalidError(
            f"the value has {int.from_bytes(value[1:_REFERENCE_HEAD], 'little'):,} bytes; the limit is "
            f"{VALUE_BYTES_MAX:,}",
            hint="put it into a Volume, and its path into the dict",
        )


def check_key(key: bytes) -> None:
    """Refuse a key that is too large.

    Raises:
        InvalidError: it is.
    """
    if len(key) > KEY_BYTES_MAX:
        raise InvalidError(
            f"a key of {len(key):,} bytes is over the limit of {KEY_BYTES_MAX:,}",
            hint="use a digest of it as the key: hashlib.sha256(...).digest()",
        )
