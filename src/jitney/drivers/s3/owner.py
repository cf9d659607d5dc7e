"""Whose a prefix is: two servers would remove what the other has, so the first takes it, and others are refused."""

from __future__ import annotations

import asyncio

from jitney.drivers.s3.bucket import Bucket
from jitney.errors import BucketError

OWNER = "owner"


class Owner:
    """See the module. `name`: an id of the server folder; "": nobody's, and nobody is refused."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket = bucket
        self._name = name
        self._asking = asyncio.Lock()
        self._known = asyncio.Event()
        if not name:
            self._known.set()

    async def check(self) -> None:
        """See to it that the prefix is ours.

        Raises:
            BucketError: it is another server's.
        """
        if self._known.is_set():
            return
        async with self._asking:
            if not self._known.is_set() and not await self._bucket.create(OWNER, self._name.encode()):
                raise BucketError(
                    f"{self._bucket.address} holds the files of another server",
                    hint=f"give this one a prefix of its own; or, if the other is gone, remove its object {OWNER!r}",
                )
            self._known.set()
