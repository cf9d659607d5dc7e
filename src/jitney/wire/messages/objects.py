"""Named objects: dicts, queues, volumes, secrets."""

from __future__ import annotations

import msgspec

from jitney.values.objects import ObjectKind, ObjectRecord


class ObjectOpen(msgspec.Struct, frozen=True, kw_only=True):
    """Find an object by its id or name, or make it. `ephemeral`: a new one without a name, kept by heartbeats."""

    kind: ObjectKind
    name: str = ""
    object_id: str = ""
    create_if_missing: bool = False
    ephemeral: bool = False


class ObjectList(msgspec.Struct, frozen=True, kw_only=True):
    """Objects with a name, newest first."""

    kind: ObjectKind
    limit: int = 1_000


class ObjectListed(msgspec.Struct, frozen=True, kw_only=True):
    objects: tuple[ObjectRecord, ...]


class ObjectDelete(msgspec.Struct, frozen=True, kw_only=True):
    """End an object, with all that is in it. By its id, or by kind and name."""

    kind: ObjectKind
    name: str = ""
    object_id: str = ""


class ObjectRename(msgspec.Struct, frozen=True, kw_only=True):
    """Give an object another name, which no other of its kind may have. Whatever goes by its id notices nothing."""

    kind: ObjectKind
    object_id: str
    new_name: str


class ObjectHeartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """These ephemeral objects are used: they live on for `EPHEMERAL_MS`."""

    object_ids: tuple[str, ...]


class ObjectHeard(msgspec.Struct, frozen=True, kw_only=True):
    """Those that are not there (any more)."""

    missing: tuple[str, ...]
