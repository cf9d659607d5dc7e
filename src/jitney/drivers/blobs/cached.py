"""Contents that are far away, with a bounded part of them near: for a store that answers in milliseconds, or fails.

What is near is far too: it is put there first, and removed there last. So what is near counts as there, without asking;
and when what is near is damaged, thrown out or cannot be kept, it is fetched again. An error of the near store is told
in the log alone, as long as the far one has the content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jitney.errors import NotFoundError, StorageError
from jitney.ports.blobs import BlobStore

log = logging.getLogger("jitney.blobs")

NEAR_BYTES_MAX = 1024**3
TRIM_PART = 16  # it is looked at again when so much of the bound was added: it may be over it by that


class Near(BlobStore, Protocol):
    """A store that can be kept small."""

    async def trim(self, bytes_max: int) -> int:
        """Remove what was not read for longest, until the rest has so many bytes at most: how many."""


class CachedBlobs:
    """`ports.blobs.BlobStore`. `near` is for this alone, and holds nothing that `far` was not given by this.

    What is removed while something else is put or fetched could come back to the near store: so nothing is kept there
    that was on its way when a removal began or ended.
    """

    def __init__(self, far: BlobStore, near: Near, *, near_bytes_max: int = NEAR_BYTES_MAX) -> None:
        self._far = far
        self._near = near
        self._near_bytes_max = near_bytes_max
        self._untrimmed = near_bytes_max  # the first time at once: an earlier run may have had another bound
        self._changing = asyncio.Lock()  # what is near
        self._removals = 0  # begun and ended

    async def missing(self, digests: Sequence[str]) -> list[str]:
        far = await self._near.missing(digests)
        return await self._far.missing(far) if far else []

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        removals = self._removals
        digests = await self._far.put(contents)
        await self._keep(contents, removals)
        return digests

    async def read(self, digest: str) -> bytes:
        try:
            return await self._near.read(digest)
        except NotFoundError:
            pass
        except StorageError as error:
            log.warning("blob_not_read_near digest=%s reason=%s", digest, error.message)
        return await self._fetch(digest)

    async def place(self, digest: str, target: Path, *, executable: bool = False) -> None:
        try:
            await self._near.place(digest, target, executable=executable)
            return
        except NotFoundError:
            await self._fetch(digest)
        try:
            await self._near.place(digest, target, executable=executable)
        except NotFoundError:  # it was not kept
            await self._far.place(digest, target, executable=executable)

    async def remove(self, digests: Sequence[str]) -> None:
        async with self._changing:
            self._removals += 1
            try:
                await self._near.remove(digests)
                await self._far.remove(digests)
            finally:
                self._removals += 1

    async def old(self, before_ms: int) -> list[str]:
        return await self._far.old(before_ms)

    async def _fetch(self, digest: str) -> bytes:
        removals = self._removals
        content = await self._far.read(digest)
        await self._keep([content], removals)
        return content

    async def _keep(self, contents: Sequence[bytes], removals: int) -> None:
        async with self._changing:
            if removals != self._removals:
                return
            try:
                await self._near.put(contents)
                self._untrimmed += sum(map(len, contents))
                if self._untrimmed * TRIM_PART >= self._near_bytes_max:
                    self._untrimmed = 0
                    await self._near.trim(self._near_bytes_max)
            except StorageError as error:
                log.warning("blobs_not_kept_near count=%d reason=%s", len(contents), error.message)
