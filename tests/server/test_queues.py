"""Queues on the server: who gets what when links break, disks fail and servers are killed."""

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from jitney.errors import InvalidError, NotFoundError, QueueFullError, StorageError, StorageFullError
from jitney.testing.virtual_loop import VirtualLoop, run
from jitney.values import queues as values
from jitney.values.objects import ObjectKind
from jitney.wire.messages.objects import ObjectOpen
from tests.server.objects_world import World, later, turn

DEAD = values.DEAD_LETTER


class Line:
    """One queue of a world."""

    def __init__(self, world, queue_id):
        self.world, self.id = world, queue_id

    def begin_put(self, *items, **fields):
        return self.world.begin("queue.put", object_id=self.id, items=list(items), **fields)

    def begin_get(self, **fields):
        return self.world.begin("queue.get", object_id=self.id, **{"timeout_ms": None, **fields})

    async def put(self, *items, **fields):
        return (await self.world.ask("queue.put", object_id=self.id, items=list(items), **fields)).count

    async def get(self, **fields):
        answer = await self.world.ask("queue.get", object_id=self.id, **fields)
        return [item.payload for item in answer.items]

    async def lease(self, **fields):
        answer = await self.world.ask("queue.get", object_id=self.id, **{"lease_ms": 1_000, **fields})
        return answer.items[0]

    async def settle(self, item, done=True, lease_ms=0, op=0):
        leases = [(item.number, item.deliveries)]
        fields = {"leases": leases, "done": done, "lease_ms": lease_ms, "op": op}
        return (await self.world.ask("queue.settle", object_id=self.id, **fields)).count

    async def length(self, **fields):
        return (await self.world.ask("queue.length", object_id=self.id, **fields)).count


def story(body):
    """A test that is given a queue, on a virtual clock."""

    def test():
        async def main():
            world = await World().start()
            await body(Line(world, await world.open(ObjectKind.QUEUE)))
            assert world.failures == []

        run(main())

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


@story
async def test_first_in_first_out_in_each_partition(line):
    await line.put(b"a", b"b")
    await line.put(b"x", partition=b"p")
    assert await line.put(b"c") == 1
    assert await line.length() == 3
    assert await line.length(total=True) == 4
    assert await line.get(count=2) == [b"a", b"b"]
    assert await line.get(count=9) == [b"c"]
    assert await line.get() == []
    assert await line.get(partition=b"p") == [b"x"]


@story
async def test_an_item_goes_to_who_waits_before_the_disk_has_it(line):
    await line.length()
    waiting = line.begin_get()
    before = line.world.store.operations
    putting = line.begin_put(b"a")
    assert [item.payload for item in waiting.answered.result().items] == [b"a"]
    assert not putting.is_answered
    waiting.reply.received()
    assert putting.answered.result().count == 1, "it was consumed, so there is nothing to write"
    await later(1)
    assert line.world.store.operations == before


@story
async def test_what_nobody_confirms_in_time_is_written(line):
    await line.length()
    waiting = line.begin_get()
    putting = line.begin_put(b"a")
    await later(0.1)
    assert putting.answered.result().count == 1
    assert [item.payload for item in await line.world.store.queues.load(line.id)] == [b"a"]
    waiting.reply.received()
    await turn()
    assert await line.world.store.queues.load(line.id) == []


@story
async def test_a_getter_that_hangs_up_loses_nothing(line):
    await line.put(b"a", b"b")
    first = line.begin_get()
    second = line.begin_get()
    assert first.is_answered
    assert second.is_answered
    first.reply.gone()
    third = line.begin_get()
    assert [item.payload for item in third.answered.result().items] == [b"a"], "back at its place"
    second.reply.gone()
    third.reply.gone()
    assert await line.get(count=9) == [b"a", b"b"]


@story
async def test_an_item_given_to_a_dead_link_goes_to_the_next_who_waits(line):
    await line.length()
    first, second = line.begin_get(), line.begin_get()
    line.begin_put(b"a")
    first.reply.gone()
    assert [item.payload for item in second.answered.result().items] == [b"a"]
    second.reply.received()
    await turn()
    assert await line.world.store.queues.load(line.id) == []


