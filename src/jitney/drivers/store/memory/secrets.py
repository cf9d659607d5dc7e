"""Secrets, in dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from jitney.drivers.store.memory.faults import Faults
from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.ports.secrets import VERSIONS_MAX, Kept, Rewrapped
from jitney.values.secrets import SecretRecord, SecretUse, SecretVersion


class MemorySecrets:
    """`ports.secrets.SecretStore`. `is_alive` says whether an app is there and has not stopped."""

    def __init__(self, faults: Faults, is_alive: Callable[[str], bool]) -> None:
        self._step = faults.step
        self._is_alive = is_alive
        self._secrets: dict[str, Kept] = {}
        self._versions: dict[str, list[SecretVersion]] = {}
        self._uses: list[SecretUse] = []

    def _record(self, kept: Kept, *entries: SecretUse) -> None:
        record = kept.record
        self._secrets[record.secret_id] = kept
        version = SecretVersion(version=record.version, at_ms=record.updated_at_ms)
        self._versions.setdefault(record.secret_id, []).insert(0, version)
        for entry in entries:
            self._note(entry)

    def _note(self, entry: SecretUse) -> None:
        same = (entry.secret_id, entry.at_ms, entry.action, entry.version, entry.container_id)
        if same not in [(one.secret_id, one.at_ms, one.action, one.version, one.container_id) for one in self._uses]:
            self._uses.append(entry)

    def _check_free(self, record: SecretRecord) -> None:
        others = (kept.record for kept in self._secrets.values())
        if record.name and any(one.name == record.name and one.secret_id != record.secret_id for one in others):
            raise AlreadyExistsError(f"there is a secret {record.name!r} already")

    async def create(self, kept: Kept, entry: SecretUse) -> SecretRecord:
        def operation() -> SecretRecord:
            known = self._secrets.get(kept.record.secret_id)
            if known is not None:
                return known.record
            self._check_free(kept.record)
            self._record(kept, entry)
            return kept.record

        return await self._step(operation)

    async def update(self, kept: Kept, *entries: SecretUse) -> None:
        def operation() -> None:
            record = kept.record
            known = self._secrets.get(record.secret_id)
            if known is None:
                raise NotFoundError(f"no secret {record.secret_id!r}")
            if (known.record.version, known.sealed) == (record.version, kept.sealed):
                return
            if record.version != known.record.version + 1:
                raise AlreadyExistsError(f"version {record.version} of the secret is there already")
            self._check_free(record)
            changed = replace(
                known.record,
                name=record.name,
                version=record.version,
                keys=record.keys,
                updated_at_ms=record.updated_at_ms,
            )
            self._record(Kept(changed, kept.sealed), *entries)

        await self._step(operation)

    async def get(self, secret_ids: Sequence[str]) -> dict[str, Kept]:
        return await self._step(lambda: {key: kept for key, kept in self._secrets.items() if key in secret_ids})

    async def by_name(self, names: Sequence[str]) -> dict[str, Kept]:
        def operation() -> dict[str, Kept]:
            found = [kept for kept in self._secrets.values() if kept.record.name and kept.record.name in names]
            return {kept.record.name: kept for kept in found}

        return await self._step(operation)

    async def of_app(self, app_id: str) -> list[Kept]:
        return await self._step(lambda: [self._secrets[one] for one in self._ids_of_app(app_id)])

    def _ids_of_app(self, app_id: str) -> list[str]:
        return [key for key, kept in self._secrets.items() if app_id and kept.record.app_id == app_id]

    async def names(self, *, limit: int = 10_000) -> list[str]:
        return await self._step(lambda: sorted(filter(None, (k.record.name for k in self._secrets.values())))[:limit])

    async def recent(self, *, before_ms: int | None = None, limit: int = 100) -> list[SecretRecord]:
        def operation() -> list[SecretRecord]:
            records = [kept.record for kept in self._secrets.values() if kept.record.name]
            return [one for one in records[::-1] if before_ms is None or one.created_at_ms < before_ms][:limit]

        return await self._step(operation)

    async def versions(self, secret_id: str, *, limit: int = VERSIONS_MAX) -> list[SecretVersion]:
        return await self._step(lambda: self._versions.get(secret_id, [])[:limit])

    async def delete(self, secret_id: str, entry: SecretUse) -> bool:
        def operation() -> bool:
            if not self._remove([secret_id]):
                return False
            self._note(entry)
            return True

        return await self._step(operation)

    def _remove(self, secret_ids: Sequence[str]) -> int:
        there = [secret_id for secret_id in secret_ids if secret_id in self._secrets]
        for secret_id in there:
            del self._secrets[secret_id], self._versions[secret_id]
        return len(there)

    async def drop(self, app_id: str) -> int:
        return await self._step(lambda: self._remove(self._ids_of_app(app_id)))

    async def expire(self, before_ms: int, *, limit: int = 1_000) -> int:
        def operation() -> int:
            over = [
                record.secret_id
                for record in (kept.record for kept in self._secrets.values())
                if record.app_id and record.created_at_ms < before_ms and not self._is_alive(record.app_id)
            ]
            return self._remove(over[:limit])

        return await self._step(operation)

    async def used(self, entries: Sequence[SecretUse]) -> None:
        def operation() -> None:
            for entry in entries:
                self._note(entry)
                kept = self._secrets.get(entry.secret_id)
                if kept is not None:
                    at_ms = max(kept.record.used_at_ms or entry.at_ms, entry.at_ms)
                    self._secrets[entry.secret_id] = Kept(replace(kept.record, used_at_ms=at_ms), kept.sealed)

        await self._step(operation)

    async def uses(self, *, name: str = "", secret_id: str = "", limit: int = 100) -> list[SecretUse]:
        def operation() -> list[SecretUse]:
            found = self._uses[::-1]
            if name:
                found = [entry for entry in found if entry.name == name]
            elif secret_id:
                found = [entry for entry in found if entry.secret_id == secret_id]
            return found[:limit]

        return await self._step(operation)

    async def forget(self, before_ms: int, *, limit: int = 10_000) -> int:
        def operation() -> int:
            old = [entry for entry in self._uses if entry.at_ms < before_ms][:limit]
            self._uses = [entry for entry in self._uses if not any(entry is one for one in old)]
            return len(old)

        return await self._step(operation)

    async def key_ids(self) -> list[str]:
        return await self._step(lambda: sorted({kept.sealed.data_key.key_id for kept in self._secrets.values()}))

    async def wrapped_by_others(self, key_id: str, *, limit: int = 100) -> list[Kept]:
        def operation() -> list[Kept]:
            return [kept for kept in self._secrets.values() if kept.sealed.data_key.key_id != key_id][:limit]

        return await self._step(operation)

    async def rewrap(self, changes: Sequence[Rewrapped]) -> int:
        def operation() -> int:
            count = 0
            for change in changes:
                kept = self._secrets.get(change.secret_id)
                if kept is None or (kept.record.version, kept.sealed.data_key.key_id) != (
                    change.version,
                    change.before,
                ):
                    continue
                self._secrets[change.secret_id] = Kept(kept.record, replace(kept.sealed, data_key=change.data_key))
                count += 1
            return count

        return await self._step(operation)
