"""How versions of secrets are sealed and opened, and which keys wrap their data keys. See `vault`.

What cannot be opened is told by one error whoever asks, a person or a container that starts: which secret, why, and
what to do next. No value is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from jitney.core import sealing
from jitney.errors import EncryptionKeyError, SecretUnreadableError
from jitney.ports.keys import KeyRing
from jitney.ports.secrets import Kept, Rewrapped, SecretStore
from jitney.values.secrets import Sealed, SecretRecord
from jitney.wire.messages.secrets import SecretRotated

REWRAPPED_AT_ONCE = 100

_encode = msgspec.msgpack.Encoder().encode
_values = msgspec.msgpack.Decoder(dict[str, str]).decode


class Seals:
    """Seals values for a record, and opens them for the same."""

    def __init__(self, *, store: SecretStore, keys: KeyRing, entropy: Callable[[int], bytes]) -> None:
        self._store = store
        self._keys = keys
        self._entropy = entropy

    async def seal(self, record: SecretRecord, values: Mapping[str, str]) -> Sealed:
        """Values, for this record.

        Raises:
            EncryptionKeyError: a key that is needed is not there.
        """
        await self._check_keys()
        about = context_of(record)
        data_key = self._entropy(sealing.KEY_BYTES)
        nonce = self._entropy(sealing.NONCE_BYTES)
        sealed = sealing.seal(_encode(dict(values)), data_key, nonce, about)
        return Sealed(data_key=await self._keys.wrap(data_key, about), nonce=nonce, sealed=sealed)

    async def _check_keys(self) -> None:
        """Seal nothing while what is there cannot be opened: with a new key in the place of a lost one, bringing that
        back would lose the new."""
        absent = await self._keys.missing(await self._store.key_ids())
        if absent:
            for kept in await self._store.wrapped_by_others("", limit=1_000):
                if kept.sealed.data_key.key_id in absent:  # who has the keys can say best what is wrong
                    await self._keys.unwrap(kept.sealed.data_key, context_of(kept.record))

    async def open(self, kept: Kept) -> dict[str, str]:
        """The values of a version.

        Raises:
            SecretUnreadableError: they cannot be had.
        """
        about = context_of(kept.record)
        try:
            data_key = await self._keys.unwrap(kept.sealed.data_key, about)
            return _values(sealing.unseal(kept.sealed.sealed, data_key, kept.sealed.nonce, about))
        except EncryptionKeyError as error:
            raise unreadable(kept.record, error.message, error.hint) from None
        except (sealing.Unsealable, msgspec.MsgspecError):
            remedy = f"`jitney secret create {kept.record.name} KEY=VALUE --force` gives it all its values anew"
            raise unreadable(
                kept.record,
                "its record was damaged, or put in another's place",
                remedy if kept.record.name else "run or deploy the app again: it is recorded anew",
            ) from None

    async def rotate(self) -> SecretRotated:
        """Make a new key, wrap every data key with it, and retire keys that nothing needs any more.

        Raises:
            EncryptionKeyError: the keys cannot be had. What was done stays done: do it again.
            SecretUnreadableError: one cannot be opened.
        """
        key_id = await self._keys.rotate()
        count = 0
        while kept := await self._store.wrapped_by_others(key_id, limit=REWRAPPED_AT_ONCE):
            count += await self._store.rewrap([await self._rewrapped(one) for one in kept])
        retired = await self._keys.retire(await self._store.key_ids())
        return SecretRotated(key_id=key_id, rewrapped=count, retired=retired)

    async def _rewrapped(self, kept: Kept) -> Rewrapped:
        record, wrapped = kept.record, kept.sealed.data_key
        about = context_of(record)
        await self.open(kept)  # what cannot be read is told now, and not when it is needed
        data_key = await self._keys.unwrap(wrapped, about)
        return Rewrapped(
            secret_id=record.secret_id,
            version=record.version,
            before=wrapped.key_id,
            data_key=await self._keys.wrap(data_key, about),
        )


def context_of(record: SecretRecord) -> bytes:
    """What a version is sealed for."""
    return sealing.context("jitney secret", record.secret_id, record.name, record.app_id, record.version)


def unreadable(record: SecretRecord, why: str, remedy: str) -> SecretUnreadableError:
    """The error for a version that cannot be opened."""
    what = f"secret {record.name!r}"
    if not record.name:
        what = f"the secret {record.secret_id} of app {record.app_id}, with {', '.join(record.keys)},"
    return SecretUnreadableError(f"{what} cannot be opened: {why}", hint=remedy)
