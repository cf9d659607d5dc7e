"""Volumes: folders that outlive containers, in versions.

A version is its parent and what changed. An entry is a file, a folder or a symbolic link at a path; a file names its
content, which is a list of blocks: of `BLOCK_BYTES` each, but for the last. So a file of any size can be sent and
checked block by block, and what is there already is not sent.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from jitney.errors import InvalidError

WORKSPACE = "main"  # whose contents are kept together; there is one

BLOCK_BYTES = 8 * 1024 * 1024
DIGEST_BYTES = 32  # SHA-256
CHANGES_MAX = 100_000  # of one commit, or of one part of what a container has written
CONFLICTS_MAX = 1_000  # that one answer lists; the others are counted
MESSAGE_CHARACTERS_MAX = 1_000
PREFETCH_MAX = 100  # patterns of one mount
PATTERN_CHARACTERS_MAX = 1_000
KEPT_VERSIONS_MAX = 1_000_000
KEPT_DAYS_MAX = 36_500
SIZE_MAX = 1 << 50
MTIME_NS_MAX = (1 << 63) - 1
FILE_MODE = 0o644
DIR_MODE = 0o755
MODE_MAX = 0o777  # no set-id bits, no sticky bit: they mean nothing outside the machine that set them


class Kind(StrEnum):
    """What is at a path."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds. `digest` (hexadecimal) is made of the digests of its blocks, and the size."""

    digest: str
    size: int
    blocks: bytes = b""  # SHA-256 of each block, one after the other

    @property
    def count(self) -> int:
        """How many blocks it has."""
        return (self.size + BLOCK_BYTES - 1) // BLOCK_BYTES

    def block(self, index: int) -> bytes:
        """The digest of a block."""
        return self.blocks[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def length(self, index: int) -> int:
        """The bytes of a block."""
        return min(BLOCK_BYTES, self.size - index * BLOCK_BYTES)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A file, a folder or a symbolic link of a version.

    `path` is relative, with '/' between names. Listings leave `blocks` out: `volume.stat` has them.
    """

    path: str
    kind: Kind = Kind.FILE
    size: int = 0
    mode: int = FILE_MODE
    mtime_ns: int = 0
    digest: str = ""  # of a file's content
    blocks: bytes = b""  # SHA-256 of each of its blocks
    target: str = ""  # of a symbolic link

    @property
    def content(self) -> Content:
        """What a file holds."""
        return Content(digest=self.digest, size=self.size, blocks=self.blocks)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One commit of a volume. Version 0, which is empty, is not recorded."""

    version: int
    parent: int
    at_ms: int
    message: str = ""
    puts: int = 0  # entries that it made or replaced
    removes: int = 0
    files: int = 0  # in the volume then
    size: int = 0  # bytes of all its files
    restored: int | None = None  # the version whose content it has again


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions of a volume stay: the `versions` newest ones, and all that were the newest in the last `days`."""

    versions: int = 10
    days: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.versions <= KEPT_VERSIONS_MAX:
            raise InvalidError(f"of a volume, from 1 to {KEPT_VERSIONS_MAX:,} versions are kept, not {self.versions:,}")
        if not 0 <= self.days <= KEPT_DAYS_MAX:
            raise InvalidError(f"versions are kept for 0 to {KEPT_DAYS_MAX:,} days, not {self.days:,}")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of a volume."""

    volume_id: str
    version: int = 0
    files: int = 0
    size: int = 0
    updated_at_ms: int = 0


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as listed."""

    volume_id: str
    name: str
    version: int
    files: int
    size: int
    created_at_ms: int
    updated_at_ms: int = 0


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit did. `changed` is False where everything was so already: then `version` is no new one.

    `conflicts`: paths that others had changed since the version that the commit was based on, and that it replaced
    or removed (or, below a folder that it removed, left to them). At most CONFLICTS_MAX are listed.
    """

    version: int
    changed: bool = True
    puts: int = 0
    removes: int = 0
    conflicts: tuple[str, ...] = ()
    conflict_count: int = 0


class VolumeMount(msgspec.Struct, frozen=True, kw_only=True):
    """A volume at a path in the containers of a function."""

    path: str
    volume_id: str
    read_only: bool = False
    sub_path: str = ""  # of the volume: only this folder of it
    version: int | None = None  # this one, read-only; None: the newest when a container starts
    prefetch: tuple[str, ...] = ()  # files that match are brought into memory as a container starts

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path.startswith("/") or self.path == "/" or {"", ".", ".."} & set(parts[1:]) or "\0" in self.path:
            raise InvalidError(f"a volume is mounted at an absolute path that is not '/', not at {self.path!r}")
        if len(self.prefetch) > PREFETCH_MAX or any(len(one) > PATTERN_CHARACTERS_MAX for one in self.prefetch):
            raise InvalidError(f"prefetch has at most {PREFETCH_MAX} patterns of {PATTERN_CHARACTERS_MAX} characters")
        if self.version is not None and not self.read_only:
            raise InvalidError("a version of a volume can only be mounted read-only")


class Mounted(msgspec.Struct, frozen=True, kw_only=True):
    """A volume laid out on a machine, for one container."""

    target: str  # where it is in the container
    volume_id: str
    version: int
    layers: tuple[str, ...]  # folders of the volume's on this machine, lowest first
    upper: str = ""  # the folder for what the container writes; "": it is read-only
    sub_path: str = ""

    @property
    def read_only(self) -> bool:
        """Whether the container may only read."""
        return not self.upper
