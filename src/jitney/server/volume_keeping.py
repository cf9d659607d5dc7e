"""What becomes of versions of volumes, and of contents that no version has: they go, in time, and never too early.

`collect` removes a content only if it was not used for `GRACE_MS`, in the same step in which it looks at that, and no
version refers to it (see ports.contents, 6). However long a commit takes, what it is about to refer to is held by it
(`Holds`). `prune` drops versions (core.retention): one that a container has mounted, a function names, or somebody has
read lately, stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from jitney.core.retention import prunable
from jitney.errors import JitneyError, NotFoundError
from jitney.ports.contents import Contents
from jitney.ports.store import Store
from jitney.server.objects import Objects
from jitney.values.objects import ObjectKind
from jitney.values.volumes import Head, Retention, Version

log = logging.getLogger("jitney.volumes")

READ_MS = 3_600_000  # that a version stays after somebody read it: a download may go on
VERSIONS_AT_ONCE = 1_000  # that one step drops
GRACE_MS = 3_600_000  # that a content stays though no version has it: somebody may be about to commit it
INCOMING_MS = 24 * 3_600_000  # that what was begun stays for its client to go on with
COLLECT_EVERY_S = 900.0
PAGE = 1_000


class Holds:
    """Contents that a commit under way is about to refer to: whatever their age, they are not collected."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def __contains__(self, digest: str) -> bool:
        return digest in self._held

    def take(self, digests: Iterable[str]) -> None:
        """From now on they stay."""
        self._held.update(digests)

    def give_up(self, digests: Iterable[str]) -> None:
        """From now on they are as others, but for those that somebody else holds too."""
        self._held.subtract(digests)
        self._held = +self._held

    @contextmanager
    def during(self, digests: Collection[str]) -> Iterator[None]:
        """Hold them for a `with` block."""
        self.take(digests)
        try:
            yield
        finally:
            self.give_up(digests)


