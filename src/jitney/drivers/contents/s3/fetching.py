"""Contents brought from a bucket into the folder of this machine, where mounts find them as files.

Whoever asked has a content as soon as it is whole; that it gets to the disk is seen to afterwards (`place`): a start
that waits for gigabytes should not wait for the disk too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from jitney.drivers.contents.s3.place import Place, Syncing
from jitney.drivers.contents.s3.reading import Reader
from jitney.drivers.disk import explain
from jitney.drivers.s3.bucket import Bucket, Settings
from jitney.drivers.together import all_of
from jitney.ports.contents import Stored, check_digest

FILES_AT_ONCE = 16
TIDY_EVERY_S = 3600.0


class Fetcher:
    """See the module. Who asks for the same content at the same time waits for the one that is on its way.

    The bucket is opened with the first content that is not here: a worker without volumes needs none.
    """

    def __init__(
        self, settings: Settings | Bucket, folder: Path, workspace: str, *, now_s: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._opened: Reader | None = None
        self._root = folder
        self._workspace = workspace
        self._place = Place(folder)
        self._now_s = now_s
        self._tidied_s = now_s()
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(FILES_AT_ONCE)
        self._syncing = Syncing(self._place)

    def path(self, digest: str) -> Path:
        """Where the file of a content is, once it was fetched."""
        return Path(self._place.path(Stored(self._workspace, check_digest(digest))))

    def forget_half(self) -> int:
        """Remove what an earlier run had half fetched, or not synced: how many."""
        return self._place.forget_fetched()

    async def fetch(self, digests: Sequence[str]) -> None:
        """Have all of these here.

        Raises:
            NotFoundError: one is not in the bucket.
            BucketError: the bucket cannot be used.
            StorageFullError: the disk is full. What came before stays.
        """
        try:
            if self._now_s() - self._tidied_s > TIDY_EVERY_S:
                self._tidied_s = self._now_s()
                await asyncio.to_thread(self._place.tidy, self._tidied_s)
            wanted = await asyncio.to_thread(self._absent, list(dict.fromkeys(digests)))
            await all_of([self._bring(digest) for digest in wanted])
        except OSError as error:
            raise explain(error, self._root) from None

    def _absent(self, digests: Sequence[str]) -> list[str]:
        return [one for one in digests if not self._place.has(Stored(self._workspace, check_digest(one)))]

    async def _bring(self, digest: str) -> None:
        task = self._coming.get(digest)
        if task is None:
            task = self._coming[digest] = asyncio.ensure_future(self._bring_one(Stored(self._workspace, digest)))
            task.add_done_callback(lambda _: self._coming.pop(digest, None))
        await asyncio.shield(task)

    async def _bring_one(self, one: Stored) -> None:
        async with self._room:
            path = await asyncio.to_thread(self._place.new, one.workspace)
            try:
                await self._reader().bring(one, path)
                await asyncio.to_thread(self._place.name_unsynced, path, one)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(path)
        self._syncing.later(one)

    async def synced(self) -> None:
        """Until all that was fetched is on the disk."""
        await self._syncing.done()

    def _reader(self) -> Reader:
        if self._opened is None:
            given = self._settings
            self._opened = Reader(given if isinstance(given, Bucket) else Bucket(given))
        return self._opened
