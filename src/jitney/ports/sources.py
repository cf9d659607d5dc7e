"""Trees of files that containers import from.

The contract, for every driver:

 1. A tree is there whole or not at all: a container never sees one that is being made, and one that a loss of power
    damaged is made anew from its contents, or counts as not there.
 2. `create` is idempotent, also from several sides at once: equal trees have one id and one folder.
 3. Nothing outside the driver's own folders is written, whatever the paths say (core.sources has the rules).
 4. Files are read-only and their own: user code that changes one changes no other source. Folders may be written
    to (Python keeps its bytecode there).
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from jitney.values.sources import SourceFile


class SourceStore(Protocol):
    """Sources by id."""

    async def missing(self, digests: Sequence[str]) -> list[str]:
        """Contents that have to be put before a tree of them can be made."""

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        """Keep contents: their digests, in order."""

    async def create(self, files: Sequence[SourceFile]) -> str:
        """Make a tree of files whose contents were put: its id ('so-...').

        Raises:
            InvalidError: a path that may not be, or files in each other's way.
            UnsupportedError: an absolute path outside `/root`.
            NotFoundError: a content is missing.
            StorageFullError: the disk is full.
            BucketError: the contents are in a bucket, and it cannot be used.
        """

    async def path(self, source_id: str) -> Path | None:
        """The import root of a source; None if there is none of that id (any more).

        Raises:
            InvalidError: this is no id of a source.
        """

    async def sweep(self, keep: AbstractSet[str], before_ms: int) -> int:
        """Remove sources that are not in `keep` and were made before, or created again: how many.

        Contents that no source has, and that were put before, go too: at once where a source was removed, and within a
        day where they never were in one. Contents of a source that is being made stay. A client that was told before
        that these are not missing gets NotFoundError from `create`, and asks again.
        """