@story
async def test_those_who_wait_are_served_in_turn_and_nobody_gets_past(line):
    await line.length()
    waiting = [line.begin_get() for _ in range(5)]
    waiting[1].reply.gone()
    late = line.begin_get(timeout_ms=0)
    assert late.answered.result().items == []
    line.begin_put(b"a", b"b", b"c", b"d")
    got = [waiting[n].answered.result().items[0].payload for n in (0, 2, 3, 4)]
    assert got == [b"a", b"b", b"c", b"d"]
    assert not waiting[1].is_answered


@story
async def test_waiting_has_an_end(line):
    got = asyncio.create_task(line.get(timeout_ms=5_000))
    await later(4.9)
    assert not got.done()
    assert await got == []
    await line.put(b"a")
    assert await line.get() == [b"a"], "who does not wait any more gets nothing"


@story
async def test_a_full_partition_makes_putters_wait_in_turn(line):
    await line.put(*[b"x"] * values.ITEMS_MAX)
    with pytest.raises(QueueFullError, match="5,000 items"):
        await line.put(b"y")
    with pytest.raises(QueueFullError):
        await line.put(b"y", timeout_ms=100)
    first, second = line.begin_put(b"a", b"b", timeout_ms=None), line.begin_put(b"c", timeout_ms=None)
    await line.get()
    await turn()
    assert not first.is_answered
    assert not second.is_answered, "it would fit, and is not first"
    await line.get(count=2)
    await turn()
    assert first.is_answered
    assert second.is_answered
    assert (await line.get(count=values.ITEMS_MAX))[-3:] == [b"a", b"b", b"c"]


@story
async def test_a_putter_that_hangs_up_lets_others_through(line):
    await line.put(*[b"x"] * (values.ITEMS_MAX - 1))
    first, second = line.begin_put(b"a", b"b", timeout_ms=None), line.begin_put(b"c", timeout_ms=None)
    first.reply.gone()
    await turn()
    assert second.is_answered
    assert (await line.get(count=values.ITEMS_MAX))[-1] == b"c"


@story
async def test_a_leased_item_comes_back_unless_it_is_acknowledged(line):
    await line.put(b"a")
    first = await line.lease()
    assert (first.payload, first.deliveries) == (b"a", 1)
    assert await line.get() == []
    await later(1.1)
    second = await line.lease()
    assert second.deliveries == 2
    assert await line.settle(first) == 0, "its lease is over"
    assert await line.settle(second) == 1
    await later(5)
    assert await line.get() == []
    assert await line.world.store.queues.load(line.id) == []


@story
async def test_who_waits_gets_what_is_given_back(line):
    await line.put(b"a")
    first = await line.lease()
    waiting = line.begin_get()
    assert await line.settle(first, done=False) == 1
    assert [item.payload for item in waiting.answered.result().items] == [b"a"]


@story
async def test_who_waits_gets_what_a_lease_left(line):
    await line.put(b"a")
    await line.lease()
    assert await line.get(timeout_ms=10_000) == [b"a"]


@story
async def test_a_lease_is_extended(line):
    await line.put(b"a")
    item = await line.lease()
    await later(0.9)
    assert await line.settle(item, done=False, lease_ms=1_000) == 1
    await later(0.9)
    assert await line.settle(item) == 1


@story
async def test_an_item_that_is_never_acknowledged_ends_among_the_dead(line):
    await line.put(b"a")
    for _ in range(3):
        await line.lease(max_deliveries=3)
        await later(1.1)
    assert await line.get() == []
    assert await line.get(partition=DEAD) == [b"a"]


@story
async def test_a_lease_whose_answer_never_arrived_is_over_at_once(line):
    await line.put(b"a")
    line.begin_get(lease_ms=60_000).reply.gone()
    assert await line.get() == [b"a"]


@story
async def test_what_somebody_else_has_meanwhile_is_not_given_back(line):
    late = line.begin_get(lease_ms=500)
    await line.put(b"a")
    await later(1)
    now = line.begin_get()
    late.reply.gone()
    now.reply.received()
    assert await line.get(timeout_ms=0) == []


@story
async def test_leases_outlive_the_server(line):
    await line.put(b"a", b"b")
    first, second = await line.lease(lease_ms=5_000), await line.lease(lease_ms=1_000)
    await turn()
    await line.world.start()
    assert await line.get() == []
    assert await line.settle(first) == 1
    await later(1.1)
    again = await line.lease()
    assert (again.payload, again.deliveries) == (second.payload, 2)


@story
async def test_an_acknowledgement_that_is_sent_twice_counts_once(line):
    await line.put(b"a")
    item = await line.lease()
    line.begin_get()  # nothing to get: it waits
    assert await line.settle(item, op=7) == 1
    assert await line.settle(item, op=7) == 1
    assert await line.settle(item, op=8) == 0


