"""Volumes in containers and in steps of builds: between the server and the worker that mounts them."""

from __future__ import annotations

import msgspec

from jitney.values.volumes import Entry


class VolumeHeads(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions are the newest. `container_id`: it gets those, which stay as long as it has them. Without one,
    volumes that are not there are an error."""

    volume_ids: tuple[str, ...]
    container_id: str = ""


class VolumeHeadsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """In the order asked."""

    versions: tuple[int, ...]


class VolumeDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one version of another; from version 0: all of it. A page of it, from behind the path `after` on."""

    volume_id: str
    old: int
    new: int
    after: str = ""


class VolumeDiffAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`after`: where the next page begins; '' where there is none. `old_is_gone`: there is nothing to go by but all."""

    puts: tuple[Entry, ...]
    removes: tuple[str, ...]
    after: str = ""
    old_is_gone: bool = False


class MountedPut(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was made in a mount. `incoming`: of a file, under which name its content was left there."""

    entry: Entry
    incoming: str = ""


class MountCommit(msgspec.Struct, frozen=True, kw_only=True):
    """What a container, or a step of a build, has changed in a volume since the version that it saw. `key`: the same
    for one sent again. `message`: of the version; "" = it has that of a container.

    Large ones come in parts with one key: `more` follow, and the last one commits them all, as one version.
    """

    container_id: str = ""
    volume_id: str
    base: int
    puts: tuple[MountedPut, ...]
    removes: tuple[str, ...]
    key: str
    message: str = ""
    part: int = 0
    more: bool = False
