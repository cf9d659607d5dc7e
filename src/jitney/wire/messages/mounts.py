"""Volumes in containers: between the server and the worker that mounts them."""

from __future__ import annotations

import msgspec

from jitney.values.volumes import Entry


class VolumeHeads(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions are the newest."""

    volume_ids: tuple[str, ...]


class VolumeHeadsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """In the order asked."""

    versions: tuple[int, ...]


class VolumeDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one version of another; from version 0: all of it."""

    volume_id: str
    old: int
    new: int


class VolumeDiffAnswer(msgspec.Struct, frozen=True, kw_only=True):
    puts: tuple[Entry, ...]
    removes: tuple[str, ...]


class MountedPut(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a container has made. `incoming`: of a file, under which name its content was left there."""

    entry: Entry
    incoming: str = ""


class MountCommit(msgspec.Struct, frozen=True, kw_only=True):
    """What a container has changed in a volume since the version that it saw. `key`: the same for one sent again."""

    container_id: str
    volume_id: str
    base: int
    puts: tuple[MountedPut, ...]
    removes: tuple[str, ...]
    key: str
