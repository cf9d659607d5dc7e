"""Secrets: create, update, list, describe, delete, audit. Values go in and never come out."""

from __future__ import annotations

import msgspec

from jitney.values.secrets import Discreet, SecretRecord, SecretUse, SecretVersion


class SecretCreate(Discreet, frozen=True, kw_only=True):
    """A secret with a name. The client makes the id: a request that comes twice makes one secret.

    `overwrite`: one that has the name gets these values instead of all that it has, as its next version.
    """

    secret_id: str
    name: str
    values: dict[str, str]
    overwrite: bool = False


class SecretUpdate(Discreet, frozen=True, kw_only=True):
    """Set some variables of a secret; those that are null are taken away."""

    name: str
    values: dict[str, str | None]


class SecretRename(msgspec.Struct, frozen=True, kw_only=True):
    """Give a secret with a name another one."""

    secret_id: str
    new_name: str


class SecretName(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class SecretList(msgspec.Struct, frozen=True, kw_only=True):
    created_before_ms: int | None = None
    limit: int = 100


class SecretListed(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    secrets: tuple[SecretRecord, ...]


class SecretInfo(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be known of a secret; `versions` are newest first."""

    secret: SecretRecord
    versions: tuple[SecretVersion, ...]


class SecretAudit(msgspec.Struct, frozen=True, kw_only=True):
    """What was done with a secret that has the name, or had it; '': with any."""

    name: str = ""
    limit: int = 100


class SecretAudited(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    entries: tuple[SecretUse, ...]


class SecretRotate(msgspec.Struct, frozen=True, kw_only=True):
    """Make a new key, and wrap all data keys with it."""


class SecretRotated(msgspec.Struct, frozen=True, kw_only=True):
    """`retired`: keys that nothing needs any more, and that are gone."""

    key_id: str
    rewrapped: int
    retired: int
