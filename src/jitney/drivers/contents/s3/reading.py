"""Contents read from a bucket: parts of them, and whole ones into files of this machine."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from jitney.core import volumes
from jitney.drivers.contents.s3 import layout
from jitney.drivers.disk import reserve
from jitney.drivers.s3.bucket import Bucket, Missing, OutOfRange
from jitney.drivers.together import all_of
from jitney.errors import NotFoundError, StorageCorruptError
from jitney.ports.contents import Stored
from jitney.values.volumes import BLOCK_BYTES, Content

LISTS_KEPT = 1_000
BLOCKS_AT_ONCE = 4  # of one content


class Reader:
    """See the module."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._lists: OrderedDict[Stored, Content] = OrderedDict()

    def note(self, one: Stored, content: Content) -> None:
        """Remember the list of a content."""
        self._lists[one] = content
        self._lists.move_to_end(one)
        if len(self._lists) > LISTS_KEPT:
            self._lists.popitem(last=False)

    def forget(self, one: Stored) -> None:
        """The content is not there any more."""
        self._lists.pop(one, None)

    async def listed(self, one: Stored) -> Content | None:
        """The list of a content of several blocks; None: it has no list.

        Raises:
            Missing: it is not there.
        """
        known = self._lists.get(one)
        if known is not None:
            return known
        name = layout.file_name(one)
        try:
            first = await self._bucket.get(name, (0, layout.SIZE_BYTES))
        except OutOfRange:
            return None  # it is empty
        if first.type != layout.LIST_TYPE:
            return None
        content = layout.decode(one.digest, (await self._bucket.get(name)).data)
        self.note(one, content)
        return content

    async def read(self, one: Stored, offset: int, length: int) -> bytes:
        """A part of a content.

        Raises:
            NotFoundError: it is not there.
        """
        try:
            return await self._read(one, offset, length)
        except Missing:
            self.forget(one)
            raise not_here(one.digest) from None

    async def _read(self, one: Stored, offset: int, length: int) -> bytes:
        name = layout.file_name(one)
        if not length:
            if not await self._bucket.has(name):
                raise Missing
            return b""
        if one not in self._lists:
            try:
                got = await self._bucket.get(name, (offset, offset + length))
            except OutOfRange:
                whole = await self._bucket.get(name)  # short: a content of one block, or a list
                got = whole._replace(data=whole.data[offset : offset + length])
            if got.type != layout.LIST_TYPE:
                return got.data
        content = await self.listed(one)
        if content is None:
            raise Missing  # it was removed meanwhile, and is another object now
        end = min(offset + length, content.size)
        parts = []
        for position in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)) if end > offset else ():
            at = position * BLOCK_BYTES
            start, stop = max(offset - at, 0), min(end - at, BLOCK_BYTES)
            parts.append(self._bucket.get(layout.block_name(one, position), (start, stop)))
        return b"".join([got.data for got in await all_of(parts)])

    async def bring(self, one: Stored, path: str) -> None:
        """Write a whole content to a new file, checked block by block; it is not synced.

        Raises:
            NotFoundError: it is not there.
            StorageCorruptError: it is not what it should be.
        """
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            await self._bring(one, file, path)
        except Missing:
            self.forget(one)
            raise not_here(one.digest) from None
        finally:
            os.close(file)

    async def _bring(self, one: Stored, file: int, path: str) -> None:
        content = self._lists.get(one)
        if content is None:
            got = await self._bucket.get(layout.file_name(one))
            if got.type != layout.LIST_TYPE:
                await asyncio.to_thread(_check_and_write, one, got.data, path)
                return
            content = layout.decode(one.digest, got.data)
            self.note(one, content)
        os.ftruncate(file, content.size)
        room = asyncio.Semaphore(BLOCKS_AT_ONCE)

        async def bring(position: int) -> None:
            async with room:
                writer = partial(_BlockWriter, content, position, path)
                await self._bucket.stream(layout.block_name(one, position), writer)

        await all_of([bring(position) for position in range(content.count)])


class _BlockWriter(AbstractContextManager[Callable[[memoryview], None]]):
    """Writes a block to its place in a file as it comes, and checks it at its end.

    It has the file open for itself: it may go on for a moment when whoever asked for it has given up.
    """

    def __init__(self, content: Content, position: int, path: str) -> None:
        self._content = content
        self._position = position
        self._path = path
        self._at = position * BLOCK_BYTES
        self._found = volumes.block_hash()

    def __enter__(self) -> Callable[[memoryview], None]:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        reserve(self._file, self._at, self._content.length(self._position))
        return self._take

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._file)
        if kind is None and self._found.digest() != self._content.block(self._position):
            raise damaged(self._content.digest)

    def _take(self, piece: memoryview) -> None:
        self._found.update(piece)
        write_at(self._file, self._at, piece)
        self._at += len(piece)


def _check_and_write(one: Stored, data: bytes, path: str) -> None:
    if volumes.whole(data).digest != one.digest:
        raise damaged(one.digest)
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        write_at(file, 0, memoryview(data))
    finally:
        os.close(file)


def write_at(file: int, offset: int, data: memoryview) -> None:
    """Write all of `data` at a place of a file."""
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], offset + done)


def not_here(digest: str) -> NotFoundError:
    """The error for a content that is not there."""
    return NotFoundError(f"the content {digest[:16]}… is not in the bucket", hint="put the file again")


def damaged(digest: str) -> StorageCorruptError:
    """The error for one that is not what was put."""
    return StorageCorruptError(f"the content {digest[:16]}… in the bucket is damaged", hint="put the file again")