@story
async def test_a_put_that_is_sent_again_is_done_once_also_after_a_restart(line):
    assert await line.put(b"a", op=5) == 1
    assert await line.put(b"a", op=5) == 1
    assert await line.get(count=9) == [b"a"]
    await turn()
    await line.world.start()
    assert await line.put(b"a", op=5) == 1
    assert await line.get() == []


@story
async def test_a_put_that_is_sent_again_while_it_is_written_waits_with_the_first(line):
    await line.length()
    first = line.begin_put(b"a", op=5)
    second = line.begin_put(b"a", op=5)
    assert not second.is_answered
    await turn()
    assert first.answered.result() == second.answered.result()
    assert await line.length() == 1


@story
async def test_what_was_acknowledged_outlives_the_server_in_order(line):
    for number in range(20):
        await line.put(b"%d" % number)
    assert await line.get(count=3) == [b"0", b"1", b"2"]
    await turn()
    await line.world.start()
    assert await line.get(count=99) == [b"%d" % number for number in range(3, 20)]


@story
async def test_what_was_on_its_way_when_the_server_died_is_there_again(line):
    await line.put(b"a")
    line.begin_get()
    await line.world.start()
    assert await line.get() == [b"a"]


@story
async def test_a_server_that_ends_in_order_has_written_down_what_was_taken(line):
    await line.put(b"a", b"b")
    await line.get()
    await line.world.shared.end()
    await line.world.start()
    assert await line.get(count=9) == [b"b"]


@story
async def test_a_disk_that_is_full_refuses_puts_and_loses_nothing(line):
    await line.put(b"a")
    line.world.store.fail(1, StorageFullError("no room"))
    with pytest.raises(StorageFullError):
        await line.put(b"b")
    assert await line.get(count=9) == [b"a"]
    await line.put(b"c")
    assert await line.get() == [b"c"]


@story
async def test_who_waits_does_not_hear_of_a_put_that_failed(line):
    await line.put(b"x", partition=b"p")
    waiting = line.begin_get()
    line.world.store.fail(1, StorageError("broken"))
    with pytest.raises(StorageError):
        await line.put(b"y", partition=b"p")
    await turn()
    await line.put(b"a")
    await turn()
    assert [item.payload for item in waiting.answered.result().items] == [b"a"]
    assert await line.get(partition=b"p", count=9) == [b"x"]


@story
async def test_a_removal_that_failed_to_be_written_is_made_up_for(line):
    await line.put(b"a", b"b")
    getting = line.begin_get()
    getting.reply.received()
    assert getting.is_answered
    late = line.begin_get()
    line.world.store.fail(1, StorageError("broken"))
    await turn()
    late.reply.received()  # of a state that has been given up meanwhile
    await turn()
    assert await line.get(count=9) == [b"a"], "delivered once more, as the store has it; and `b` is not lost twice"


@story
async def test_a_queue_that_is_deleted_tells_those_who_wait(line):
    await line.length()
    waiting = line.begin_get()
    await line.world.objects.delete([await line.world.objects.find(line.id, ObjectKind.QUEUE)])
    with pytest.raises(NotFoundError, match="deleted"):
        waiting.answered.result()
    with pytest.raises(NotFoundError):
        await line.put(b"a")


@story
async def test_looking_takes_nothing(line):
    await line.put(b"a", b"b", b"c")
    page = await line.world.ask("queue.look", object_id=line.id, limit=2)
    assert [item.payload for item in page.items] == [b"a", b"b"]
    rest = await line.world.ask("queue.look", object_id=line.id, after=page.items[-1].number)
    assert [item.payload for item in rest.items] == [b"c"]
    watching = line.world.begin("queue.look", object_id=line.id, after=rest.items[-1].number, timeout_ms=None)
    await line.put(b"d")
    assert [item.payload for item in watching.answered.result().items] == [b"d"]
    assert await line.length() == 4


@story
async def test_clearing(line):
    await line.put(b"a", b"b")
    await line.put(b"x", partition=b"p")
    await line.lease()
    assert (await line.world.ask("queue.clear", object_id=line.id)).count == 2
    assert (await line.world.ask("queue.clear", object_id=line.id, all=True)).count == 1
    await line.world.start()
    assert await line.length(total=True) == 0