class Keeping:
    """The volumes of this server.

    Args:
        retention: which versions stay, where a volume says nothing else.
        used: the versions of a volume that containers have mounted and functions name; None: that is not known now.
    """

    def __init__(
        self,
        *,
        objects: Objects,
        store: Store,
        contents: Contents,
        now_ms: Callable[[], int],
        run: Callable[[Coroutine[Any, Any, None]], None],
        retention: Retention = Retention(),  # noqa: B008 (a value)
        used: Callable[[str], Collection[int] | None] = lambda volume_id: (),
        holds: Holds | None = None,
    ) -> None:
        self._retention = retention
        self._used = used
        self._holds = holds or Holds()
        self._read_at: dict[tuple[str, int], int] = {}
        self._going: set[tuple[str, int]] = set()  # versions that are being dropped
        self._objects = objects
        self._store = store.volumes
        self._contents = contents
        self._now_ms = now_ms
        objects.on_deleted[ObjectKind.VOLUME] = lambda record: run(self.forget(record.object_id))

    # ------------------------------------------------------------------------------------------- versions

    async def head(self, volume_id: str) -> Head:
        """The newest version of a volume.

        Raises:
            NotFoundError: there is no such volume.
        """
        await self._objects.find(volume_id, ObjectKind.VOLUME)
        [head] = await self._store.heads([volume_id])
        return head

    async def version(self, volume_id: str, version: int | None) -> int:
        """The number of a version; None is the newest.

        Raises:
            NotFoundError: there is no such volume, or version.
        """
        newest = (await self.head(volume_id)).version
        version = newest if version is None else version
        if not 0 <= version <= newest:
            raise NotFoundError(f"the volume has no version {version}", hint=f"its newest version is {newest}")
        self._read_at[volume_id, version] = self._now_ms()  # before the look: from here on it is not pruned
        if version != newest:
            await self._need(volume_id, version)
        return version

    async def _need(self, volume_id: str, version: int) -> None:
        """Refuse a version that is gone."""
        is_going = (volume_id, version) in self._going
        if not is_going and await self._store.version(volume_id, version) is not None:
            return
        oldest = await self.oldest(volume_id, after=version)
        raise NotFoundError(
            f"version {version} of the volume is gone: the oldest that is kept and comes after it is {oldest}",
            hint="`jitney volume history` shows those that are there; `jitney volume keep` keeps more from now on",
        )

    async def oldest(self, volume_id: str, *, after: int = 0) -> int:
        """The number of the oldest version that is there, of those above `after`."""
        found, before = 0, None
        while page := await self._store.history(volume_id, before=before, limit=PAGE):
            there = [one.version for one in page if one.version > after]
            found, before = (there[-1] if there else found), page[-1].version
            if len(there) < len(page):
                break
        return found

    async def retention(self, volume_id: str) -> Retention:
        """Which versions of a volume stay."""
        return await self._store.retention(volume_id) or self._retention

    async def keep(self, volume_id: str, versions: int | None, days: int | None) -> Retention:
        """Set which versions of a volume stay; None, None: as the server has it for all."""
        await self._objects.find(volume_id, ObjectKind.VOLUME)
        before = await self.retention(volume_id)
        wanted = Retention(
            versions=before.versions if versions is None else versions, days=before.days if days is None else days
        )
        await self._store.keep(volume_id, None if versions is None and days is None else wanted)
        return await self.retention(volume_id)

    # ------------------------------------------------------------------------------------------- the end of things

    async def forget(self, volume_id: str) -> None:
        """A volume was deleted: its versions go; its contents are collected later."""
        await self._store.delete(volume_id)

    async def keep_tidy(self) -> None:
        """Prune and collect now and then, until cancelled. What goes wrong is told, and tried again the next time."""
        while True:
            await asyncio.sleep(COLLECT_EVERY_S)
            try:
                await self.prune()
                await self.collect()
            except JitneyError as error:
                log.warning("volume_contents_not_collected reason=%s", error)

    async def prune(self) -> int:
        """Drop versions that need not be kept: how many. Their entries, and contents, go with `collect`."""
        now_ms = self._now_ms()
        self._read_at = {key: at_ms for key, at_ms in self._read_at.items() if at_ms > now_ms - READ_MS}
        dropped = 0
        for volume_id in await self._store.known():
            versions: list[Version] = []
            while page := await self._store.history(
                volume_id, before=versions[-1].version if versions else None, limit=PAGE
            ):
                versions += page
            retention = await self.retention(volume_id)
            used = self._used(volume_id)  # asked for last: there is no step between here and the decision
            if used is None:
                continue
            read = {version for id_, version in self._read_at if id_ == volume_id}
            gone = prunable(versions, retention, {*used, *read}, now_ms)
            self._going = {(volume_id, version) for version in gone}
            try:
                for at in range(0, len(gone), VERSIONS_AT_ONCE):
                    dropped += await self._store.prune(volume_id, gone[at : at + VERSIONS_AT_ONCE])
            finally:
                self._going = set()
        if dropped:
            log.info("volume_versions_pruned count=%d", dropped)
        return dropped

    async def collect(self) -> int:
        """Remove what no version has, and has not had for some time: how many contents."""
        now_ms = self._now_ms()
        for volume_id in await self._store.known():
            try:
                await self._objects.find(volume_id, ObjectKind.VOLUME)
            except NotFoundError:  # deleted just before this server, or the last one, ended
                await self._store.delete(volume_id)
        while await self._store.sweep(limit=PAGE):
            pass
        await self._contents.sweep(now_ms - INCOMING_MS)
        removed, after = 0, None
        while True:
            page = await self._contents.old(now_ms - GRACE_MS, after=after, limit=PAGE)
            for workspace, stored in groupby(page, key=lambda one: one.workspace):
                digests = [one.digest for one in stored]
                removed += await self._collect(workspace, digests, now_ms - GRACE_MS)
            if len(page) < PAGE:
                break
            after = page[-1]
        if removed:
            log.info("volume_contents_collected count=%d", removed)
        return removed

    async def _collect(self, workspace: str, digests: Sequence[str], before_ms: int) -> int:
        """Forget, then remove: who dies between the two leaves what the next collection finds again."""
        referenced = await self._store.referenced(workspace, digests)
        loose = [digest for digest in digests if digest not in referenced]
        await self._store.forget_contents(workspace, loose)
        loose = [digest for digest in loose if digest not in self._holds]
        return len(await self._contents.remove(workspace, loose, before_ms))
