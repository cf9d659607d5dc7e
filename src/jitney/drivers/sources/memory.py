"""Sources that are only known, not made: for servers whose containers are fakes."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from jitney.core import sources
from jitney.errors import NotFoundError
from jitney.ports.blobs import BlobStore
from jitney.values import ids
from jitney.values.sources import SourceFile


class MemorySources:
    """`ports.sources.SourceStore`; the folders that it names do not exist. All were made at 0 ms."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.trees: dict[str, tuple[SourceFile, ...]] = {}

    async def missing(self, digests: Sequence[str]) -> list[str]:
        return await self._blobs.missing(digests)

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        return await self._blobs.put(contents)

    async def create(self, files: Sequence[SourceFile]) -> str:
        tree = sources.manifest(files)
        source_id = sources.source_id(tree)
        lost = await self._blobs.missing([file.digest for file in tree])
        if lost and source_id not in self.trees:
            raise NotFoundError(f"{len(lost):,} of the contents of this source are not here", hint="send them first")
        self.trees[source_id] = tree
        return source_id

    async def path(self, source_id: str) -> Path | None:
        ids.check(source_id, ids.SOURCE)
        return Path("/nowhere", source_id) if source_id in self.trees else None

    async def sweep(self, keep: AbstractSet[str], before_ms: int) -> int:
        gone = [source_id for source_id in self.trees if source_id not in keep and before_ms > 0]
        for source_id in gone:
            del self.trees[source_id]
        kept = {file.digest for tree in self.trees.values() for file in tree}
        await self._blobs.remove(sorted(set(await self._blobs.old(before_ms)) - kept))
        return len(gone)