@story
async def test_partitions_are_listed(line):
    await line.put(b"a", b"b")
    await line.put(b"x", partition=b"p")
    await line.lease()
    listed = await line.world.ask("queue.partitions", object_id=line.id)
    assert [(p.partition, p.waiting, p.leased) for p in listed.partitions] == [(b"", 1, 1), (b"p", 1, 0)]


@story
async def test_a_partition_ends_by_its_time(line):
    await line.put(b"a", ttl_ms=10_000)
    await later(11)
    await line.world.sweeper.sweep(stored=False)
    assert await line.get() == []


@story
async def test_a_partition_ends_by_its_time_while_nobody_uses_the_queue(line):
    await line.put(b"a", ttl_ms=10_000)
    await line.world.start()
    await later(11)
    await line.world.sweeper.sweep(stored=True)
    await turn()
    assert await line.world.store.queues.load(line.id) == []


@story
async def test_an_idle_queue_is_let_go_and_read_again(line):
    await line.put(b"a")
    await later(3_600)
    await line.world.sweeper.sweep(stored=False)
    assert not line.world.queues.hot.states
    assert await line.get() == [b"a"]


def test_payloads_that_do_not_fit_into_memory_are_read_in_time():
    async def main():
        world = await World().start(hot_bytes_max=3_000)
        line = Line(world, await world.open(ObjectKind.QUEUE))
        sent = [bytes([number]) * 2_000 for number in range(10)]
        for payload in sent:
            await line.put(payload)
        (hot,) = world.queues.hot.states.values()
        assert sum(item.payload is None for item in hot.state) == 9
        page = await world.ask("queue.look", object_id=line.id, limit=3)
        assert [item.payload for item in page.items] == sent[:3]
        gone = line.begin_get()
        gone.reply.gone()
        await turn()
        assert await line.get(count=4) == sent[:4]
        await turn()
        await world.start(hot_bytes_max=3_000)
        assert await line.get(count=9) == sent[4:]

    run(main())


@pytest.mark.parametrize(
    "name, fields",
    [
        ("queue.put", {"items": []}),
        ("queue.put", {"items": [b"x"] * 5_001}),
        ("queue.put", {"items": [bytes(1024 * 1024 + 1)]}),
        ("queue.put", {"items": [b"x"], "partition": bytes(65)}),
        ("queue.put", {"items": [b"x"], "ttl_ms": 0}),
        ("queue.put", {"items": [b"x"], "op": -1}),
        ("queue.get", {"count": 0}),
        ("queue.get", {"lease_ms": -1}),
        ("queue.get", {"max_deliveries": -1}),
        ("queue.length", {"partition": bytes(65)}),
    ],
)
def test_what_cannot_be_is_refused(name, fields):
    async def main():
        world = await World().start()
        queue_id = await world.open(ObjectKind.QUEUE)
        with pytest.raises(InvalidError):
            await world.ask(name, object_id=queue_id, **fields)

    run(main())


def test_an_id_of_something_else_is_refused():
    async def main():
        world = await World().start()
        dict_id = await world.open(ObjectKind.DICT)
        for object_id in (dict_id, "qu-x", ""):
            with pytest.raises(InvalidError):
                await world.ask("queue.get", object_id=object_id)

    run(main())


def test_objects_are_found_with_the_nearest_names():
    async def main():
        world = await World().start()
        await world.open(ObjectKind.QUEUE, "jobs")
        with pytest.raises(NotFoundError, match=r"no queue 'job'.*'jobs'.*create_if_missing=True"):
            await world.objects.open(ObjectOpen(kind=ObjectKind.QUEUE, name="job"))
        with pytest.raises(NotFoundError):
            await world.objects.open(ObjectOpen(kind=ObjectKind.DICT, name="jobs"))

    run(main())


def test_ephemeral_objects_end_when_nobody_uses_them():
    async def main():
        world = await World().start()
        kept, left = [
            (await world.objects.open(ObjectOpen(kind=ObjectKind.QUEUE, ephemeral=True))).object_id for _ in range(2)
        ]
        named = await world.open(ObjectKind.QUEUE)
        await Line(world, left).put(b"x")
        for _ in range(6):
            await later(60)
            assert await world.objects.heartbeat((kept,)) == ()
            await world.sweeper.sweep(stored=False)
        assert await world.objects.heartbeat((kept, left, named)) == (left,)
        assert await world.store.queues.load(left) == []
        await later(600)
        await world.start()
        await world.sweeper.sweep(stored=False)
        assert await world.objects.heartbeat((kept,)) == (), "a start of the server gives it its time again"
        await later(301)
        await world.sweeper.sweep(stored=False)
        assert await world.objects.heartbeat((kept,)) == (kept,)

    run(main())


