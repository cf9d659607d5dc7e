"""Volumes: what is in them, and how files come and go.

To put files: ask which contents are missing, send those block by block (several requests at once), then commit.
A client that can write to the folder of `VolumeDetail` places large files there itself, and asks to adopt them.
`version=None` is the newest.
"""

from __future__ import annotations

import msgspec

from jitney.values.volumes import Content, Entry, Retention, Version, VolumeInfo


class VolumeRef(msgspec.Struct, frozen=True, kw_only=True):
    """A volume, by its id: `object.open` has it for a name."""

    volume_id: str


class VolumeList(msgspec.Struct, frozen=True, kw_only=True):
    """Volumes with a name, newest first."""

    limit: int = 1_000


class VolumeListed(msgspec.Struct, frozen=True, kw_only=True):
    volumes: tuple[VolumeInfo, ...]


class VolumeDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A volume. `folder`: where its contents are on the server's machine; '' where that is no matter of the peer."""

    info: VolumeInfo
    folder: str = ""


class VolumeEntries(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a folder ('' is the top), or below it; or the one entry that `path` is. From behind `after` on."""

    volume_id: str
    path: str = ""
    version: int | None = None
    recursive: bool = False
    after: str = ""
    limit: int = 1_000


class VolumeEntriesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Folders come before what is in them. `after`: where the next page begins; '' where there is none."""

    version: int
    entries: tuple[Entry, ...]
    after: str = ""


class VolumeStat(msgspec.Struct, frozen=True, kw_only=True):
    """What is at a path; of a file, with its blocks."""

    volume_id: str
    path: str
    version: int | None = None


class VolumeStatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    entry: Entry


class VolumeHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Versions, newest first, below `before`."""

    volume_id: str
    before: int | None = None
    limit: int = 100


class VolumeHistoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    versions: tuple[Version, ...]
    retention: Retention | None = None  # which of them stay


class VolumeKeep(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions stay. None leaves one as it is; both: as the server has it for all. `is_question`: only ask."""

    volume_id: str
    versions: int | None = None
    days: int | None = None
    is_question: bool = False


class VolumeMissing(msgspec.Struct, frozen=True, kw_only=True):
    """Which blocks of these contents does the server not have? It begins those that are not whole."""

    volume_id: str
    contents: tuple[Content, ...]


class MissingBlocks(msgspec.Struct, frozen=True, array_like=True):
    """The blocks of a content that have to be sent, from 0. Of an empty content: 0."""

    digest: str
    positions: tuple[int, ...]


class VolumeMissingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Contents that are there whole are not in it."""

    missing: tuple[MissingBlocks, ...]


class BlockData(msgspec.Struct, frozen=True, array_like=True):
    """One block of a content."""

    digest: str
    position: int
    data: memoryview  # as in `VolumeReadAnswer`, of the frame: what is as large is not copied


class VolumePutBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks, of one or many contents; together well below the limit of a frame."""

    volume_id: str
    blocks: tuple[BlockData, ...]


class VolumeCommit(msgspec.Struct, frozen=True, kw_only=True):
    """Make a version. `base`: the one that its author saw (None: the newest). Answered by `values.volumes.Committed`.

    Files have their `blocks`, unless the volume's contents have had them before. Folders above them are made.
    `key`: of the client's choice; a commit that is sent again with it is done once.
    """

    volume_id: str
    base: int | None = None
    puts: tuple[Entry, ...] = ()
    removes: tuple[str, ...] = ()
    message: str = ""
    key: str = ""
    new_only: bool = False  # refuse to replace files that are there


class IncomingFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that a client has placed in `incoming`: 32 hexadecimal digits are its name."""

    name: str
    size: int


class VolumeAdopt(msgspec.Struct, frozen=True, kw_only=True):
    """Make contents of placed files."""

    volume_id: str
    files: tuple[IncomingFile, ...]


class VolumeAdopted(msgspec.Struct, frozen=True, kw_only=True):
    """In the order asked."""

    contents: tuple[Content, ...]


class VolumeRead(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a file, of at most one block (8 MiB)."""

    volume_id: str
    path: str
    version: int | None = None
    offset: int = 0
    length: int = 8 * 1024 * 1024


class VolumeReadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`size`: of the whole file."""

    version: int
    size: int
    data: memoryview


class VolumeCopy(msgspec.Struct, frozen=True, kw_only=True):
    """Copy inside a volume, without sending anything: into `target` if it is a folder, else to it.

    Answered, as the next two, by `values.volumes.Committed`.
    """

    volume_id: str
    sources: tuple[str, ...]
    target: str
    recursive: bool = False


class VolumeMove(msgspec.Struct, frozen=True, kw_only=True):
    """Move a file or a folder to another path. `into`: if that is a folder, then into it."""

    volume_id: str
    path: str
    target: str
    into: bool = False


class VolumeRemove(msgspec.Struct, frozen=True, kw_only=True):
    """Remove a file, or (`recursive`) a folder with all that is in it."""

    volume_id: str
    path: str
    recursive: bool = False


class VolumeRestore(msgspec.Struct, frozen=True, kw_only=True):
    """Make a version with the content of an earlier one. Answered by `values.volumes.Committed`."""

    volume_id: str
    version: int
    message: str = ""
    key: str = ""


class VolumeMounted(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as mounted in the container that asks, by the path of the mount."""

    path: str


class VolumeReloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The version that the container sees now."""

    version: int
