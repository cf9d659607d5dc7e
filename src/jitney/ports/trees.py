"""Versions of volumes laid out as folders of this machine, for mounts to be made of.

A version is a stack of layers: each has what changed since the one below it, and a mark where something was removed, as
overlay mounts have them. So a commit adds a layer, and a mount of any size costs the same. The contract:

 1. What `layers` names is there, whole, and is never changed; files in it are those of the contents, not copies.
 2. `extend` and `restack` are atomic: after a kill the volume is at its old version or at the new one.
 3. They may be repeated: what is laid out already is left alone.
 4. `changes` and `open` read a folder that hostile code is writing to: no link in it is followed, and what no volume
    can hold is passed over. A file that changes meanwhile looks otherwise afterwards (Stamp).
 5. A version that is not in the stack is laid out on its own by `lay_out`.
 6. `collect` removes what neither the stack has nor anybody in `in_use`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from jitney.values.volumes import Entry


class Stamp(NamedTuple):
    """How a path looked when it was read: the same stamp, the same content."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, seen: os.stat_result) -> Stamp:
        """That of a file."""
        return cls(seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


class Changes(NamedTuple):
    """What a writable layer has that was not known. `files`: the paths of those puts that are files."""

    puts: list[Entry]  # without digests
    removes: list[str]
    files: set[str]
    stamps: dict[str, Stamp]  # of everything in the layer

    @property
    def is_empty(self) -> bool:
        """Whether nothing changed."""
        return not self.puts and not self.removes


class Trees(Protocol):
    """See the module."""

    def laid_out(self, volume_id: str) -> int:
        """The version that the stack of a volume is at; 0: none."""

    def layers(self, volume_id: str, version: int) -> tuple[str, ...]:
        """Names of the folders of a version (below `folder`), lowest first; () if it is not laid out."""

    def folder(self, volume_id: str) -> Path:
        """Where the layers of a volume are; made if it is not there."""

    async def extend(self, volume_id: str, version: int, puts: Sequence[Entry], removes: Sequence[str]) -> None:
        """Put a layer on the stack, which brings it to `version`.

        Raises:
            StorageFullError: the disk is full; nothing has changed.
            NotFoundError: a content is not here.
        """

    async def restack(self, volume_id: str, version: int, entries: Sequence[Entry]) -> None:
        """Make the stack anew, of one layer with all of a version."""

    async def lay_out(self, volume_id: str, version: int, entries: Sequence[Entry]) -> None:
        """Lay out one version on its own."""

    async def changes(self, upper: Path, known: Mapping[str, Stamp]) -> Changes:
        """What is in a writable layer and was not, or looked otherwise."""

    def open(self, upper: Path, path: str) -> int:
        """A descriptor for reading a file of a writable layer, whatever others put in its place meanwhile.

        Raises:
            OSError: there is no file at that path (any more).
        """

    async def collect(self, volume_id: str, in_use: Collection[str]) -> int:
        """Remove layers that nobody has; how many."""

    async def reap(self) -> int:
        """Remove what earlier runs left half-made; how many."""

    async def remove(self, volume_id: str) -> None:
        """The volume is gone: remove all of it."""