class Killed(RuleBasedStateMachine):
    """Getters hang up, servers are killed, disks are full: what was acknowledged is got, in order, and got once unless
    a server was killed while it was on its way."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.world = self.runner.run(World().start())
        self.line = Line(self.world, self.runner.run(self.world.open(ObjectKind.QUEUE)))
        self.puts = []  # (request, payloads), in the order in which they were asked
        self.gets = []
        self.got = Counter()
        self.count = 0
        self.is_faulty = False
        self.maybe_again = set()  # on their way, or removed and perhaps not written so, when a server was killed
        self.recent = []

    def teardown(self):
        try:
            self.runner.run(self.drain())
        finally:
            self.runner.close()

    def turn(self):
        self.runner.run(turn())

    @rule(amount=st.integers(1, 3), key=st.sampled_from([b"", b"p"]))
    def put(self, amount, key):
        payloads = [b"%s%06d" % (key, self.count + n) for n in range(amount)]
        self.count += amount

        async def put():
            return self.line.begin_put(*payloads, partition=key, op=self.count)

        self.puts.append((self.runner.run(put()), payloads))

    @rule(count=st.integers(1, 3), key=st.sampled_from([b"", b"p"]), lease_ms=st.sampled_from([0, 0, 500]))
    def get(self, count, key, lease_ms):
        async def get():
            return self.line.begin_get(count=count, partition=key, lease_ms=lease_ms, max_deliveries=0)

        self.gets.append((self.runner.run(get()), lease_ms))

    @precondition(lambda self: self.gets)
    @rule(data=st.data(), arrives=st.booleans())
    def settle(self, data, arrives):
        asked, lease_ms = self.gets.pop(data.draw(st.integers(0, len(self.gets) - 1)))

        async def settle():
            if arrives and asked.is_answered and asked.answered.exception() is None:
                asked.reply.received()
                items = asked.answered.result().items
                if not lease_ms:
                    self.note(items)
                    return
                for item in items:
                    try:
                        if await self.line.settle(item):
                            self.note([item])
                    except StorageFullError:  # it may have been acknowledged
                        self.note([item])
            else:
                asked.reply.gone()

        self.runner.run(settle())

    def note(self, items):
        self.got.update(item.payload for item in items)
        self.recent += [item.payload for item in items]

    @rule(seconds=st.sampled_from([0, 0, 0.001, 0.03, 1]))
    def time_passes(self, seconds):
        self.runner.run(later(seconds))
        self.turn()

    @rule()
    def server_is_killed(self):
        self.killed()

        async def kill():
            for asked, _ in self.gets:
                asked.reply.on_gone = None
            self.world.store._faults.planned.clear()
            await self.world.start()

        self.gets = []
        self.runner.run(kill())

    def killed(self):
        """What was got lately may not be written so."""
        self.maybe_again |= set(self.recent)
        self.recent = []

    async def drain(self):
        for asked, _ in self.gets:
            asked.reply.gone()
        await later(2)
        self.world.store._faults.planned.clear()
        for key in (b"", b"p"):
            rest = []
            while items := await self.line.get(partition=key, count=3):
                rest += items
            assert self.is_faulty or rest == sorted(rest), "in the order in which they were put"
            self.got.update(rest)
        acknowledged = [
            payload
            for asked, payloads in self.puts
            if asked.is_answered and asked.answered.exception() is None
            for payload in payloads
        ]
        assert not set(acknowledged) - set(self.got), "what was acknowledged is lost"
        again = {payload for payload, times in self.got.items() if times > 1}
        assert self.is_faulty or again <= self.maybe_again, "got twice, and no server was killed"
        assert set(self.got) <= {payload for _, payloads in self.puts for payload in payloads}


class FullDisk(Killed):
    """The same with a disk that is full now and then: nothing is lost."""

    @rule(nth=st.integers(1, 3), applied=st.booleans())
    def disk_fails(self, nth, applied):
        self.is_faulty = True
        self.world.store.fail(nth, StorageFullError("full"), applied=applied)


TestKilled = Killed.TestCase
TestFullDisk = FullDisk.TestCase
TestKilled.settings = TestFullDisk.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
