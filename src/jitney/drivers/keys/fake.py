"""A key management service that is not one: keys in memory, and it can be told to misbehave.

It does what such services do: keys do not leave it, the context is part of what is sealed, and it may not answer.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Collection

from jitney.core import sealing
from jitney.errors import EncryptionKeyError, JitneyError
from jitney.values.secrets import Wrapped


class FakeKms:
    """`ports.keys.KeyRing` in memory. `fail(error)`: the next request raises it. `requests`: what was asked for."""

    def __init__(self, name: str = "kms", keys: dict[str, bytes] | None = None) -> None:
        self.requests: list[str] = []
        self._name = name
        self._keys = {} if keys is None else keys  # shared with another fake: the same service, seen again
        self._failures: deque[JitneyError] = deque()

    def fail(self, error: JitneyError) -> None:
        """Have one more request raise."""
        self._failures.append(error)

    async def _request(self, what: str) -> None:
        await asyncio.sleep(0)
        self.requests.append(what)
        if self._failures:
            raise self._failures.popleft()

    def _make(self) -> str:
        key_id = f"{self._name}-{os.urandom(8).hex()}"
        self._keys[key_id] = os.urandom(sealing.KEY_BYTES)
        return key_id

    async def wrap(self, data_key: bytes, context: bytes) -> Wrapped:
        """See the port."""
        await self._request("wrap")
        key_id = next(reversed(self._keys), "") or self._make()
        nonce = os.urandom(sealing.NONCE_BYTES)
        return Wrapped(key_id=key_id, sealed=sealing.seal_key(data_key, self._keys[key_id], nonce, context))

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """See the port."""
        await self._request("unwrap")
        key = self._keys.get(wrapped.key_id)
        if key is None:
            raise EncryptionKeyError(f"the service has no key {wrapped.key_id}", hint="enable it there again")
        return sealing.unseal_key(wrapped.sealed, key, context)

    async def missing(self, key_ids: Collection[str]) -> set[str]:
        """See the port."""
        await self._request("missing")
        return set(key_ids) - set(self._keys)

    async def rotate(self) -> str:
        """See the port."""
        await self._request("rotate")
        return self._make()

    async def retire(self, kept: Collection[str]) -> int:
        """See the port."""
        await self._request("retire")
        current = next(reversed(self._keys), "")
        going = [key_id for key_id in self._keys if key_id not in kept and key_id != current]
        for key_id in going:
            del self._keys[key_id]
        return len(going)
