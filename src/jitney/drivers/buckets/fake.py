"""Buckets that are folders: `ports.buckets.BucketMounter` for tests, which need no root."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jitney.errors import BucketError, UnsupportedError
from jitney.values.buckets import BucketMount


class FakeBucket:
    """A folder, open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_closed = False

    async def close(self) -> str:
        if not self.is_closed:
            os.close(self.descriptor)
        self.is_closed = True
        return ""


class FakeBuckets:
    """Buckets are the folders of `root`. `why`: why none can be mounted; `mounted` has what was asked for."""

    def __init__(self, root: Path, why: str = "") -> None:
        self.root = root
        self.why = why
        self.mounted: list[tuple[BucketMount, dict[str, str], FakeBucket]] = []

    @property
    def program(self) -> str:
        return "" if self.why else "fake"

    def why_not(self) -> str:
        return self.why

    async def mount(self, bucket: BucketMount, credentials: Mapping[str, str]) -> FakeBucket:
        if self.why:
            raise UnsupportedError(self.why)
        try:
            made = FakeBucket(os.open(self.root / bucket.bucket, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise BucketError(f"there is no bucket {bucket.bucket!r}") from None
        self.mounted.append((bucket, dict(credentials), made))
        return made

    async def reap(self) -> int:
        return 0
