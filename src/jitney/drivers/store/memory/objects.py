"""Objects, entries of dicts and items of queues, in dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from jitney.drivers.store.memory.faults import Faults
from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.ports.objects import DictWrite, Op, QueueWrite
from jitney.values.calls import BY_FILE
from jitney.values.dicts import DictEntry
from jitney.values.objects import ObjectRecord
from jitney.values.queues import StoredItem


class MemoryObjects:
    """`ports.objects.ObjectStore`."""

    def __init__(self, faults: Faults) -> None:
        self._step = faults.step
        self.records: dict[str, ObjectRecord] = {}
        self.entries: dict[int, tuple[str, DictEntry]] = {}
        self.items: dict[int, tuple[str, StoredItem]] = {}
        self._ops: dict[int, Op] = {}

    async def create(self, record: ObjectRecord) -> ObjectRecord:
        def operation() -> ObjectRecord:
            for known in self.records.values():
                if record.name and (known.kind, known.name) == (record.kind, record.name):
                    return known
            known = self.records.setdefault(record.object_id, record)
            if (known.kind, known.name) != (record.kind, record.name):
                raise AlreadyExistsError(f"{record.object_id} is the id of another object")
            return known

        return await self._step(operation)

    async def all(self) -> list[ObjectRecord]:
        return await self._step(lambda: list(self.records.values()))

    async def heartbeat(self, object_ids: Sequence[str], now_ms: int) -> None:
        def operation() -> None:
            for object_id in object_ids:
                record = self.records.get(object_id)
                if record is not None and not record.name:
                    self.records[object_id] = replace(record, heartbeat_at_ms=max(record.heartbeat_at_ms, now_ms))

        await self._step(operation)

    async def rename(self, object_id: str, name: str) -> ObjectRecord:
        def operation() -> ObjectRecord:
            record = self.records.get(object_id)
            if record is None or not record.name:
                raise NotFoundError(f"no object {object_id!r} has a name")
            for other in self.records.values():
                if (other.kind, other.name) == (record.kind, name) and other is not record:
                    raise AlreadyExistsError(f"there is a {record.kind} {name!r} already")
            self.records[object_id] = replace(record, name=name)
            return self.records[object_id]

        return await self._step(operation)

    async def delete(self, object_ids: Sequence[str]) -> list[ObjectRecord]:
        def operation() -> list[ObjectRecord]:
            there = [object_id for object_id in dict.fromkeys(object_ids) if object_id in self.records]
            # What was theirs waits for `tidy`, and is not that of objects which are made anew.
            self.entries = {n: ("" if of in there else of, entry) for n, (of, entry) in self.entries.items()}
            self.items = {n: ("" if of in there else of, item) for n, (of, item) in self.items.items()}
            return [self.records.pop(object_id) for object_id in there]

        return await self._step(operation)

    async def tidy(self, *, limit: int = 5_000) -> int:
        def operation() -> int:
            entries = [n for n, (owner, _) in self.entries.items() if not owner][:limit]
            for number in entries:
                del self.entries[number]
            items = [n for n, (owner, _) in self.items.items() if not owner][: limit - len(entries)]
            for number in items:
                del self.items[number]
            return len(entries) + len(items)

        return await self._step(operation)

    def note(self, ops: Sequence[Op]) -> None:
        """Remember operations, with the write that they are of."""
        for op in ops:
            self._ops.setdefault(op.number, op)

    async def ops(self) -> list[Op]:
        return await self._step(lambda: [self._ops[number] for number in sorted(self._ops)])

    async def forget_ops(self, before_ms: int) -> None:
        def operation() -> None:
            self._ops = {number: op for number, op in self._ops.items() if op.at_ms >= before_ms}

        await self._step(operation)


class MemoryDicts:
    """`ports.objects.DictStore`."""

    def __init__(self, faults: Faults, objects: MemoryObjects) -> None:
        self._step = faults.step
        self._objects = objects

    async def write(self, writes: Sequence[DictWrite], ops: Sequence[Op] = ()) -> None:
        def operation() -> None:
            self._objects.note(ops)
            for write in writes:
                if write.object_id in self._objects.records:
                    self._write(write)

        await self._step(operation)

    def _write(self, write: DictWrite) -> None:
        entries, owner = self._objects.entries, write.object_id
        cleared = [n for n, (of, _) in entries.items() if of == owner and n < write.clear_before]
        for number in [*cleared, *write.drops]:
            if number in entries and entries[number][0] == owner:
                del entries[number]
        for entry in write.entries:
            if entry.value is not None:
                entries[entry.number] = (owner, replace(entry, size=len(entry.value)))
            elif entry.number in entries:
                kept = entries[entry.number][1]
                entries[entry.number] = (owner, replace(kept, used_at_ms=entry.used_at_ms))

    async def load(
        self, object_id: str, *, after: int = 0, limit: int = 1_000, value_bytes_max: int = 1_024
    ) -> list[DictEntry]:
        def operation() -> list[DictEntry]:
            found = sorted(n for n, (owner, _) in self._objects.entries.items() if owner == object_id and n > after)
            entries = [self._objects.entries[number][1] for number in found[:limit]]
            return [entry if entry.size <= value_bytes_max else replace(entry, value=None) for entry in entries]

        return await self._step(operation)

    async def values(self, numbers: Sequence[int]) -> Mapping[int, bytes]:
        def operation() -> dict[int, bytes]:
            entries = self._objects.entries
            return {n: entries[n][1].value or b"" for n in numbers if n in entries}

        return await self._step(operation)

    async def by_file(self) -> list[bytes]:
        def operation() -> list[bytes]:
            values = [entry.value or b"" for _, (_, entry) in sorted(self._objects.entries.items())]
            return [value for value in values if value[:1] == BY_FILE and len(value) < 512]

        return await self._step(operation)

    async def stale(self, before_ms: int, *, limit: int = 1_000) -> list[str]:
        def operation() -> list[str]:
            known = self._objects
            owners = {owner for owner, entry in known.entries.values() if entry.used_at_ms < before_ms}
            return sorted(owners & set(known.records))[:limit]

        return await self._step(operation)


class MemoryQueues:
    """`ports.objects.QueueStore`."""

    def __init__(self, faults: Faults, objects: MemoryObjects) -> None:
        self._step = faults.step
        self._objects = objects

    async def write(self, writes: Sequence[QueueWrite], ops: Sequence[Op] = ()) -> None:
        def operation() -> None:
            self._objects.note(ops)
            for write in writes:
                if write.object_id in self._objects.records:
                    self._write(write)

        await self._step(operation)

    def _write(self, write: QueueWrite) -> None:
        items, owner = self._objects.items, write.object_id
        for number in write.drops:
            if number in items and items[number][0] == owner:
                del items[number]
        for item in write.items:
            if item.payload is not None:
                items[item.number] = (owner, replace(item, size=len(item.payload)))
            elif item.number in items:
                kept = items[item.number][1]
                items[item.number] = (owner, replace(item, payload=kept.payload, size=kept.size))

    async def load(
        self, object_id: str, *, after: int = 0, limit: int = 1_000, payload_bytes_max: int = 1_024
    ) -> list[StoredItem]:
        def operation() -> list[StoredItem]:
            found = sorted(n for n, (owner, _) in self._objects.items.items() if owner == object_id and n > after)
            items = [self._objects.items[number][1] for number in found[:limit]]
            return [item if item.size <= payload_bytes_max else replace(item, payload=None) for item in items]

        return await self._step(operation)

    async def payloads(self, numbers: Sequence[int]) -> Mapping[int, bytes]:
        def operation() -> dict[int, bytes]:
            items = self._objects.items
            return {n: items[n][1].payload or b"" for n in numbers if n in items}

        return await self._step(operation)

    async def stale(self, now_ms: int, *, limit: int = 1_000) -> list[str]:
        def operation() -> list[str]:
            known = self._objects
            owners = {owner for owner, item in known.items.values() if item.expires_at_ms < now_ms}
            return sorted(owners & set(known.records))[:limit]

        return await self._step(operation)
