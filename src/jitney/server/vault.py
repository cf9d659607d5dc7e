"""Secrets at the server: sealed as they come, opened for a container that starts, and for nothing else.

Each version has a data key of its own, and the context of both seals is the secret's id, name and version: a row that
was put in another's place does not open. An entry of the audit is durable before a value goes out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from jitney.core import secrets as core
from jitney.core.objects import taken
from jitney.errors import AlreadyExistsError, JitneyError, SecretUnreadableError
from jitney.ports.keys import KeyRing
from jitney.ports.secrets import Kept
from jitney.ports.store import Store
from jitney.server.seals import Seals
from jitney.values import ids
from jitney.values.buckets import BucketMount
from jitney.values.functions import FunctionSpec
from jitney.values.objects import ObjectKind, check_name
from jitney.values.secrets import Action, SecretRecord, SecretRef, SecretUse, check_values
from jitney.wire.messages.secrets import SecretRotated

TIDY_S = 60.0
OF_NO_APP_MS = 600_000  # secrets of an app are recorded before the app is
AUDIT_KEPT_MS = 400 * 24 * 3_600_000

log = logging.getLogger("jitney.vault")


class Vault:
    """See the module. Implements `scaling.SecretSource`."""

    def __init__(
        self, *, store: Store, keys: KeyRing, entropy: Callable[[int], bytes], wall_ms: Callable[[], int]
    ) -> None:
        self._store = store.secrets
        self._seals = Seals(store=store.secrets, keys=keys, entropy=entropy)
        self._wall_ms = wall_ms
        # Whatever seals and records, or wraps anew and retires keys: no key must go while something is sealed with it.
        self._changing = asyncio.Lock()

    # ------------------------------------------------------------------------------------------- with a name

    async def create(self, secret_id: str, name: str, values: Mapping[str, str], *, overwrite: bool) -> SecretRecord:
        """Record a secret, or its next version.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        ids.check(secret_id, ids.SECRET)
        check_name(name, ObjectKind.SECRET)
        values = check_values(values)
        async with self._changing:
            known = (await self._store.by_name([name])).get(name)
            if known is None:
                return await self._create(secret_id, name, "", values)
            if known.record.secret_id == secret_id:  # the answer to the first request was lost
                return known.record
            if not overwrite:
                raise AlreadyExistsError(
                    f"there is a secret {name!r} already",
                    hint="`jitney secret create --force` replaces all its values; in Python, `secret.update` sets some",
                )
            return await self._replace(known, values)

    async def update(self, name: str, changes: Mapping[str, str | None]) -> SecretRecord:
        """Set some variables of a secret, and take others away.

        Raises:
            NotFoundError: there is no such secret.
        """
        async with self._changing:
            known = await self.find(name)
            return await self._replace(known, core.changed(await self._seals.open(known), changes))

    async def rename(self, secret_id: str, name: str) -> SecretRecord:
        """Give a secret another name. What it is sealed for names it, so that this is a version, with its values.

        Raises:
            NotFoundError: there is no such secret with a name. AlreadyExistsError: the name is taken.
            SecretUnreadableError: it cannot be opened, and so not sealed for the other name.
        """
        ids.check(secret_id, ids.SECRET)
        check_name(name, ObjectKind.SECRET)
        async with self._changing:
            known = (await self._store.get([secret_id])).get(secret_id)
            if known is None or not known.record.name:
                raise core.no_secret(SecretRef(secret_id=secret_id), ())
            before = known.record
            if before.name == name:  # the answer to the first request was lost
                return before
            if (await self._store.by_name([name])).get(name) is not None:
                raise taken(ObjectKind.SECRET, name)
            record = msgspec.structs.replace(
                before, name=name, version=before.version + 1, updated_at_ms=self._wall_ms()
            )
            sealed = await self._seals.seal(record, await self._seals.open(known))
            entries = [
                msgspec.structs.replace(self._entry(Action.RENAMED, one), other_name=other.name)
                for one, other in ((before, record), (record, before))
            ]
            await self._store.update(Kept(record, sealed), *entries)
            return record

    async def delete(self, name: str) -> None:
        """Remove a secret. Containers that were started with it keep what they have.

        Raises:
            NotFoundError: there is no such secret.
        """
        known = await self.find(name)
        await self._store.delete(known.record.secret_id, self._entry(Action.DELETED, known.record))

    async def find(self, name: str) -> Kept:
        """The secret of that name.

        Raises:
            NotFoundError: with near names.
        """
        known = (await self._store.by_name([name])).get(name)
        if known is None:
            raise core.no_secret(SecretRef(name=check_name(name, ObjectKind.SECRET)), await self._store.names())
        return known

    async def _create(self, secret_id: str, name: str, app_id: str, values: Mapping[str, str]) -> SecretRecord:
        now_ms = self._wall_ms()
        record = SecretRecord(
            secret_id=secret_id,
            name=name,
            app_id=app_id,
            keys=tuple(sorted(values)),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        sealed = await self._seals.seal(record, values)
        recorded = await self._store.create(Kept(record, sealed), self._entry(Action.CREATED, record))
        if recorded.app_id != app_id or recorded.name != name:
            raise AlreadyExistsError(f"{secret_id} is the id of another secret")
        return recorded

    async def _replace(self, known: Kept, values: Mapping[str, str]) -> SecretRecord:
        """The next version, unless it would be as the last."""
        try:
            if await self._seals.open(known) == values:
                return known.record
        except JitneyError:
            pass  # it cannot be read any more, and is not going to be
        record = msgspec.structs.replace(
            known.record,
            version=known.record.version + 1,
            keys=tuple(sorted(values)),
            updated_at_ms=self._wall_ms(),
        )
        sealed = await self._seals.seal(record, values)
        await self._store.update(Kept(record, sealed), self._entry(Action.UPDATED, record))
        return record

    # ------------------------------------------------------------------------------------------- of an app

    async def settle(
        self, app_id: str, specs: Iterable[FunctionSpec], given: Mapping[str, Mapping[str, str]]
    ) -> tuple[FunctionSpec, ...]:
        """Functions of an app, whose secrets are all there. `given`: values of those without a name, by id.

        The same values have the same id as before, so that a function that did not change is the same.

        Raises:
            NotFoundError: a secret is not there, or does not have a variable that it must have.
        """
        specs = tuple(specs)
        wanted = {refs for spec in specs for refs in (spec.secrets, bucket_refs(spec.buckets)) if refs}
        settled = {refs: await self.settle_refs(app_id, refs, given) for refs in wanted}
        settled[()] = ()
        return tuple(
            msgspec.structs.replace(
                spec,
                secrets=settled[spec.secrets],
                buckets=with_refs(spec.buckets, settled[bucket_refs(spec.buckets)]),
            )
            if spec.secrets or spec.buckets
            else spec
            for spec in specs
        )

    async def settle_refs(
        self, app_id: str, refs: Sequence[SecretRef], given: Mapping[str, Mapping[str, str]]
    ) -> tuple[SecretRef, ...]:
        """As `settle`, for the secrets of one function."""
        adopted = await self._adopt(
            app_id, {ref.secret_id: given[ref.secret_id] for ref in refs if ref.secret_id in given}
        )
        refs = tuple(
            msgspec.structs.replace(ref, secret_id=adopted[ref.secret_id]) if ref.secret_id in adopted else ref
            for ref in refs
        )
        await self._find(refs, app_id)
        return refs

    async def _adopt(self, app_id: str, given: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Record values of an app: the id that each has here, by the one that its client gave it."""
        if not given:
            return {}
        adopted = {}
        async with self._changing:
            known = await self._readable(await self._store.of_app(app_id))
            for secret_id, values in given.items():
                values = check_values(values)
                ids.check(secret_id, ids.SECRET)
                same = next((one for one, its in known.items() if its == values), None)
                if same is None:
                    same = (await self._create(secret_id, "", app_id, values)).secret_id
                    known[same] = values
                adopted[secret_id] = same
        return adopted

    async def _readable(self, found: Sequence[Kept]) -> dict[str, Mapping[str, str]]:
        """Values by id; without those that cannot be opened, which are to be recorded anew."""
        known: dict[str, Mapping[str, str]] = {}
        for kept in found:
            try:
                known[kept.record.secret_id] = await self._seals.open(kept)
            except SecretUnreadableError as error:
                log.warning("%s", error)
        return known

    # ------------------------------------------------------------------------------------------- going out

    async def open(self, refs: Sequence[SecretRef], env: Mapping[str, str], use: SecretUse) -> dict[str, str]:
        """The variables that a container gets, once it is recorded that it does. `use`: what for.

        Raises:
            NotFoundError: a secret is not there, or does not have a variable that it must have.
            SecretUnreadableError: one cannot be opened.
        """
        try:
            found = await self._find(refs, use.app_id)
            parts = [await self._seals.open(kept) for kept in found]
        except SecretUnreadableError:  # its key may have been retired between the two
            found = await self._find(refs, use.app_id)
            parts = [await self._seals.open(kept) for kept in found]
        values = core.merged(parts, env)
        await self._store.used([self._entry(use.action, kept.record, use) for kept in found])
        return values

    async def by_name(self, refs: Sequence[SecretRef], use: SecretUse) -> dict[str, dict[str, str]]:
        """The variables of secrets with names, by name: for steps of a build.

        Raises:
            NotFoundError, SecretUnreadableError: as `open`.
        """
        found = {}
        for ref in refs:
            found[ref.name] = await self.open([ref], {}, use)
        return found

    async def _find(self, refs: Sequence[SecretRef], app_id: str) -> list[Kept]:
        """What they refer to, in order, with all that is required."""
        by_id = await self._store.get([ref.secret_id for ref in refs if ref.secret_id]) if refs else {}
        by_name = await self._store.by_name([ref.name for ref in refs if ref.name]) if refs else {}
        found = []
        for ref in refs:
            kept = by_name.get(ref.name) if ref.name else by_id.get(ref.secret_id)
            if kept is None or (ref.secret_id and kept.record.app_id != app_id):
                raise core.no_secret(ref, await self._store.names())
            core.check_required(ref, kept.record)
            found.append(kept)
        return found

    def _entry(self, action: Action, record: SecretRecord, use: SecretUse | None = None) -> SecretUse:
        about = use or SecretUse(at_ms=0, action=action, secret_id="", app_id=record.app_id)
        return msgspec.structs.replace(
            about,
            at_ms=self._wall_ms(),
            action=action,
            secret_id=record.secret_id,
            name=record.name,
            version=record.version,
        )

    async def keep_tidy(self) -> None:
        """Remove what belongs to apps that are no more, and entries of the audit that are very old. Until cancelled."""
        while True:
            now_ms = self._wall_ms()
            try:
                await self._store.expire(now_ms - OF_NO_APP_MS)
                await self._store.forget(now_ms - AUDIT_KEPT_MS)
            except JitneyError as error:
                log.error("secrets were not tidied: %s", error)
            await asyncio.sleep(TIDY_S)

    async def rotate(self) -> SecretRotated:
        """Make a new key, wrap every data key with it, and retire keys that nothing needs any more.

        Raises:
            EncryptionKeyError, SecretUnreadableError: as `Seals.rotate`.
        """
        async with self._changing:
            return await self._seals.rotate()


def bucket_refs(buckets: Sequence[BucketMount]) -> tuple[SecretRef, ...]:
    """The secrets of buckets, in their order."""
    return tuple(bucket.secret for bucket in buckets if bucket.secret is not None)


def with_refs(buckets: Sequence[BucketMount], refs: Sequence[SecretRef]) -> tuple[BucketMount, ...]:
    """Buckets, with these secrets in place of theirs."""
    left = iter(refs)
    return tuple(
        bucket if bucket.secret is None else msgspec.structs.replace(bucket, secret=next(left)) for bucket in buckets
    )
