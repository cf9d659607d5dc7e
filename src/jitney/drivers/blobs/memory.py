"""Contents in a dictionary."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from jitney.ports.blobs import check_digest, not_here


class MemoryBlobs:
    """`ports.blobs.BlobStore` that forgets all at its end."""

    def __init__(self, *, now_ms: Callable[[], int] = lambda: 0) -> None:
        self._contents: dict[str, bytes] = {}
        self._put_ms: dict[str, int] = {}
        self._now_ms = now_ms

    async def missing(self, digests: Sequence[str]) -> list[str]:
        return [d for d in dict.fromkeys(check_digest(digest) for digest in digests) if d not in self._contents]

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        self._contents.update(zip(digests, contents, strict=True))
        self._put_ms.update(dict.fromkeys(digests, self._now_ms()))
        return digests

    async def read(self, digest: str) -> bytes:
        content = self._contents.get(check_digest(digest))
        if content is None:
            raise not_here(digest)
        return content

    async def place(self, digest: str, target: Path, *, executable: bool = False) -> None:
        content = await self.read(digest)
        await asyncio.to_thread(_write, target, content, 0o555 if executable else 0o444)

    async def remove(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self._contents.pop(check_digest(digest), None)

    async def old(self, before_ms: int) -> list[str]:
        return sorted(digest for digest in self._contents if self._put_ms[digest] < before_ms)


def _write(target: Path, content: bytes, mode: int) -> None:
    with target.open("xb") as file:
        file.write(content)
    target.chmod(mode)
