"""Versions of volumes: which entries each has. A part of the store (ports.store has its contract).

An entry is kept once, with the versions of which it is: so a commit writes as much as it changes, and every version can
be listed. Further, for every driver:

 1. A commit is one version more, or none where everything was so already. It is whole or not there.
 2. Commits of one volume come one after the other; each is merged with the newest version by `core.volumes.merge`.
 3. A commit that has a key and is sent again gives what it gave the first time.
 4. A version never changes, and is there as long as its volume, or until it is pruned: which the newest one never is.
    Those that stay have all that they had. What is asked of one that is gone is not defined, but for `version`.
 5. The contents that entries refer to are known by their blocks, from the commit that brought them, until
    `forget_contents`; which never forgets one that an entry of any version refers to. Workspaces know nothing of one
    another, also not by what is referred to.
 6. Entries are listed in the order of (folder, name), by code points, those of the folder itself before those below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from jitney.ports.contents import Block
from jitney.values.volumes import CHANGES_MAX, Committed, Content, Entry, Head, Retention, Version

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
    changes_max: int = CHANGES_MAX


class Restore(NamedTuple):
    """Which version is to be the newest again."""

    volume_id: str
    version: int
    message: str = ""
    at_ms: int = 0
    key: str = ""


class Diff(NamedTuple):
    """From one version to another: what to put and what to remove, each in the order of (folder, name).

    `after`: behind which path the next page begins; '' where this is the last one.
    """

    puts: list[Entry]
    removes: list[str]
    after: str = ""


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

    async def diff(self, volume_id: str, old: int, new: int, *, after: str = "", limit: int = LIST_MAX) -> Diff:
        """What makes version `new` of version `old`, which may be the later one: at most `limit` paths a page."""

    async def prune(self, volume_id: str, versions: Sequence[int]) -> int:
        """Drop versions: how many of them were there, and are not the newest. What only they had goes with `sweep`."""

    async def retention(self, volume_id: str) -> Retention | None:
        """Which versions of a volume are to be kept; None: as the server has it for all."""

    async def keep(self, volume_id: str, retention: Retention | None) -> None:
        """Set that."""

    async def delete(self, volume_id: str) -> bool:
        """Forget a volume with all its versions: whether there was anything. What it was made of goes with `sweep`."""

    async def sweep(self, *, limit: int = 10_000) -> int:
        """Drop rows of volumes and versions that are gone: how many, at most `limit`. 0: none are left."""

    async def known(self) -> list[str]:
        """The ids of all volumes that have a version, sorted."""

    async def contents(self, workspace: str, digests: Sequence[str]) -> list[Content]:
        """Those of these contents that are known, in the order asked."""

    async def blocks(self, workspace: str, blocks: Sequence[bytes]) -> dict[bytes, Block]:
        """Where known contents have these blocks. Only whole blocks (BLOCK_BYTES) are found."""

    async def referenced(self, workspace: str, digests: Sequence[str]) -> set[str]:
        """Those that an entry of any version of any volume of the workspace refers to."""

    async def forget_contents(self, workspace: str, digests: Sequence[str]) -> None:
        """Forget the blocks of contents that no entry refers to; others are passed over."""
