"""Whatever is written of objects, entries and items, in whatever order: SQLite answers as the model does."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jitney.drivers.store.memory import MemoryStore
from jitney.drivers.store.sqlite import SqliteStore
from jitney.errors import JitneyError
from jitney.ports.objects import DictWrite, Op, QueueWrite
from jitney.testing.conformance.store_objects import entry, item, object_id, record
from jitney.values.objects import ObjectKind

KINDS = [ObjectKind.DICT, ObjectKind.QUEUE]
numbers = st.integers(1, 3)
owned = st.integers(0, 5)  # an entry's number is that of its owner, times ten, and this
times = st.integers(0, 40)
contents = st.sampled_from([None, b"", b"Pa", b"Ffile", b"P" + bytes(30)])
ops = st.lists(st.builds(Op, st.integers(1, 9), st.integers(1, 3), times, st.sampled_from([b"", b"x"])), max_size=2)


def entries_of(owner, rows):
    return [entry(owner * 10 + at, value, used_at_ms=used) for at, value, used in rows]


def items_of(owner, rows):
    return [item(owner * 10 + at, payload, expires_at_ms=when, leased_until_ms=when % 3) for at, payload, when in rows]


rows = st.lists(st.tuples(owned, contents, times), max_size=4, unique_by=lambda row: row[0])
dict_writes = st.builds(
    lambda owner, rows, drops, clear: DictWrite(
        object_id=object_id(owner),
        entries=entries_of(owner, rows),
        drops=[owner * 10 + at for at in drops],
        clear_before=clear and owner * 10 + clear,
    ),
    numbers,
    rows,
    st.lists(owned, max_size=3),
    st.integers(0, 5),
)
queue_writes = st.builds(
    lambda owner, rows, drops: QueueWrite(
        object_id=object_id(owner, ObjectKind.QUEUE),
        items=items_of(owner, rows),
        drops=[owner * 10 + at for at in drops],
    ),
    numbers,
    rows,
    st.lists(owned, max_size=3),
)


class StoresAgree(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.runner = asyncio.Runner()
        self.model = MemoryStore()
        self.store = SqliteStore(self.folder / "store.sqlite", ballast_bytes=0)

    def teardown(self):
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def same(self, ask):
        async def answer(store):
            try:
                return await ask(store)
            except JitneyError as error:
                return type(error)

        assert self.runner.run(answer(self.store)) == self.runner.run(answer(self.model))

    @rule(number=numbers, kind=st.sampled_from(KINDS), name=st.sampled_from(["", "a", "b"]), at_ms=times)
    def create(self, number, kind, name, at_ms):
        made = record(number, kind, name=name, created_at_ms=at_ms, heartbeat_at_ms=at_ms)
        self.same(lambda store: store.objects.create(made))

    @rule(chosen=st.lists(numbers, max_size=2), at_ms=times)
    def heartbeat(self, chosen, at_ms):
        self.same(lambda store: store.objects.heartbeat([object_id(number) for number in chosen], at_ms))

    @rule(number=numbers, kind=st.sampled_from(KINDS), name=st.sampled_from(["a", "b", "c"]))
    def rename(self, number, kind, name):
        self.same(lambda store: store.objects.rename(object_id(number, kind), name))

    @rule(chosen=st.lists(st.tuples(numbers, st.sampled_from(KINDS)), max_size=2))
    def delete(self, chosen):
        self.same(lambda store: store.objects.delete([object_id(*one) for one in chosen]))
        self.same(lambda store: store.objects.tidy())  # what is made anew has other numbers than what was

    @rule(writes=st.lists(dict_writes, max_size=3, unique_by=lambda write: write.object_id), noted=ops)
    def write_dicts(self, writes, noted):
        self.same(lambda store: store.dicts.write(writes, noted))

    @rule(writes=st.lists(queue_writes, max_size=3, unique_by=lambda write: write.object_id), noted=ops)
    def write_queues(self, writes, noted):
        self.same(lambda store: store.queues.write(writes, noted))

    @rule(before_ms=times)
    def forget(self, before_ms):
        self.same(lambda store: store.objects.forget_ops(before_ms))

    @rule(number=numbers, after=st.integers(0, 40), limit=st.integers(0, 3), size=st.sampled_from([0, 2, 1_000]))
    def page(self, number, after, limit, size):
        self.same(lambda store: store.dicts.load(object_id(number), after=after, limit=limit, value_bytes_max=size))
        queue_id = object_id(number, ObjectKind.QUEUE)
        self.same(lambda store: store.queues.load(queue_id, after=after, limit=limit, payload_bytes_max=size))

    @rule(at_ms=times, limit=st.integers(0, 2))
    def stale(self, at_ms, limit):
        self.same(lambda store: store.dicts.stale(at_ms, limit=limit))
        self.same(lambda store: store.queues.stale(at_ms, limit=limit))

    @rule()
    def restart(self):
        self.runner.run(self.store.close())
        self.store = SqliteStore(self.folder / "store.sqlite", ballast_bytes=0)

    @invariant()
    def all_reads_agree(self):
        self.same(lambda store: store.objects.all())
        self.same(lambda store: store.objects.ops())
        self.same(lambda store: store.dicts.by_file())
        self.same(lambda store: store.dicts.values(range(10, 40)))
        self.same(lambda store: store.queues.payloads(range(10, 40)))
        for number in (1, 2, 3):
            self.same(lambda store, number=number: store.dicts.load(object_id(number)))
            self.same(lambda store, number=number: store.queues.load(object_id(number, ObjectKind.QUEUE)))


checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
quick = settings(max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=checks)


def test_stores_agree_about_objects():
    run_state_machine_as_test(StoresAgree, settings=quick)


@pytest.mark.slow
def test_stores_agree_about_objects_for_long():
    run_state_machine_as_test(StoresAgree, settings=settings(quick, max_examples=100, stateful_step_count=50))
