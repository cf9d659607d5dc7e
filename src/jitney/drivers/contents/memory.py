"""Contents in dictionaries. `incoming` is one too: `place` is what a client on the machine would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jitney.core import volumes
from jitney.errors import InvalidError, NotFoundError, StorageFullError
from jitney.ports.contents import Block, Part, Stored, check_digest, check_incoming, check_workspace
from jitney.values.volumes import BLOCK_BYTES, Content


class MemoryContents:
    """`ports.contents.Contents` that forgets all at its end. `room` bytes are what it may hold."""

    def __init__(self, now_ms: Callable[[], int] = lambda: 0, *, room: int = 1 << 62) -> None:
        self.room = room
        self._now_ms = now_ms
        self._whole: dict[Stored, bytes] = {}
        self._used: dict[Stored, int] = {}
        self._begun: dict[Stored, tuple[Content, dict[int, bytes]]] = {}
        self._incoming: dict[tuple[str, str], bytes] = {}

    def place(self, workspace: str, name: str, data: bytes) -> None:
        """A client puts a file into `incoming`."""
        self._incoming[workspace, name] = data

    async def absent(self, workspace: str, digests: Sequence[str]) -> list[str]:
        check_workspace(workspace)
        asked = [Stored(workspace, check_digest(digest)) for digest in dict.fromkeys(digests)]
        return [one.digest for one in asked if not self._touch(one)]

    def _touch(self, one: Stored) -> bool:
        if one in self._whole:
            self._used[one] = self._now_ms()
        return one in self._whole

    async def begin(self, workspace: str, content: Content, known: Mapping[bytes, Block]) -> list[int]:
        one = Stored(check_workspace(workspace), check_digest(volumes.check_content(content).digest))
        if self._touch(one):
            return []
        blocks = self._begun.setdefault(one, (content, {}))[1]
        self._used[one] = self._now_ms()
        for index in range(content.count):
            at = known.get(content.block(index))
            if index in blocks or at is None:
                continue
            data = self._whole.get(Stored(workspace, at.digest), b"")
            data = data[at.position * BLOCK_BYTES :][: content.length(index)]
            if volumes.block_digest(data) == content.block(index):
                self._need(len(data))
                blocks[index] = data
        self._finish(one)
        return [] if one in self._whole else [index for index in range(content.count) if index not in blocks]

    async def put(self, workspace: str, parts: Sequence[Part]) -> None:
        check_workspace(workspace)
        for part in parts:
            one = Stored(workspace, check_digest(part.digest))
            content = volumes.whole(part.data)
            if content.digest == part.digest and part.position == 0 and content.count <= 1:
                if not self._touch(one):
                    self._need(len(part.data))
                    self._whole[one] = bytes(part.data)
                    self._begun.pop(one, None)
                    self._used[one] = self._now_ms()
            elif not self._touch(one):
                self._put_block(one, part)

    def _put_block(self, one: Stored, part: Part) -> None:
        if one not in self._begun:
            raise NotFoundError(f"the content {one.digest[:16]}… was not begun here", hint="begin it again")
        content, blocks = self._begun[one]
        if not 0 <= part.position < content.count or volumes.block_digest(part.data) != content.block(part.position):
            raise InvalidError(f"what was sent is not block {part.position} of {one.digest[:16]}…")
        self._need(len(part.data))
        blocks[part.position] = bytes(part.data)
        self._used[one] = self._now_ms()
        self._finish(one)

    def _finish(self, one: Stored) -> None:
        content, blocks = self._begun[one]
        if len(blocks) == content.count:
            self._whole[one] = b"".join(blocks[index] for index in range(content.count))
            del self._begun[one]

    def _need(self, size: int) -> None:
        held = sum(map(len, self._whole.values()))
        held += sum(len(data) for _, blocks in self._begun.values() for data in blocks.values())
        if held + size > self.room:
            raise StorageFullError("the disk is full", hint="free some space, then try again")

    async def adopt(self, workspace: str, name: str, size: int) -> Content:
        key = (check_workspace(workspace), check_incoming(name))
        if key not in self._incoming:
            raise NotFoundError(f"no incoming file {name}", hint="place it again")
        if len(self._incoming[key]) != size:
            raise InvalidError(f"the incoming file {name} has another size than was said")
        content = volumes.whole(self._incoming[key])
        one = Stored(workspace, content.digest)
        self._whole[one] = self._incoming.pop(key)
        self._touch(one)
        return content

    async def read(self, workspace: str, digest: str, offset: int, length: int) -> bytes:
        data = self._whole.get(Stored(check_workspace(workspace), check_digest(digest)))
        if data is None:
            raise NotFoundError(f"the content {digest[:16]}… is not on this server", hint="put the file again")
        if offset < 0 or length < 0:
            raise InvalidError("offset and length must not be below zero")
        return data[offset : offset + length]

    async def old(self, before_ms: int, *, after: Stored | None = None, limit: int = 1_000) -> list[Stored]:
        found = [one for one in self._whole if self._used[one] < before_ms and (after is None or one > after)]
        return sorted(found)[:limit]

    async def remove(self, workspace: str, digests: Sequence[str], before_ms: int) -> list[str]:
        check_workspace(workspace)
        asked = [Stored(workspace, check_digest(digest)) for digest in digests]
        for one in asked:
            if one in self._whole and self._used[one] < before_ms:
                del self._whole[one], self._used[one]
        return [one.digest for one in asked if one not in self._whole]

    async def sweep(self, before_ms: int) -> int:
        old = [one for one in self._begun if self._used[one] < before_ms]
        for one in old:
            del self._begun[one]
        return len(old)

    def folder(self, workspace: str) -> Path | None:
        return None
