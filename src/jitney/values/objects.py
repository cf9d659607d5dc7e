"""Named objects: what a dict, a queue, a volume and a secret have in common.

An object without a name is ephemeral: it lives as long as somebody sends heartbeats.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from jitney.errors import InvalidError
from jitney.values import ids

NAME_CHARS_MAX = 64
OBJECTS_MAX = 100_000  # of all kinds, on one server
EPHEMERAL_MS = 300_000  # without a heartbeat, until an ephemeral object ends
HEARTBEAT_S = 60.0

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class ObjectKind(StrEnum):
    """What an object is."""

    DICT = "dict"
    QUEUE = "queue"
    VOLUME = "volume"
    SECRET = "secret"

    @property
    def prefix(self) -> str:
        """How its ids begin."""
        return PREFIXES[self]


PREFIXES = {
    ObjectKind.DICT: ids.DICT,
    ObjectKind.QUEUE: ids.QUEUE,
    ObjectKind.VOLUME: ids.VOLUME,
    ObjectKind.SECRET: ids.SECRET,
}


class ObjectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An object as recorded. Times are Unix ms."""

    object_id: str
    kind: ObjectKind
    name: str = ""  # '': ephemeral
    created_at_ms: int = 0
    heartbeat_at_ms: int = 0

    @property
    def is_ephemeral(self) -> bool:
        """Whether it ends when nobody sends heartbeats."""
        return not self.name

    def has_ended(self, now_ms: int) -> bool:
        """Whether it is ephemeral, and nobody has said for too long that it is used."""
        return self.is_ephemeral and now_ms - self.heartbeat_at_ms >= EPHEMERAL_MS


def check_name(name: str, kind: ObjectKind) -> str:
    """`name`, if an object may have it.

    >>> check_name("model-weights.v2", ObjectKind.VOLUME)
    'model-weights.v2'

    Raises:
        InvalidError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"{name[: NAME_CHARS_MAX + 1]!r} cannot be the name of a {kind}",
            hint=f"use 1 to {NAME_CHARS_MAX} letters, digits, '.', '_' and '-', of which '.' and '-' are not the first",
        )
    return name


def kind_of(object_id: str) -> ObjectKind:
    """What the object with that id is.

    Raises:
        InvalidError: it is no id of an object.
    """
    for kind, prefix in PREFIXES.items():
        if ids.is_id(object_id, prefix):
            return kind
    raise InvalidError(f"{object_id[:64]!r} is not an id of a dict, queue, volume or secret")
