"""Entries of a dict. Keys and values are opaque bytes; see values.dicts for the one kind of value that is not.

`op` is a number that the client makes: a request that is sent again under the same one is done once. 0: whatever.
"""

from __future__ import annotations

import msgspec


class DictKey(msgspec.Struct, frozen=True, kw_only=True):
    """Ask about one key."""

    object_id: str
    key: bytes


class DictValue(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a key; None if there is none."""

    value: bytes | None


class DictPut(msgspec.Struct, frozen=True, kw_only=True):
    """Set a key, unless `skip_if_exists` and it is there. Answered when it is on disk."""

    object_id: str
    key: bytes
    value: bytes
    skip_if_exists: bool = False
    op: int = 0


class DictDone(msgspec.Struct, frozen=True, kw_only=True):
    """Whether anything was changed."""

    done: bool


class DictUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Set many keys: all of them or none."""

    object_id: str
    entries: list[tuple[bytes, bytes]]


class DictPop(msgspec.Struct, frozen=True, kw_only=True):
    """Take a key out."""

    object_id: str
    key: bytes
    op: int = 0


class DictSwap(msgspec.Struct, frozen=True, kw_only=True):
    """Set a key if its value is `expected`, byte for byte."""

    object_id: str
    key: bytes
    expected: bytes
    new: bytes
    op: int = 0


class DictSwapped(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it was; if not, the value that is there."""

    done: bool
    value: bytes | None = None


class DictIncrement(msgspec.Struct, frozen=True, kw_only=True):
    """Add to a small integer. A key that is not there counts as 0."""

    object_id: str
    key: bytes
    by: int = 1
    op: int = 0


class DictNumber(msgspec.Struct, frozen=True, kw_only=True):
    number: int


class DictRef(msgspec.Struct, frozen=True, kw_only=True):
    object_id: str


class DictScan(msgspec.Struct, frozen=True, kw_only=True):
    """A page of entries, in the order in which their keys were first set. `after`: where the last page ended."""

    object_id: str
    after: int = 0
    limit: int = 1_000
    values: bool = True


class DictPage(msgspec.Struct, frozen=True, kw_only=True):
    """(key, value) each; values are None if they were not asked for. `after` None: that was the last page."""

    entries: list[tuple[bytes, bytes | None]]
    after: int | None = None
