"""Volumes, as the server keeps them: versions in the store, contents beside it, and what binds the two.

A commit first sees that all contents it refers to are there, which marks them as used, and is then recorded. So a file
is on the disk before any version has it; and what a version has is never collected.
What becomes of old versions, and of what no version has: see server.volume_keeping.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from jitney.core import volumes
from jitney.core.objects import near
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.contents import Contents
from jitney.ports.volumes import LIST_MAX, Commit, Restore
from jitney.server.volume_keeping import Keeping
from jitney.values.objects import ObjectKind, ObjectRecord
from jitney.values.volumes import (
    MESSAGE_CHARACTERS_MAX,
    WORKSPACE,
    Committed,
    Content,
    Entry,
    Kind,
    Version,
    VolumeInfo,
)

log = logging.getLogger("jitney.volumes")

NAMES_LOOKED_AT = 1_000  # for one that is near


class Volumes(Keeping):
    """The volumes of this server."""

    @property
    def contents(self) -> Contents:
        """What their files hold."""
        return self._contents

    # ------------------------------------------------------------------------------------------- looking

    async def info(self, volume_id: str) -> VolumeInfo:
        """A volume as listed."""
        record = await self._objects.find(volume_id, ObjectKind.VOLUME)
        [info] = await self._infos([record])
        return info

    async def listed(self, limit: int) -> list[VolumeInfo]:
        """Volumes with a name, newest first."""
        return await self._infos(await self._objects.listed(ObjectKind.VOLUME, limit))

    async def _infos(self, records: Sequence[ObjectRecord]) -> list[VolumeInfo]:
        heads = await self._store.heads([record.object_id for record in records])
        return [
            VolumeInfo(
                volume_id=record.object_id,
                name=record.name,
                version=head.version,
                files=head.files,
                size=head.size,
                created_at_ms=record.created_at_ms,
                updated_at_ms=head.updated_at_ms,
            )
            for record, head in zip(records, heads, strict=True)
        ]

    async def entry(self, volume_id: str, version: int, path: str) -> Entry:
        """What a version has at a path.

        Raises:
            NotFoundError: nothing; with near names.
        """
        found = await self._store.entry(volume_id, version, volumes.check_path(path))
        if found is not None:
            return found
        folder, name = volumes.split(path)
        beside = await self._store.entries(volume_id, version, folder, limit=NAMES_LOOKED_AT)
        hint = near(name, [entry.name for entry in beside]) or "`jitney volume ls` shows what is there"
        raise NotFoundError(f"{path!r} is not in the volume", hint=hint)

    async def stat(self, volume_id: str, version: int, path: str) -> Entry:
        """As `entry`, of a file with its blocks."""
        found = await self.entry(volume_id, version, path)
        if found.kind is Kind.FILE:
            [content] = await self._store.contents(WORKSPACE, [found.digest])
            found = replace(found, blocks=content.blocks)
        return found

    async def entries(
        self, volume_id: str, version: int, path: str, *, recursive: bool, after: str, limit: int
    ) -> list[Entry]:
        """What is in a folder of a version, or the one file that `path` is."""
        if not 1 <= limit <= LIST_MAX:
            raise InvalidError(f"limit must be from 1 to {LIST_MAX:,}")
        if after and not volumes.is_below(volumes.check_path(after), path):
            raise InvalidError(f"{after[:200]!r} is not below {path[:200]!r}: no page begins there")
        if path:
            found = await self.entry(volume_id, version, path)
            if found.kind is not Kind.DIR:
                return [found]
        return await self._store.entries(volume_id, version, path, recursive=recursive, after=after, limit=limit)

    async def history(self, volume_id: str, *, before: int | None, limit: int) -> list[Version]:
        """Versions, newest first, below `before`."""
        await self._objects.find(volume_id, ObjectKind.VOLUME)
        return await self._store.history(volume_id, before=before, limit=limit)

    async def _all_below(self, volume_id: str, version: int, path: str) -> list[Entry]:
        found: list[Entry] = []
        while True:
            after = found[-1].path if found else ""
            page = await self._store.entries(volume_id, version, path, recursive=True, after=after, limit=LIST_MAX)
            found += page
            if len(page) < LIST_MAX:
                return found

    # ------------------------------------------------------------------------------------------- changing

    async def missing(self, contents: Sequence[Content]) -> dict[str, list[int]]:
        """The blocks that have to be sent for these contents to be here: by digest, those that are not whole."""
        by_digest = {content.digest: content for content in contents}
        await asyncio.to_thread(_check_contents, list(by_digest.values()))
        absent = [by_digest[digest] for digest in await self._contents.absent(WORKSPACE, list(by_digest))]
        found: dict[str, list[int]] = {}
        for content in absent:
            if content.count <= 1:
                found[content.digest] = [0]
                continue
            blocks = [content.block(index) for index in range(content.count)]
            known = await self._store.blocks(WORKSPACE, blocks)
            left = await self._contents.begin(WORKSPACE, content, known)
            if left:
                found[content.digest] = left
        return found

    async def commit(
        self,
        volume_id: str,
        base: int | None,
        puts: Sequence[Entry],
        removes: Sequence[str],
        *,
        message: str = "",
        key: str = "",
        new_only: bool = False,
    ) -> Committed:
        """Make a version.

        Raises:
            AlreadyExistsError: `new_only`, and a file is there that would be replaced.
            NotFoundError: there is no such volume or version, or a content is not here (any more): send it again.
            InvalidError: a path, or the change as a whole, cannot be.
        """
        _check_message(message)
        newest = (await self.head(volume_id)).version
        base = newest if base is None else base  # which may be gone: what is removed since is no conflict then
        with self._holds.during({entry.digest for entry in puts if entry.kind is Kind.FILE}):
            contents = await self._contents_of(puts)
            return await self._store.commit(
                Commit(volume_id, base, puts, removes, contents, message, self._now_ms(), key, WORKSPACE, new_only)
            )

    async def _contents_of(self, puts: Sequence[Entry]) -> list[Content]:
        """The contents of files that are put, all of which are here."""
        named = {entry.digest: entry for entry in puts if entry.kind is Kind.FILE}
        unknown = [digest for digest, entry in named.items() if entry.size and not entry.blocks]
        known = {content.digest: content for content in await self._store.contents(WORKSPACE, unknown)}
        contents = [known.get(digest) or entry.content for digest, entry in named.items()]
        await asyncio.to_thread(_check_contents, contents, puts)
        absent = await self._contents.absent(WORKSPACE, list(named))
        if absent:
            raise NotFoundError(
                f"the contents of {len(absent):,} files are not on this server, such as that of "
                f"{named[absent[0]].path!r}",
                hint="ask for what is missing (`volume.missing`), send it, and commit again",
            )
        return contents

    async def restore(self, volume_id: str, version: int, *, message: str = "", key: str = "") -> Committed:
        """Make a version with the content of an earlier one."""
        _check_message(message)
        await self.version(volume_id, version)
        return await self._store.restore(Restore(volume_id, version, message, self._now_ms(), key))

    async def remove(self, volume_id: str, path: str, *, recursive: bool) -> Committed:
        """Remove a file, or a folder with all that is in it."""
        version = await self.version(volume_id, None)
        if not path:
            if not recursive:
                raise InvalidError("this is the whole volume", hint="recursive=True removes all that is in it")
            top = await self._store.entries(volume_id, version, limit=LIST_MAX)
            return await self.commit(volume_id, version, [], [entry.path for entry in top], message="rm /")
        _need_recursive(await self.entry(volume_id, version, path), recursive, "removes")
        return await self.commit(volume_id, version, [], [path], message=f"rm {path}"[:MESSAGE_CHARACTERS_MAX])

    async def copy(self, volume_id: str, sources: Sequence[str], target: str, *, recursive: bool) -> Committed:
        """Copy files and folders inside a volume."""
        version = await self.version(volume_id, None)
        is_folder = await self._is_folder(volume_id, version, target)
        if len(sources) != 1 and not is_folder:
            raise InvalidError(f"{target!r} is no folder: several things cannot be copied to it", hint="make it first")
        puts: dict[str, Entry] = {}
        for source in sources:
            entry = await self.entry(volume_id, version, source)
            _need_recursive(entry, recursive, "copies")
            puts.update(await self._moved(volume_id, version, entry, volumes.destination(source, target, is_folder)))
        message = f"cp {' '.join(sources)} {target}"
        return await self.commit(volume_id, version, [*puts.values()], [], message=message[:MESSAGE_CHARACTERS_MAX])

    async def move(self, volume_id: str, path: str, target: str, *, into: bool) -> Committed:
        """Move a file or a folder."""
        version = await self.version(volume_id, None)
        is_folder = await self._is_folder(volume_id, version, target)
        if is_folder and not into:
            raise InvalidError(f"{target or '/'!r} is a folder in the volume", hint="give the whole new path")
        entry = await self.entry(volume_id, version, path)
        puts = await self._moved(volume_id, version, entry, volumes.destination(path, target, is_folder))
        message = f"mv {path} {target}"[:MESSAGE_CHARACTERS_MAX]
        return await self.commit(volume_id, version, [*puts.values()], [path], message=message)

    async def _is_folder(self, volume_id: str, version: int, path: str) -> bool:
        if not path:
            return True
        found = await self._store.entry(volume_id, version, volumes.check_path(path))
        return found is not None and found.kind is Kind.DIR

    async def _moved(self, volume_id: str, version: int, entry: Entry, target: str) -> dict[str, Entry]:
        below = await self._all_below(volume_id, version, entry.path) if entry.kind is Kind.DIR else []
        return {one.path: one for one in volumes.moved([entry, *below], entry.path, target)}


def _check_contents(contents: Iterable[Content], puts: Sequence[Entry] = ()) -> None:
    sizes = {volumes.check_content(content).digest: content.size for content in contents}
    for entry in puts:
        if entry.kind is Kind.FILE and sizes[entry.digest] != entry.size:
            raise InvalidError(f"{entry.path!r} is put with {entry.size:,} bytes, and its content has another size")


def _check_message(message: str) -> None:
    if len(message) > MESSAGE_CHARACTERS_MAX:
        raise InvalidError(f"a message of {len(message):,} characters is over the limit of {MESSAGE_CHARACTERS_MAX:,}")


def _need_recursive(entry: Entry, recursive: bool, what: str) -> None:
    if entry.kind is Kind.DIR and not recursive:
        raise InvalidError(f"{entry.path!r} is a folder", hint=f"recursive=True {what} it with all that is in it")
