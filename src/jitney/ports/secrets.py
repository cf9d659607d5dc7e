"""Secrets as they are kept: sealed, with who used them. A repository of the store: its contract is in ports.store.

The values of a version are kept until the next replaces it; that there was one, and since when, is kept longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from jitney.values.secrets import Sealed, SecretRecord, SecretUse, SecretVersion, Wrapped

VERSIONS_MAX = 100  # of one secret that are listed


class Kept(msgspec.Struct, frozen=True):
    """A secret, and the values of its version."""

    record: SecretRecord
    sealed: Sealed


class Rewrapped(msgspec.Struct, frozen=True, kw_only=True):
    """The data key of a version, wrapped anew. `before`: the key that wrapped it until now."""

    secret_id: str
    version: int
    before: str
    data_key: Wrapped


class SecretStore(Protocol):
    """Secrets, their versions, and the audit. Entries of the audit are written with what they tell of."""

    async def create(self, kept: Kept, entry: SecretUse) -> SecretRecord:
        """Record a secret. One with this id that is there already stays, and is given.

        Raises:
            AlreadyExistsError: another one has the name.
        """

    async def update(self, kept: Kept, *entries: SecretUse) -> None:
        """Record the next version: name, values, names of variables, time. The same version again changes nothing.

        Raises:
            NotFoundError: there is no such secret.
            AlreadyExistsError: it is not the next version: somebody else has changed it. Or another one has the name.
        """

    async def get(self, secret_ids: Sequence[str]) -> dict[str, Kept]:
        """Those of the secrets that are there, by id."""

    async def by_name(self, names: Sequence[str]) -> dict[str, Kept]:
        """Those of the secrets that are there, by name."""

    async def of_app(self, app_id: str) -> list[Kept]:
        """The secrets without a name that belong to an app, in the order of their creation."""

    async def names(self, *, limit: int = 10_000) -> list[str]:
        """Names of secrets, in order."""

    async def recent(self, *, before_ms: int | None = None, limit: int = 100) -> list[SecretRecord]:
        """Secrets with a name, newest first; those that were created before a time."""

    async def versions(self, secret_id: str, *, limit: int = VERSIONS_MAX) -> list[SecretVersion]:
        """The versions of a secret, newest first."""

    async def delete(self, secret_id: str, entry: SecretUse) -> bool:
        """Remove a secret with its versions, and record that; False, and no record, if there is none."""

    async def drop(self, app_id: str) -> int:
        """Remove the secrets without a name of an app: how many."""

    async def expire(self, before_ms: int, *, limit: int = 1_000) -> int:
        """Remove secrets without a name, created before, of apps that have stopped or never began: how many."""

    async def used(self, entries: Sequence[SecretUse]) -> None:
        """Record uses, and when each secret was used last."""

    async def uses(self, *, name: str = "", secret_id: str = "", limit: int = 100) -> list[SecretUse]:
        """The audit of a name, or of an id, or all of it, newest first."""

    async def forget(self, before_ms: int, *, limit: int = 10_000) -> int:
        """Drop entries of the audit from before: how many."""

    async def key_ids(self) -> list[str]:
        """The keys that wrap data keys now, in order."""

    async def wrapped_by_others(self, key_id: str, *, limit: int = 100) -> list[Kept]:
        """Secrets whose data keys are wrapped by another key, in the order of their creation."""

    async def rewrap(self, changes: Sequence[Rewrapped]) -> int:
        """Record wrapped keys, each where the version and its key are still those: how many were."""
