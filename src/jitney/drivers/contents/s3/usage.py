"""Which contents of a bucket are used: so that what somebody has just asked for is not removed.

When one was used last is known here; for one that nobody asked for since this server began, it is when its object was
made. Who asks for one marks it first, and waits where it is being removed: so it is there afterwards, or it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jitney.drivers.contents.s3 import layout
from jitney.drivers.s3.bucket import Bucket
from jitney.drivers.together import all_of
from jitney.ports.contents import Stored

TRUST_MS = 600_000  # that a content is there is believed for so long after it was seen


class Usage:
    """See the module. `on_gone` is told of contents that are not there any more."""

    def __init__(self, bucket: Bucket, now_ms: Callable[[], int], on_gone: Callable[[Stored], None]) -> None:
        self._bucket = bucket
        self._now_ms = now_ms
        self._on_gone = on_gone
        self._used: dict[Stored, int] = {}
        self._seen: dict[Stored, int] = {}
        self._leaving: dict[Stored, asyncio.Event] = {}  # those that are being removed

    async def use(self, one: Stored) -> bool:
        """Note that a content is used: whether it is there. From here on it is not removed: see `remove`."""
        now_ms = self._now_ms()
        self._used[one] = now_ms
        leaving = self._leaving.get(one)
        if leaving is not None:
            await leaving.wait()
        if now_ms - self._seen.get(one, -TRUST_MS) < TRUST_MS:
            return True
        if await self._bucket.has(layout.file_name(one)):
            self._seen[one] = now_ms
            return True
        self._used.pop(one, None)
        return False

    def there(self, one: Stored) -> None:
        """It was just put."""
        self._used[one] = self._seen[one] = self._now_ms()

    def at_ms(self, one: Stored, made_ms: int) -> int:
        """When a content was used last, whose object was made then."""
        return self._used.get(one, made_ms)

    def is_leaving(self, one: Stored) -> bool:
        """Whether it is being removed."""
        return one in self._leaving

    def forget(self, before_ms: int) -> None:
        """What was not used since is as good as unknown."""
        self._used = {one: at_ms for one, at_ms in self._used.items() if at_ms >= before_ms}
        self._seen = {one: at_ms for one, at_ms in self._seen.items() if at_ms >= before_ms}

    async def remove(self, asked: Sequence[Stored], before_ms: int) -> list[Stored]:
        """Remove those that were not used since: which are not there any more, or never were."""
        with self.leave([one for one in asked if one not in self._leaving]) as leaving:
            used = await all_of([self._last_used_ms(one) for one in leaving])
            gone = [one for one, at_ms in zip(leaving, used, strict=True) if at_ms is None]
            old = [one for one, at_ms in zip(leaving, used, strict=True) if at_ms is not None and at_ms < before_ms]
            for one in (*gone, *old):
                self._seen.pop(one, None)
                self._used.pop(one, None)
                self._on_gone(one)
            await self._bucket.delete([layout.file_name(one) for one in old])
            return gone + old

    async def _last_used_ms(self, one: Stored) -> int | None:
        """When a content was used last; None: it is not there."""
        made_ms = await self._bucket.modified_ms(layout.file_name(one))
        return None if made_ms is None else self._used.get(one, made_ms)

    @contextmanager
    def leave(self, them: list[Stored]) -> Iterator[list[Stored]]:
        """Have those who ask for these wait until it is known whether they stay."""
        done = asyncio.Event()
        self._leaving.update(dict.fromkeys(them, done))
        try:
            yield them
        finally:
            for one in them:
                del self._leaving[one]
            done.set()
