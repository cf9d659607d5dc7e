"""Keys that wrap data keys: what the secrets of a server can be read with.

A value is sealed with a data key of its own, and the data key is wrapped with a key of a ring, which never leaves it:
a file that only the server can read, or a service that wraps and unwraps. Making a new key and wrapping the data keys
again is all that a rotation takes; values are not touched.

The contract, for every driver:

 1. `unwrap` gives what `wrap` was given, for the same context only. It raises EncryptionKeyError where the ring does
    not have the key, and `core.sealing.Unsealable` where the key is there and does not fit: what was wrapped, or the
    context, was changed.
 2. `wrap` uses the current key. The first use makes one. Two wraps of the same data key differ.
 3. `rotate` makes a new key the current one, and gives its id. Earlier ones go on unwrapping.
 4. `retire` forgets keys but those that are named and the current one. It is the only way that a key goes.
 5. `missing` gives those of the ids that the ring cannot unwrap with, and makes nothing.
 6. What `wrap`, `rotate` and `retire` changed is durable when they give, and is whole or not there after a crash.
 7. A ring that cannot be reached, read or trusted raises EncryptionKeyError, which says what to do; nothing is made
    anew in its place.
 8. No key and no data key is in a message, a repr or a log.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from jitney.values.secrets import Wrapped


class KeyRing(Protocol):
    """Wraps and unwraps; see the contract above."""

    async def wrap(self, data_key: bytes, context: bytes) -> Wrapped:
        """The data key, wrapped with the current key.

        Raises:
            EncryptionKeyError: the ring cannot be used.
        """
        ...

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """The data key.

        Raises:
            EncryptionKeyError: the ring does not have the key, or cannot be used.
            Unsealable: it was not wrapped so.
        """
        ...

    async def missing(self, key_ids: Collection[str]) -> set[str]:
        """Those of the keys that the ring does not have.

        Raises:
            EncryptionKeyError: the ring cannot be used.
        """
        ...

    async def rotate(self) -> str:
        """Make a new current key: its id.

        Raises:
            EncryptionKeyError: the ring cannot be used.
        """
        ...

    async def retire(self, kept: Collection[str]) -> int:
        """Forget all keys but these and the current one: how many went.

        Raises:
            EncryptionKeyError: the ring cannot be used.
        """
        ...
