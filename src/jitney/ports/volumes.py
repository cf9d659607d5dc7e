"""Versions of volumes: which entries each has. A part of the store (ports.store has its contract).

An entry is kept once, with the versions of which it is: so a commit writes as much as it changes, and every version can
be listed. Further, for every driver:

 1. A commit is one version more, or none where everything was so already. It is whole or not there.
 2. Commits of one volume come one after the other; each is merged with the newest version by `core.volumes.merge`.
 3. A commit that has a key and is sent again gives what it gave the first time.
 4. A version never changes, and is there as long as its volume.
 5. The contents that entries refer to are known by their blocks, from the commit that brought them, until
    `forget_contents`; which never forgets one that an entry of any version refers to.
 6. Entries are listed in the order of (folder, name), by code points, those of the folder itself before those below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from jitney.ports.contents import Block
from jitney.values.volumes import Committed, Content, Entry, Head, Version

LIST_MAX = 10_000  # entries of one page


class Commit(NamedTuple):
    """What is to be committed. `contents` are those of the files put."""

    volume_id: str
    base: int
    puts: Sequence[Entry]
    removes: Sequence[str]
    contents: Sequence[Content] = ()
    message: str = ""
    at_ms: int = 0
    key: str = ""  # of the author's choice
    workspace: str = "main"
    new_only: bool = False  # where a file is, none is put


class Restore(NamedTuple):
    """Which version is to be the newest again."""

    volume_id: str
    version: int
    message: str = ""
    at_ms: int = 0
    key: str = ""


class Diff(NamedTuple):
    """From one version to another: what to put and what to remove, in order."""

    puts: list[Entry]
    removes: list[str]


class VolumeStore(Protocol):
    """Volumes by id. One that was never committed to is at version 0, and empty."""

    async def commit(self, commit: Commit) -> Committed:
        """Record a version.

        Raises:
            InvalidError: the changes cannot be (core.volumes).
            NotFoundError: there is no version `base`.
            AlreadyExistsError: `new_only`, and there is a file that a put would replace.
        """

    async def restore(self, restore: Restore) -> Committed:
        """Record a version that has the entries of an earlier one.

        Raises:
            NotFoundError: there is no such version.
        """

    async def heads(self, volume_ids: Sequence[str]) -> list[Head]:
        """The newest versions, in the order asked."""

    async def version(self, volume_id: str, version: int) -> Version | None:
        """What is recorded of a version; None if there is none. Version 0 is always there."""

    async def history(self, volume_id: str, *, before: int | None = None, limit: int = 100) -> list[Version]:
        """Versions, newest first, below `before`; without version 0."""

    async def entry(self, volume_id: str, version: int, path: str) -> Entry | None:
        """What a version has at a path, without blocks; None if nothing."""

    async def entries(
        self,
        volume_id: str,
        version: int,
        folder: str = "",
        *,
        recursive: bool = False,
        after: str = "",
        limit: int = 1_000,
    ) -> list[Entry]:
        """What a version has in a folder ('': the top), without blocks; from behind the path `after` on."""

    async def diff(self, volume_id: str, old: int, new: int) -> Diff:
        """What makes version `new` of version `old`, which may be the later one."""

    async def delete(self, volume_id: str) -> bool:
        """Forget a volume with all its versions: whether there was anything. What it was made of goes with `sweep`."""

    async def sweep(self, *, limit: int = 10_000) -> int:
        """Drop rows of volumes that were deleted: how many, at most `limit`."""

    async def known(self) -> list[str]:
        """The ids of all volumes that have a version, sorted."""

    async def contents(self, workspace: str, digests: Sequence[str]) -> list[Content]:
        """Those of these contents that are known, in the order asked."""

    async def blocks(self, workspace: str, blocks: Sequence[bytes]) -> dict[bytes, Block]:
        """Where known contents have these blocks. Only whole blocks (BLOCK_BYTES) are found."""

    async def referenced(self, digests: Sequence[str]) -> set[str]:
        """Those that an entry of any version of any volume refers to."""

    async def forget_contents(self, workspace: str, digests: Sequence[str]) -> None:
        """Forget the blocks of contents that no entry refers to; others are passed over."""
