"""Dicts on the server: durable before it is said, done once, and as the store has it after whatever happens."""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from jitney.core.dicts import Warm
from jitney.errors import InvalidError, NotFoundError, StorageError, StorageFullError
from jitney.server.sweeper import FILE_AGE_S
from jitney.testing.virtual_loop import VirtualLoop, run
from jitney.values import dicts as values
from jitney.values.dicts import pack_integer, unpack_integer
from jitney.values.objects import ObjectKind
from tests.server.objects_world import World, later, turn

DAY_S = 24 * 3_600


class Table:
    """One dict of a world."""

    def __init__(self, world, dict_id):
        self.world, self.id = world, dict_id

    def begin(self, name, **fields):
        return self.world.begin(f"dict.{name}", object_id=self.id, **fields)

    async def ask(self, name, **fields):
        return await self.world.ask(f"dict.{name}", object_id=self.id, **fields)

    async def put(self, key, value, **fields):
        return (await self.ask("put", key=key, value=value, **fields)).done

    async def get(self, key):
        return (await self.ask("get", key=key)).value

    async def pop(self, key, **fields):
        return (await self.ask("pop", key=key, **fields)).value

    async def add(self, key, by=1, **fields):
        return (await self.ask("increment", key=key, by=by, **fields)).number

    async def items(self, limit=1_000):
        found, after = [], 0
        while after is not None:
            page = await self.ask("scan", after=after, limit=limit)
            found += page.entries
            after = page.after
        return found


def story(body):
    """A test that is given a dict, on a virtual clock."""

    def test():
        async def main():
            world = await World().start()
            await body(Table(world, await world.open(ObjectKind.DICT)))
            assert world.failures == []

        run(main())

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


@story
async def test_what_is_put_is_got_also_after_a_restart(table):
    assert await table.get(b"a") is None
    assert await table.put(b"a", b"1")
    await table.put(b"b", b"2")
    await table.put(b"a", b"3")
    for _ in range(2):
        assert await table.get(b"a") == b"3"
        assert await table.items() == [(b"a", b"3"), (b"b", b"2")]
        assert (await table.ask("length")).number == 2
        assert (await table.ask("contains", key=b"b")).done
        assert not (await table.ask("contains", key=b"c")).done
        await table.world.start()


@story
async def test_a_put_is_answered_when_it_is_on_disk_and_so_is_who_reads_it(table):
    await table.put(b"other", b"x")
    before = table.world.store.operations
    putting = table.begin("put", key=b"a", value=b"1")
    reading, looking = table.begin("get", key=b"a"), table.begin("contains", key=b"a")
    counting = table.begin("length")
    elsewhere = table.begin("get", key=b"other")
    assert elsewhere.is_answered, "it does not hang on the put"
    assert not any(one.is_answered for one in (putting, reading, looking, counting))
    await turn()
    assert table.world.store.operations == before + 1
    assert reading.answered.result().value == b"1"
    assert all(one.is_answered for one in (putting, looking, counting))


@story
async def test_puts_of_one_turn_are_one_write(table):
    await table.put(b"a", b"0")
    before = table.world.store.operations
    many = [table.begin("put", key=b"k%d" % n, value=b"x") for n in range(100)]
    await turn()
    assert all(one.is_answered for one in many)
    assert table.world.store.operations == before + 1


@story
async def test_of_many_who_skip_if_exists_one_puts(table):
    asked = [table.begin("put", key=b"lock", value=b"%d" % n, skip_if_exists=True, op=n + 1) for n in range(10)]
    await turn()
    assert [one.answered.result().done for one in asked] == [True] + [False] * 9
    assert await table.get(b"lock") == b"0"


@story
async def test_of_many_who_pop_one_gets_it(table):
    await table.put(b"a", b"1")
    asked = [table.begin("pop", key=b"a", op=n + 1) for n in range(5)]
    await turn()
    assert [one.answered.result().value for one in asked] == [b"1"] + [None] * 4
    await table.world.start()
    assert await table.get(b"a") is None


@story
async def test_sums_are_exact_however_many_add(table):
    await table.put(b"n", pack_integer(5))
    asked = [table.begin("increment", key=b"n", by=2, op=n + 1) for n in range(50)]
    await turn()
    assert sorted(one.answered.result().number for one in asked) == list(range(7, 106, 2))
    assert unpack_integer(await table.get(b"n")) == 105
    assert await table.add(b"new", -3) == -3
    await table.put(b"text", b"Pabc")
    with pytest.raises(InvalidError, match="no integer"):
        await table.add(b"text")


