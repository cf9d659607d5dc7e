"""Contents in a dictionary."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jitney.errors import NotFoundError
from jitney.ports.blobs import check_digest


class MemoryBlobs:
    """`ports.blobs.BlobStore` that forgets all at its end."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    async def missing(self, digests: Sequence[str]) -> list[str]:
        return [d for d in dict.fromkeys(check_digest(digest) for digest in digests) if d not in self._contents]

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        self._contents.update(zip(digests, contents, strict=True))
        return digests

    async def read(self, digest: str) -> bytes:
        content = self._contents.get(check_digest(digest))
        if content is None:
            raise NotFoundError(f"the content {digest} is not on this server", hint="send it again")
        return content

    async def place(self, digest: str, target: Path, *, executable: bool = False) -> None:
        content = await self.read(digest)
        await asyncio.to_thread(_write, target, content, 0o555 if executable else 0o444)

    async def remove(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self._contents.pop(check_digest(digest), None)

    async def digests(self) -> list[str]:
        return sorted(self._contents)


def _write(target: Path, content: bytes, mode: int) -> None:
    with target.open("xb") as file:
        file.write(content)
    target.chmod(mode)
