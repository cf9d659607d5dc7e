"""Contents in a bucket of S3, or of what speaks like it: an object each.

    <prefix><workspace>/blobs/<aa>/<digest>

An object of S3 is there whole or not at all, and putting it again makes it new: its age is that of the last `put`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

from jitney.drivers.disk import copy_new
from jitney.drivers.s3.bucket import AT_ONCE, Bucket, Missing, Settings
from jitney.drivers.s3.owner import Owner
from jitney.drivers.together import all_of
from jitney.ports.blobs import check_digest, not_here

GROUP = 4 * AT_ONCE  # that many contents are asked for together

_NAME = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})")


class S3Blobs:
    """`ports.blobs.BlobStore` in a bucket.

    Args:
        settings: the bucket, or how it is reached.
        workspace: whose contents these are.
        owner: an id of the server folder that the prefix belongs to; "": nobody's, and nobody is refused.

    Raises:
        UnsupportedError: what speaks to buckets is not installed.
    """

    def __init__(self, settings: Settings | Bucket, workspace: str, *, owner: str = "") -> None:
        self._bucket = settings if isinstance(settings, Bucket) else Bucket(settings)
        self._folder = f"{workspace}/blobs/"
        self._owner = Owner(self._bucket, owner)

    async def missing(self, digests: Sequence[str]) -> list[str]:
        wanted = list(dict.fromkeys(check_digest(digest) for digest in digests))
        await self._owner.check()
        found: list[str] = []
        for at in range(0, len(wanted), GROUP):
            group = wanted[at : at + GROUP]
            there = await all_of([self._bucket.has(self._name(digest)) for digest in group])
            found += [digest for digest, is_there in zip(group, there, strict=True) if not is_there]
        return found

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        await self._owner.check()
        digests = await asyncio.to_thread(lambda: [_digest(content) for content in contents])
        distinct = list(dict(zip(digests, contents, strict=True)).items())
        for at in range(0, len(distinct), GROUP):
            await all_of(
                [self._bucket.put(self._name(digest), content) for digest, content in distinct[at : at + GROUP]]
            )
        return digests

    async def read(self, digest: str) -> bytes:
        name = self._name(check_digest(digest))
        await self._owner.check()
        try:
            content = (await self._bucket.get(name)).data
        except Missing:
            raise not_here(digest) from None
        if await asyncio.to_thread(_digest, content) != digest:
            await self._bucket.delete([name])
            raise not_here(digest)
        return content

    async def place(self, digest: str, target: Path, *, executable: bool = False) -> None:
        content = await self.read(digest)
        await asyncio.to_thread(copy_new, io.BytesIO(content), target, 0o555 if executable else 0o444)

    async def remove(self, digests: Sequence[str]) -> None:
        names = [self._name(check_digest(digest)) for digest in digests]
        await self._owner.check()
        await self._bucket.delete(names)

    async def old(self, before_ms: int) -> list[str]:
        await self._owner.check()
        found: list[str] = []
        async for page in self._bucket.pages(self._folder):
            for item in page:
                name = _NAME.fullmatch(item.name.removeprefix(self._folder))
                if name is not None and item.modified_ms < before_ms:
                    found.append(name[1])
        return sorted(found)

    def _name(self, digest: str) -> str:
        return f"{self._folder}{digest[:2]}/{digest}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
