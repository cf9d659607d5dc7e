"""Which objects there are: all of them in memory, read from the store when the first is asked for.

Ephemeral objects end when their heartbeats stay away; after a start of the server they have their time again. Whoever
keeps something for the objects of a kind says in `on_deleted` what to do when one goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from jitney.core.objects import missing, taken
from jitney.errors import AlreadyExistsError, InvalidError, NotFoundError, ResourceExhaustedError
from jitney.ports.store import Store
from jitney.values import ids, objects
from jitney.values.objects import ObjectKind, ObjectRecord
from jitney.wire.messages.objects import ObjectOpen

TIDY_AT_ONCE = 5_000


class Objects:
    """The named and ephemeral objects of this server."""

    def __init__(self, store: Store, now_ms: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._entropy = entropy
        self._records: dict[str, ObjectRecord] = {}
        self._names: dict[tuple[ObjectKind, str], str] = {}
        self._loaded_at_ms: int | None = None
        self._loading = asyncio.Lock()
        self.on_deleted: dict[ObjectKind, Callable[[ObjectRecord], None]] = {}

    async def load(self) -> None:
        """Know what the store has; instant after the first time."""
        if self._loaded_at_ms is not None:
            return
        async with self._loading:
            if self._loaded_at_ms is None:
                for record in await self._store.objects.all():
                    self._add(record)
                self._loaded_at_ms = self._now_ms()

    def _add(self, record: ObjectRecord) -> ObjectRecord:
        self._records[record.object_id] = record
        if record.name:
            self._names[record.kind, record.name] = record.object_id
        return record

    async def find(self, object_id: str, kind: ObjectKind) -> ObjectRecord:
        """The object with that id.

        Raises:
            InvalidError: it is no id of that kind. NotFoundError: there is none.
        """
        ids.check(object_id, kind.prefix)
        await self.load()
        record = self._records.get(object_id)
        if record is None:
            raise NotFoundError(f"no {kind} {object_id}", hint="it was deleted, or it was ephemeral and nobody used it")
        return record

    async def named(self, name: str, kind: ObjectKind) -> ObjectRecord:
        """The object with that name.

        Raises:
            NotFoundError: there is none; with the nearest names.
        """
        objects.check_name(name, kind)
        await self.load()
        object_id = self._names.get((kind, name))
        if object_id is None:
            raise missing(kind, name, [other for of, other in self._names if of is kind])
        return self._records[object_id]

    async def open(self, request: ObjectOpen) -> ObjectRecord:
        """Find an object, or make it.

        Raises:
            NotFoundError: there is none, and none is to be made.
            ResourceExhaustedError: there are too many.
        """
        if request.object_id:
            return await self.find(request.object_id, request.kind)
        if not request.ephemeral:
            try:
                return await self.named(request.name, request.kind)
            except NotFoundError:
                if not request.create_if_missing:
                    raise
        elif request.name:
            raise InvalidError("an ephemeral object has no name")
        await self.load()
        if len(self._records) >= objects.OBJECTS_MAX:
            raise ResourceExhaustedError(
                f"there are {len(self._records):,} objects, which is the limit", hint="delete what is not needed"
            )
        now_ms = self._now_ms()
        record = ObjectRecord(
            object_id=ids.make(request.kind.prefix, self._entropy(ids.ENTROPY_BYTES)),
            kind=request.kind,
            name="" if request.ephemeral else request.name,
            created_at_ms=now_ms,
            heartbeat_at_ms=now_ms,
        )
        return self._add(await self._store.objects.create(record))

    async def listed(self, kind: ObjectKind, limit: int) -> list[ObjectRecord]:
        """Named objects of a kind, newest first."""
        await self.load()
        found = [record for record in self._records.values() if record.kind is kind and record.name]
        return found[::-1][:limit]

    async def rename(self, record: ObjectRecord, name: str) -> ObjectRecord:
        """Give an object another name. Its id stays: handles that have it, and mounts, notice nothing.

        Raises:
            InvalidError: it has no name. AlreadyExistsError: the name is taken.
        """
        objects.check_name(name, record.kind)
        if record.is_ephemeral:
            raise InvalidError(f"an ephemeral {record.kind} has no name, and gets none")
        try:
            renamed = await self._store.objects.rename(record.object_id, name)
        except AlreadyExistsError:
            raise taken(record.kind, name) from None
        if record.object_id in self._records:
            self._names.pop((record.kind, self._records[record.object_id].name), None)
            self._add(renamed)
        return renamed

    async def delete(self, records: list[ObjectRecord]) -> None:
        """End objects. Their names are free again when this returns."""
        for record in await self._store.objects.delete([record.object_id for record in records]):
            self._records.pop(record.object_id, None)
            if record.name:
                self._names.pop((record.kind, record.name), None)
            if record.kind in self.on_deleted:
                self.on_deleted[record.kind](record)

    async def heartbeat(self, object_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Note that ephemeral objects are used: those that are not there (any more)."""
        await self.load()
        now_ms = self._now_ms()
        there = [object_id for object_id in object_ids if object_id in self._records]
        for object_id in there:
            record = self._records[object_id]
            if record.is_ephemeral:
                self._records[object_id] = replace(record, heartbeat_at_ms=now_ms)
        if there:
            await self._store.objects.heartbeat(there, now_ms)
        return tuple(object_id for object_id in object_ids if object_id not in self._records)

    async def sweep(self) -> None:
        """End ephemeral objects that nobody uses, and drop what deleted ones had."""
        await self.load()
        now_ms = self._now_ms()
        if self._loaded_at_ms is not None and now_ms - self._loaded_at_ms >= objects.EPHEMERAL_MS:
            ended = [record for record in self._records.values() if record.has_ended(now_ms)]
            if ended:
                await self.delete(ended)
        while await self._store.objects.tidy(limit=TIDY_AT_ONCE):
            pass
