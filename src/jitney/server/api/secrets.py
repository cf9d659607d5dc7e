"""Secrets: create, update, delete, list, info, audit, rotation of the key. No method gives a value."""

from __future__ import annotations

from jitney.errors import InvalidError
from jitney.ports.store import Store
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.vault import Vault
from jitney.values.secrets import SecretRecord
from jitney.wire import methods
from jitney.wire.messages import secrets as sm
from jitney.wire.messages.apps import Done

LIST_MAX = 1_000


class SecretsApi:
    """Handlers of the secret.* methods."""

    def __init__(self, *, vault: Vault, store: Store) -> None:
        self._vault = vault
        self._store = store.secrets

    def register(self, table: Table) -> None:
        """Answer the secret.* methods."""
        table.on(methods.SECRET_CREATE, self.create)
        table.on(methods.SECRET_UPDATE, self.update)
        table.on(methods.SECRET_RENAME, self.rename)
        table.on(methods.SECRET_DELETE, self.delete)
        table.on(methods.SECRET_LIST, self.listed)
        table.on(methods.SECRET_INFO, self.info)
        table.on(methods.SECRET_AUDIT, self.audit)
        table.on(methods.SECRET_ROTATE_KEY, self.rotate)

    async def create(self, peer: Peer, request: sm.SecretCreate, emit: Emit) -> SecretRecord:
        """A secret with a name."""
        return await self._vault.create(request.secret_id, request.name, request.values, overwrite=request.overwrite)

    async def update(self, peer: Peer, request: sm.SecretUpdate, emit: Emit) -> SecretRecord:
        """Some of its variables."""
        return await self._vault.update(request.name, request.values)

    async def rename(self, peer: Peer, request: sm.SecretRename, emit: Emit) -> SecretRecord:
        """Another name for a secret."""
        return await self._vault.rename(request.secret_id, request.new_name)

    async def delete(self, peer: Peer, request: sm.SecretName, emit: Emit) -> Done:
        """A secret goes; containers that have it keep it."""
        await self._vault.delete(request.name)
        return Done()

    async def listed(self, peer: Peer, request: sm.SecretList, emit: Emit) -> sm.SecretListed:
        """Secrets with a name, newest first."""
        found = await self._store.recent(before_ms=request.created_before_ms, limit=_limit(request.limit))
        return sm.SecretListed(secrets=tuple(found))

    async def info(self, peer: Peer, request: sm.SecretName, emit: Emit) -> sm.SecretInfo:
        """Names of its variables, times, versions."""
        record = (await self._vault.find(request.name)).record
        return sm.SecretInfo(secret=record, versions=tuple(await self._store.versions(record.secret_id)))

    async def audit(self, peer: Peer, request: sm.SecretAudit, emit: Emit) -> sm.SecretAudited:
        """What was done with secrets of a name, also with one that is gone."""
        entries = await self._store.uses(name=request.name, limit=_limit(request.limit))
        if request.name and not entries:
            await self._vault.find(request.name)
        return sm.SecretAudited(entries=tuple(entries))

    async def rotate(self, peer: Peer, request: sm.SecretRotate, emit: Emit) -> sm.SecretRotated:
        """A new key for all."""
        return await self._vault.rotate()


def _limit(asked: int) -> int:
    if asked < 1:
        raise InvalidError("limit must be above zero")
    return min(asked, LIST_MAX)
