"""What every store must do with objects, entries of dicts and items of queues: see ports.objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.ports.objects import DictWrite, Op, QueueWrite
from jitney.ports.store import Store
from jitney.testing.conformance.running import Run, Running
from jitney.values import ids
from jitney.values.dicts import DictEntry
from jitney.values.objects import ObjectKind, ObjectRecord
from jitney.values.queues import StoredItem


def object_id(number: int, kind: ObjectKind = ObjectKind.DICT) -> str:
    """Some id of an object."""
    return ids.make(kind.prefix, number.to_bytes(16, "big"))


def record(number: int, kind: ObjectKind = ObjectKind.DICT, **changes: Any) -> ObjectRecord:
    """Some object."""
    fields = {"name": f"n{number}", "created_at_ms": 1_000 + number, **changes}
    return ObjectRecord(object_id=object_id(number, kind), kind=kind, **fields)


def entry(number: int, value: bytes | None = b"Pv", *, used_at_ms: int = 10) -> DictEntry:
    """Some entry."""
    return DictEntry(number, b"key-%d" % number, value, len(value or b""), used_at_ms)


def item(number: int, payload: bytes | None = b"Pv", **changes: Any) -> StoredItem:
    """Some item."""
    return replace(StoredItem(number, b"p", payload, len(payload or b""), 1_000), **changes)


class ObjectContract(Running):
    """Objects, and what is in them."""

    def make(self, folder: Path) -> Store:
        """The store of this folder: a new one, or the one that was closed there."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, run: Run, tmp_path: Path) -> Iterator[Store]:
        """A new store."""

        async def make() -> Store:
            return self.make(tmp_path)

        store = run(make())
        yield store
        run(store.close())

    def test_objects_1_the_first_of_a_name_wins(self, store: Store, run: Run) -> None:
        first = run(store.objects.create(record(1, name="a")))
        assert run(store.objects.create(record(2, name="a"))) == first
        queue = run(store.objects.create(record(3, ObjectKind.QUEUE, name="a")))
        assert run(store.objects.all()) == [first, queue]

    def test_objects_ephemeral_ones_share_nothing(self, store: Store, run: Run) -> None:
        both = [run(store.objects.create(record(n, name="", heartbeat_at_ms=5))) for n in (1, 2)]
        assert run(store.objects.all()) == both

    def test_objects_creating_again_gives_the_same(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        assert run(store.objects.create(record(1, created_at_ms=9))) == record(1)
        with pytest.raises(AlreadyExistsError):
            run(store.objects.create(record(1, name="other")))

    def test_objects_heartbeats_are_of_ephemeral_ones(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1, name="")))
        run(store.objects.create(record(2)))
        run(store.objects.heartbeat([object_id(1), object_id(2), object_id(3)], 50))
        run(store.objects.heartbeat([object_id(1)], 40))
        assert [one.heartbeat_at_ms for one in run(store.objects.all())] == [50, 0]

    def test_objects_renamed_ones_keep_their_ids_and_what_they_have(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1, name="a")))
        run(store.objects.create(record(2, name="b")))
        run(store.objects.create(record(3, name="")))
        queue = run(store.objects.create(record(4, ObjectKind.QUEUE, name="c")))
        with pytest.raises(AlreadyExistsError):
            run(store.objects.rename(object_id(1), "b"))
        for nobody in (object_id(3), object_id(9)):
            with pytest.raises(NotFoundError):
                run(store.objects.rename(nobody, "d"))
        renamed = record(1, name="c")  # a queue has that name: names are of a kind
        assert run(store.objects.rename(object_id(1), "c")) == renamed
        assert run(store.objects.rename(object_id(1), "c")) == renamed
        assert run(store.objects.all()) == [renamed, record(2, name="b"), record(3, name=""), queue]
        anew = run(store.objects.create(record(5, name="a")))
        assert anew.object_id == object_id(5)

    def test_objects_3_what_is_deleted_is_gone_and_its_entries_follow(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        run(store.objects.create(record(2, ObjectKind.QUEUE)))
        queue_id = object_id(2, ObjectKind.QUEUE)
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=[entry(n) for n in range(1, 8)])]))
        run(store.queues.write([QueueWrite(object_id=queue_id, items=[item(n) for n in range(1, 6)])]))
        deleted = run(store.objects.delete([object_id(1), object_id(9), object_id(1), queue_id]))
        assert deleted == [record(1), record(2, ObjectKind.QUEUE)]
        assert run(store.objects.delete([object_id(1)])) == []
        again = run(store.objects.create(record(1)))
        assert again == record(1)
        assert run(store.dicts.load(object_id(1))) == [], "what is made anew begins empty"
        dropped = []
        while count := run(store.objects.tidy(limit=5)):
            dropped.append(count)
        assert dropped == [5, 5, 2]
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=[entry(20)])]))
        assert run(store.objects.tidy()) == 0
        assert run(store.dicts.load(object_id(1))) == [entry(20)]

    def test_objects_4_operations_are_remembered_for_a_while(self, store: Store, run: Run) -> None:
        run(store.dicts.write([], [Op(2, 77, 100, b"a"), Op(3, 78, 200, b"b")]))
        run(store.queues.write([], [Op(2, 77, 900, b"other"), Op(1, 79, 100, b"")]))
        assert run(store.objects.ops()) == [Op(1, 79, 100, b""), Op(2, 77, 100, b"a"), Op(3, 78, 200, b"b")]
        run(store.objects.forget_ops(200))
        assert run(store.objects.ops()) == [Op(3, 78, 200, b"b")]

    def test_dicts_read_back_in_order_and_in_pages(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=[entry(n) for n in (3, 1, 2)])]))
        assert run(store.dicts.load(object_id(1))) == [entry(1), entry(2), entry(3)]
        assert run(store.dicts.load(object_id(1), after=1, limit=1)) == [entry(2)]
        assert run(store.dicts.load(object_id(2))) == []

    def test_dicts_large_values_are_left_out_and_asked_for(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        large = entry(2, b"P" + bytes(200))
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=[entry(1), large])]))
        assert run(store.dicts.load(object_id(1), value_bytes_max=100)) == [entry(1), replace(large, value=None)]
        assert run(store.dicts.values([2, 1, 9])) == {1: b"Pv", 2: large.value}

    def test_dicts_a_write_says_what_is_so_from_now_on(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        write = DictWrite(object_id=object_id(1), entries=[entry(n) for n in range(1, 5)])
        run(store.dicts.write([write]))
        run(store.dicts.write([write]))
        used = replace(entry(4, None, used_at_ms=99), size=2)
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=[entry(3, b"I"), used], drops=[2, 8])]))
        now = [entry(1), entry(3, b"I"), entry(4, used_at_ms=99)]
        assert run(store.dicts.load(object_id(1))) == now
        run(store.dicts.write([DictWrite(object_id=object_id(1), clear_before=4, entries=[entry(3), entry(5)])]))
        assert run(store.dicts.load(object_id(1))) == [entry(3), entry(4, used_at_ms=99), entry(5)]

    def test_dicts_2_what_is_not_there_is_passed_over(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        run(store.objects.create(record(2)))
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=[entry(1)])]))
        run(
            store.dicts.write(
                [
                    DictWrite(object_id=object_id(9), entries=[entry(5)], drops=[1], clear_before=9),
                    DictWrite(object_id=object_id(2), entries=[entry(7, None)], drops=[1], clear_before=9),
                ]
            )
        )
        assert run(store.dicts.load(object_id(1))) == [entry(1)]
        assert run(store.dicts.load(object_id(2))) == []

    def test_dicts_values_in_files_are_found(self, store: Store, run: Run) -> None:
        run(store.objects.create(record(1)))
        values = [b"Fa", b"Pa", b"F" + bytes(600), b"Fb"]
        entries = [entry(number, value) for number, value in enumerate(values, 1)]
        run(store.dicts.write([DictWrite(object_id=object_id(1), entries=entries)]))
        assert run(store.dicts.by_file()) == [b"Fa", b"Fb"]

    def test_dicts_with_old_entries_are_found(self, store: Store, run: Run) -> None:
        for number in (1, 2, 3):
            run(store.objects.create(record(number)))
            one = entry(number, used_at_ms=number * 10)
            run(store.dicts.write([DictWrite(object_id=object_id(number), entries=[one])]))
        run(store.objects.delete([object_id(1)]))
        assert run(store.dicts.stale(30)) == [object_id(2)]
        assert run(store.dicts.stale(31, limit=1)) == [object_id(2)]
        assert run(store.dicts.stale(31)) == [object_id(2), object_id(3)]

    def test_queues_read_back_in_order_and_in_pages(self, store: Store, run: Run) -> None:
        queue_id = object_id(1, ObjectKind.QUEUE)
        run(store.objects.create(record(1, ObjectKind.QUEUE)))
        large = item(2, b"P" + bytes(200))
        write = QueueWrite(object_id=queue_id, items=[item(3), large, item(1, partition=b"")])
        run(store.queues.write([write]))
        run(store.queues.write([write]))
        assert run(store.queues.load(queue_id)) == [item(1, partition=b""), large, item(3)]
        assert run(store.queues.load(queue_id, after=1, limit=1, payload_bytes_max=9)) == [replace(large, payload=None)]
        assert run(store.queues.payloads([2, 9])) == {2: large.payload}

    def test_queues_items_are_leased_moved_and_dropped(self, store: Store, run: Run) -> None:
        queue_id = object_id(1, ObjectKind.QUEUE)
        run(store.objects.create(record(1, ObjectKind.QUEUE)))
        run(store.queues.write([QueueWrite(object_id=queue_id, items=[item(n) for n in (1, 2, 3)])]))
        leased = item(2, deliveries=1, max_deliveries=5, leased_until_ms=500)
        moved = item(3, partition=b"dead", expires_at_ms=7_000)
        changes = [replace(one, payload=None) for one in (leased, moved, item(9))]
        run(store.queues.write([QueueWrite(object_id=queue_id, items=changes, drops=[1, 8])]))
        assert run(store.queues.load(queue_id)) == [leased, moved]

    def test_queues_with_items_whose_time_is_over_are_found(self, store: Store, run: Run) -> None:
        for number in (1, 2):
            run(store.objects.create(record(number, ObjectKind.QUEUE)))
            one = item(number, expires_at_ms=number * 10)
            run(store.queues.write([QueueWrite(object_id=object_id(number, ObjectKind.QUEUE), items=[one])]))
        assert run(store.queues.stale(11)) == [object_id(1, ObjectKind.QUEUE)]
        assert len(run(store.queues.stale(21))) == 2
        assert len(run(store.queues.stale(21, limit=1))) == 1