@story
async def test_a_swap_happens_if_the_value_is_as_expected(table):
    await table.put(b"a", b"1")
    refused = await table.ask("swap", key=b"a", expected=b"2", new=b"3")
    assert (refused.done, refused.value) == (False, b"1")
    assert (await table.ask("swap", key=b"a", expected=b"1", new=b"3")).done
    missing = await table.ask("swap", key=b"none", expected=b"", new=b"3")
    assert (missing.done, missing.value) == (False, None)
    assert await table.items() == [(b"a", b"3")]


@story
async def test_what_is_sent_again_is_done_once_also_after_a_restart(table):
    await table.put(b"a", b"1")
    for _ in range(2):
        assert await table.add(b"n", 1, op=11) == 1
        assert await table.pop(b"a", op=12) == b"1"
        assert await table.put(b"lock", b"x", skip_if_exists=True, op=13)
        assert (await table.ask("swap", key=b"lock", expected=b"x", new=b"y", op=14)).done
        assert await table.add(b"n", 1, op=11) == 1
        await table.world.start()
    assert await table.get(b"lock") == b"y"


@story
async def test_operations_are_forgotten_in_time(table):
    await table.add(b"n", 1, op=11)
    await later(100)
    await table.world.sweeper.sweep(stored=False)
    assert await table.world.store.objects.ops() == []
    assert await table.add(b"n", 1, op=11) == 2


@story
async def test_an_update_is_whole(table):
    await table.put(b"a", b"0")
    entries = [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]
    assert (await table.ask("update", entries=entries)).number == 2
    assert await table.items() == [(b"a", b"1"), (b"b", b"3")]
    with pytest.raises(InvalidError):
        await table.ask("update", entries=[(b"c", b"1"), (b"d", bytes(values.INLINE_VALUE_BYTES_MAX + 1))])
    with pytest.raises(InvalidError, match="10,000"):
        await table.ask("update", entries=[(b"k%d" % n, b"") for n in range(10_001)])
    assert (await table.ask("length")).number == 2


@story
async def test_pages(table):
    await table.ask("update", entries=[(b"%03d" % n, bytes(60_000)) for n in range(300)])
    page = await table.ask("scan", limit=1_000)
    assert len(page.entries) < 300, "a page is bounded in bytes"
    assert [key for key, _ in await table.items()] == [b"%03d" % n for n in range(300)]
    keys = await table.ask("scan", limit=7, values=False)
    assert keys.entries == [(b"%03d" % n, None) for n in range(7)]


@story
async def test_clearing(table):
    await table.ask("update", entries=[(b"a", b"1"), (b"b", b"2")])
    clearing = table.begin("clear")
    after, reading = table.begin("put", key=b"a", value=b"3"), table.begin("get", key=b"b")
    assert not reading.is_answered, "that it is gone is not on disk"
    await turn()
    assert clearing.answered.result().number == 2
    assert after.is_answered
    assert reading.answered.result().value is None
    await table.world.start()
    assert await table.items() == [(b"a", b"3")]


@story
async def test_a_write_that_fails_leaves_what_the_store_has(table):
    await table.put(b"a", b"1")
    table.world.store.fail(1, StorageFullError("no room"))
    asked = [table.begin("put", key=b"a", value=b"2"), table.begin("increment", key=b"n"), table.begin("get", key=b"a")]
    await turn()
    for one in asked:
        with pytest.raises(StorageFullError):
            one.answered.result()
    assert await table.items() == [(b"a", b"1")]
    assert await table.add(b"n") == 1


@story
async def test_what_was_decided_on_a_state_that_never_was_fails_too(table):
    await table.put(b"a", b"1")
    table.world.store.fail(1, StorageError("broken"))
    first = table.begin("put", key=b"a", value=b"2")
    await asyncio.sleep(0)  # it is being written
    second = table.begin("swap", key=b"a", expected=b"2", new=b"3")
    await turn()
    for one in (first, second):
        with pytest.raises(StorageError):
            one.answered.result()
    assert await table.get(b"a") == b"1"


@story
async def test_values_that_do_not_fit_into_memory_are_read_from_the_store(table):
    table.world.dicts.warm = Warm(5_000)
    sent = {b"%d" % n: bytes([n]) * 2_000 for n in range(10)}
    for key, value in sent.items():
        await table.put(key, value)
    assert table.world.dicts.warm.bytes <= 5_000
    assert dict(await table.items()) == sent
    for key, value in sent.items():
        assert await table.get(key) == value
    assert await table.pop(b"0") == sent[b"0"]
    assert (await table.ask("swap", key=b"1", expected=sent[b"1"], new=b"x")).done
    assert table.world.dicts.warm.bytes <= 5_000
    assert await table.get(b"1") == b"x"


