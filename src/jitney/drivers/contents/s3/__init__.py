"""Contents in a bucket of S3, or of what speaks like it.

How objects are named: `layout`. A block is an object, so what arrives in parts is there in parts, may be gone on with
by anybody, and has no limit of its size; the list of a content's blocks is put last, and makes it whole.

The prefix is for one server alone: `s3.owner`. Beside the bucket is a folder of this machine (`place`), for files that
are placed here to be adopted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from jitney.core import volumes
from jitney.drivers.contents.s3 import layout
from jitney.drivers.contents.s3.fetching import Fetcher as Fetcher
from jitney.drivers.contents.s3.place import Place, Syncing, read_block, read_content
from jitney.drivers.contents.s3.reading import Reader
from jitney.drivers.contents.s3.usage import Usage
from jitney.drivers.disk import explain
from jitney.drivers.s3.bucket import AT_ONCE, Bucket, Item, Missing, Settings
from jitney.drivers.s3.owner import Owner
from jitney.drivers.together import all_of
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.contents import Block, Part, Stored, check_digest, check_incoming, check_workspace
from jitney.values.volumes import BLOCK_BYTES, Content


class _Begun:
    """A content that is not whole yet."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.have: set[int] = set()
        self.lock = asyncio.Lock()  # of its end
        self.used_ms = 0

    @property
    def is_whole(self) -> bool:
        return len(self.have) == self.content.count


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class S3Contents:
    """`ports.contents.Contents` in a bucket.

    Args:
        settings: the bucket, or how it is reached.
        folder: that of this machine.
        owner: an id of the server folder that the prefix belongs to; "": nobody's, and nobody is refused.

    Raises:
        UnsupportedError: what speaks to buckets is not installed.
    """

    def __init__(
        self, settings: Settings | Bucket, folder: Path, *, owner: str = "", now_ms: Callable[[], int] = _now_ms
    ) -> None:
        self._bucket = settings if isinstance(settings, Bucket) else Bucket(settings)
        self._reader = Reader(self._bucket)
        self._usage = Usage(self._bucket, now_ms, self._reader.forget)
        self._root = folder
        self._place = Place(folder)
        self._syncing = Syncing(self._place)
        self._owner = Owner(self._bucket, owner)
        self._now_ms = now_ms
        self._begun: dict[Stored, _Begun] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder(self, workspace: str) -> Path:
        return self._place.folder(workspace)

    # ------------------------------------------------------------------------------------------- asking

    async def absent(self, workspace: str, digests: Sequence[str]) -> list[str]:
        check_workspace(workspace)
        asked = [Stored(workspace, check_digest(digest)) for digest in dict.fromkeys(digests)]
        await self._owner.check()
        there = await all_of([self._usage.use(one) for one in asked])
        return [one.digest for one, is_there in zip(asked, there, strict=True) if not is_there]

    async def read(self, workspace: str, digest: str, offset: int, length: int) -> bytes:
        one = Stored(check_workspace(workspace), check_digest(digest))
        if offset < 0 or length < 0:
            raise InvalidError("offset and length must not be below zero")
        await self._owner.check()
        return await self._reader.read(one, offset, length)

    # ------------------------------------------------------------------------------------------- block by block

    async def begin(self, workspace: str, content: Content, known: Mapping[bytes, Block]) -> list[int]:
        one = Stored(check_workspace(workspace), check_digest(volumes.check_content(content).digest))
        await self._owner.check()
        if await self._usage.use(one):
            return []
        begun = await self._begin(one, content)
        async with begun.lock:
            await self._copy_known(one, begun, known)
        await self._finish(one, begun)
        return [index for index in range(content.count) if index not in begun.have]

    async def _begin(self, one: Stored, content: Content) -> _Begun:
        """What is to be gone on with: blocks that an earlier server, or this one, was given are there."""
        begun = self._begun.get(one)
        if begun is None:
            begun = self._begun[one] = _Begun(content)
            begun.used_ms = self._now_ms()
            async with begun.lock:
                async for page in self._bucket.pages(layout.blocks_folder(one)):
                    for item in page:
                        at = layout.block_of(item.name)
                        if at is not None and at[1] < content.count and item.size == content.length(at[1]):
                            begun.have.add(at[1])
        begun.used_ms = self._now_ms()
        return begun

    async def _copy_known(self, one: Stored, begun: _Begun, known: Mapping[bytes, Block]) -> None:
        content = begun.content
        wanted = [index for index in range(content.count) if index not in begun.have and content.block(index) in known]

        async def copy(index: int) -> None:
            at = known[content.block(index)]
            source = Stored(one.workspace, check_digest(at.digest))
            try:
                name = await self._object_of(source, at.position, content.block(index), content.length(index))
                if name:
                    await self._bucket.copy(name, layout.block_name(one, index))
                    begun.have.add(index)
            except Missing:
                self._reader.forget(source)

        await all_of([copy(index) for index in wanted])

    async def _object_of(self, source: Stored, position: int, block: bytes, length: int) -> str:
        """The object that is that block of a content; "": it is none.

        Raises:
            Missing: the content is not there.
        """
        if position == 0 and volumes.content_of(block, length).digest == source.digest:
            return layout.file_name(source)
        content = await self._reader.listed(source)
        if content is None or not 0 <= position < content.count or content.block(position) != block:
            return ""
        return layout.block_name(source, position)

    async def put(self, workspace: str, parts: Sequence[Part]) -> None:
        check_workspace(workspace)
        for part in parts:
            check_digest(part.digest)
        await self._owner.check()
        for at in range(0, len(parts), AT_ONCE * 4):
            await all_of([self._put(Stored(workspace, part.digest), part) for part in parts[at : at + AT_ONCE * 4]])

    async def _put(self, one: Stored, part: Part) -> None:
        is_whole = part.position == 0 and len(part.data) <= BLOCK_BYTES
        if is_whole and (await asyncio.to_thread(volumes.whole, part.data)).digest == part.digest:
            if not await self._usage.use(one):
                await self._put_whole(one, part.data)
            return
        begun = self._begun.get(one)
        if begun is None:
            if await self._usage.use(one):
                return
            raise NotFoundError(f"the content {one.digest[:16]}… was not begun here", hint="begin it again")
        content, index = begun.content, part.position
        block = await asyncio.to_thread(volumes.block_digest, part.data)
        if not 0 <= index < content.count or block != content.block(index):
            raise InvalidError(f"what was sent is not block {index} of the content {one.digest[:16]}…")
        await self._put_block(one, begun, index, part.data)
        await self._finish(one, begun)

    async def _put_whole(self, one: Stored, data: bytes | memoryview) -> None:
        await self._bucket.put(layout.file_name(one), data)
        self._usage.there(one)

    async def _put_block(self, one: Stored, begun: _Begun, index: int, data: bytes | memoryview) -> None:
        begun.used_ms = self._now_ms()
        if index not in begun.have:
            await self._bucket.put(layout.block_name(one, index), data)
            begun.have.add(index)

    async def _finish(self, one: Stored, begun: _Begun) -> None:
        """Put its list, if all of its blocks are there."""
        async with begun.lock:
            if begun.is_whole and self._begun.get(one) is begun:
                name, content = layout.file_name(one), begun.content
                if content.count > 1:
                    await self._bucket.put(name, layout.encode(content), type=layout.LIST_TYPE)
                    self._reader.note(one, content)
                elif content.count == 1:
                    await self._bucket.copy(layout.block_name(one, 0), name)
                else:
                    await self._bucket.put(name, b"")
                self._usage.there(one)
                self._begun.pop(one, None)

    # ------------------------------------------------------------------------------------------- adopting

    async def adopt(self, workspace: str, name: str, size: int) -> Content:
        check_workspace(workspace)
        check_incoming(name)
        await self._owner.check()
        try:
            file = await asyncio.to_thread(self._place.open_incoming, workspace, name, size)
            try:
                content = await asyncio.to_thread(read_content, file, size)
                await self._adopt(Stored(workspace, content.digest), content, file)
            finally:
                os.close(file)
            await asyncio.to_thread(self._place.keep_incoming, workspace, name, content.digest)
            self._syncing.later(Stored(workspace, content.digest))
        except OSError as error:
            raise explain(error, self._root) from None
        return content

    async def _adopt(self, one: Stored, content: Content, file: int) -> None:
        """Put what is in a file. It is read twice: what was not the same both times is refused."""
        if await self._usage.use(one):
            return
        begun = await self._begin(one, content) if content.count > 1 else None
        room = asyncio.Semaphore(AT_ONCE)

        async def put(index: int) -> None:
            async with room:
                data = await asyncio.to_thread(read_block, file, index)
                if await asyncio.to_thread(volumes.block_digest, data) != content.block(index):
                    raise InvalidError(
                        "the incoming file was changed while it was read", hint="place it again, then ask"
                    )
                if begun is None:
                    await self._put_whole(one, data)
                else:
                    await self._put_block(one, begun, index, data)

        if not content.count:
            await self._put_whole(one, b"")
            return
        left = [index for index in range(content.count) if begun is None or index not in begun.have]
        await all_of([put(index) for index in left])
        if begun is not None:
            await self._finish(one, begun)

    # ------------------------------------------------------------------------------------------- collecting

    async def old(self, before_ms: int, *, after: Stored | None = None, limit: int = 1_000) -> list[Stored]:
        await self._owner.check()
        found: list[Stored] = []
        for workspace in await self._bucket.folders():
            if after is not None and workspace < after.workspace:
                continue
            start = layout.file_name(after) if after is not None and workspace == after.workspace else ""
            async for page in self._bucket.pages(f"{workspace}/files/", after=start):
                for item in page:
                    one = layout.stored_of(item.name)
                    if one is not None and self._usage.at_ms(one, item.modified_ms) < before_ms:
                        found.append(one)
                    if len(found) >= limit:
                        return found
        return found

    async def remove(self, workspace: str, digests: Sequence[str], before_ms: int) -> list[str]:
        """Its blocks, if it has any, are swept later: without their list they are a content that was begun long ago."""
        check_workspace(workspace)
        asked = [Stored(workspace, check_digest(digest)) for digest in dict.fromkeys(digests)]
        await self._owner.check()
        gone = set(await self._usage.remove(asked, before_ms))
        return [one.digest for one in asked if one in gone]

    async def sweep(self, before_ms: int) -> int:
        await self._owner.check()
        self._usage.forget(before_ms)
        dropped = await asyncio.to_thread(self._place.sweep_incoming, before_ms)
        for workspace in await self._bucket.folders():
            async for one, items in self._with_blocks(workspace):
                if await self._sweep(one, items, before_ms):
                    dropped += 1
        return dropped + self._forget_begun(before_ms)

    async def _with_blocks(self, workspace: str) -> AsyncIterator[tuple[Stored, list[Item]]]:
        """Contents that have blocks, each with these."""
        current: Stored | None = None
        items: list[Item] = []
        async for page in self._bucket.pages(f"{workspace}/blocks/"):
            for item in page:
                at = layout.block_of(item.name)
                if at is None:
                    continue
                if at[0] != current and current is not None:
                    yield current, items
                    items = []
                current = at[0]
                items.append(item)
        if current is not None:
            yield current, items

    async def _sweep(self, one: Stored, items: Sequence[Item], before_ms: int) -> bool:
        """Drop the blocks of a content that has no list, and that nobody goes on with."""
        begun = self._begun.get(one)
        touched_ms = begun.used_ms if begun is not None else max(item.modified_ms for item in items)
        if touched_ms >= before_ms or self._usage.is_leaving(one):
            return False
        with self._usage.leave([one]):
            if await self._bucket.has(layout.file_name(one)):
                return False
            if begun is not None and begun.used_ms >= before_ms:
                return False
            self._begun.pop(one, None)
            await self._bucket.delete([item.name for item in items])
        return True

    def _forget_begun(self, before_ms: int) -> int:
        """Those that got no block; the others have been swept."""
        old = [one for one, begun in self._begun.items() if begun.used_ms < before_ms and not begun.have]
        for one in old:
            del self._begun[one]
        return len(old)