@story
async def test_entries_expire_a_week_after_their_last_use(table):
    await table.ask("update", entries=[(b"used", b"1"), (b"left", b"2")])
    for _ in range(8):
        await later(DAY_S)
        assert await table.get(b"used") == b"1"
        await later(3_600)
        await table.world.sweeper.sweep(stored=False)
        await turn()
        await table.world.sweeper.sweep(stored=False)
        assert not table.world.dicts.hot.states, "it was idle"
    assert await table.items() == [(b"used", b"1")]
    await table.world.sweeper.sweep(stored=True)
    await turn()
    assert [entry.key for entry in await table.world.store.dicts.load(table.id)] == [b"used"]


@story
async def test_entries_expire_while_nobody_uses_the_dict(table):
    await table.put(b"a", b"1")
    await table.world.start()
    await later(7 * DAY_S + 1)
    await table.world.sweeper.sweep(stored=True)
    await turn()
    assert await table.world.store.dicts.load(table.id) == []


@story
async def test_a_dict_that_is_deleted_is_not_there(table):
    await table.put(b"a", b"1")
    await table.world.objects.delete([await table.world.objects.find(table.id, ObjectKind.DICT)])
    with pytest.raises(NotFoundError, match="deleted"):
        await table.get(b"a")
    await table.world.sweeper.sweep(stored=False)
    again = await table.world.open(ObjectKind.DICT)
    assert again != table.id
    assert await Table(table.world, again).items() == []


@story
async def test_who_hangs_up_is_not_answered(table):
    asked = table.begin("put", key=b"a", value=b"1")
    asked.reply.gone()
    await turn()
    assert not asked.is_answered
    other = table.begin("put", key=b"b", value=b"1")
    await asyncio.sleep(0)
    other.reply.gone()
    assert await table.get(b"b") == b"1", "what was asked was done"


def test_files_of_values_go_when_nothing_has_named_them_twice(tmp_path):
    async def main():
        world = await World(blobs=tmp_path).start()
        table = Table(world, await world.open(ObjectKind.DICT))
        names = [values.value_file(table.id, bytes([n]) * 16) for n in range(3)]
        foreign = ["fc-0000000000000000000000.0.in", "v-abc", "di-x"]
        for name in [*names, *foreign]:
            (tmp_path / name).write_bytes(b"P")
            os.utime(tmp_path / name, (0, 0))
        (tmp_path / names[2]).touch()  # written just now: its entry is yet to come
        await table.put(b"a", b"F" + (1).to_bytes(8, "little") + names[0].encode())
        for there in ([*names, *foreign], [names[0], names[2], *foreign]):
            await world.sweeper.sweep(stored=True)
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted(there)
        await world.start()
        await world.sweeper.sweep(stored=True)
        await world.sweeper.sweep(stored=True)
        assert (tmp_path / names[0]).exists(), "the store names it"
        assert FILE_AGE_S > 60

    asyncio.run(main())  # with threads, which have no virtual clock


class Killed(RuleBasedStateMachine):
    """Servers are killed and disks are full at any moment: what was answered is so, and nothing is done twice."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.world = self.runner.run(World().start())
        self.table = Table(self.world, self.runner.run(self.world.open(ObjectKind.DICT)))
        self.op = 0
        self.acknowledged = 0  # increments
        self.under_way = []  # (op, fields, asked)

    def teardown(self):
        try:
            self.runner.run(self.drain())
        finally:
            self.runner.close()

    @rule(by=st.integers(1, 5))
    def add(self, by):
        self.op += 1
        fields = {"key": b"n", "by": by, "op": self.op}

        async def add():
            return self.table.begin("increment", **fields)

        self.under_way.append((fields, self.runner.run(add())))

    @rule(turns=st.integers(1, 10))
    def go_on(self, turns):
        self.runner.run(turn(turns))

    @rule()
    def server_is_killed(self):
        self.world.store._faults.planned.clear()

        async def kill():
            await self.world.start()
            again = []
            for fields, asked in self.under_way:
                done = asked.is_answered and asked.answered.exception() is None
                # Clients send again what has no answer, under the same number.
                again.append((fields, asked if done else self.table.begin("increment", **fields)))
            return again

        self.under_way = self.runner.run(kill())

    @rule(nth=st.integers(1, 3))
    def disk_is_full(self, nth):
        self.world.store.fail(nth, StorageFullError("full"))

    async def drain(self):
        await turn()
        self.world.store._faults.planned.clear()
        total = 0
        for fields, asked in self.under_way:
            if not asked.is_answered or asked.answered.exception() is not None:
                asked = self.table.begin("increment", **fields)
                await asked.answered
            total += fields["by"]
        for fields, asked in self.under_way:
            if asked.is_answered and asked.answered.exception() is None:
                assert await self.table.add(b"n", fields["by"], op=fields["op"]) == asked.answered.result().number
        assert unpack_integer(await self.table.get(b"n") or pack_integer(0)) == total


TestKilled = Killed.TestCase
TestKilled.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
