"""A queue in memory: first in, first out in each partition, and nothing is ever lost or there twice."""

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jitney.core.queues import Getter, Place, Putter, QueueState
from jitney.errors import QueueFullError, ResourceExhaustedError
from jitney.values import queues

HOUR_MS = 3_600_000
keys = st.sampled_from([b"", b"p"])


class OneQueue(RuleBasedStateMachine):
    """Whatever is done to a queue: every item is in exactly one place, and those that wait are in order."""

    def __init__(self):
        super().__init__()
        self.state = QueueState()
        self.numbers = count(1)
        self.payloads = count(1)
        self.now_ms = 1_000
        self.items = {}  # number -> item, of all that were put and are not gone
        self.held = []
        self.got = []
        self.dead = 0

    @rule(key=keys, amount=st.integers(1, 4))
    def put(self, key, amount):
        payloads = [b"%d" % next(self.payloads) for _ in range(amount)]
        put = self.state.put(key, payloads, self.now_ms, HOUR_MS, self.numbers)
        self.items.update({item.number: item for item in put})
        for _, items in self.state.matches(key):
            self.held.append(items)

    @rule(key=keys, amount=st.integers(1, 4))
    def get(self, key, amount):
        first = self.state.peek(key, 0, amount)
        taken = self.state.take(key, amount)
        assert taken == first
        if taken:
            self.held.append(taken)
        else:
            self.state.partition(key).getters.append(Getter(key, amount, 0, 0, None))

    @rule(key=keys, lease_ms=st.integers(1, 50), most=st.integers(0, 2))
    def lease(self, key, lease_ms, most):
        taken = self.state.take(key, 1)
        self.state.lease(taken, Getter(key, 1, lease_ms, most, None), self.now_ms)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), arrives=st.booleans())
    def settle(self, data, arrives):
        items = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if arrives:
            removed = self.state.remove(items)
            assert removed == items
            assert self.state.remove(items) == [], "an item is got once"
            self.got += [self.items.pop(item.number).number for item in removed]
        else:
            self.state.give_back(items)
            for key in {item.partition for item in items}:
                self.held += [given for _, given in self.state.matches(key)]

    @precondition(lambda self: self.state.leased)
    @rule(data=st.data(), done=st.booleans())
    def acknowledge(self, data, done):
        item = data.draw(st.sampled_from(sorted(self.state.leased.values())))
        assert self.state.leased_item(item.number, item.deliveries) is item
        assert self.state.leased_item(item.number, item.deliveries + 1) is None
        if done:
            self.state.remove([item])
            del self.items[item.number]
        else:
            self.state.fail(item, self.now_ms)
        assert self.state.leased_item(item.number, item.deliveries) is None
        self.match_all()

    @rule(step_ms=st.integers(0, 60))
    def time_passes(self, step_ms):
        self.now_ms += step_ms
        for item in self.state.ended_leases(self.now_ms):
            assert item.leased_until_ms <= self.now_ms
            self.state.fail(item, self.now_ms)
        assert (self.state.next_lease_end_ms() or self.now_ms + 1) > self.now_ms
        self.match_all()

    def match_all(self):
        for key in list(self.state.partitions):
            self.held += [given for _, given in self.state.matches(key)]

    @invariant()
    def each_item_is_in_one_place(self):
        waiting = [item for p in self.state.partitions.values() for item in p.waiting]
        held = [item for items in self.held for item in items]
        found = [item.number for item in [*waiting, *held, *self.state.leased.values()]]
        assert sorted(found) == sorted(self.items)
        assert self.state.count == len(self.items)
        assert {item.place for item in waiting} <= {Place.WAITING}
        assert {item.place for item in held} <= {Place.HELD}

    @invariant()
    def counts_are_of_partitions(self):
        for key, partition in self.state.partitions.items():
            assert partition.count == sum(item.partition == key for item in self.items.values())
            ordered = self.state.peek(key, 0, 10**6)
            assert ordered == sorted(partition.waiting)
            assert not (partition.waiting and partition.getters), "nobody waits where something is"

    @invariant()
    def the_dead_were_delivered_too_often(self):
        for item in self.state.peek(queues.DEAD_LETTER, 0, 10**6):
            assert item.deliveries >= item.max_deliveries > 0


TestOneQueue = OneQueue.TestCase
TestOneQueue.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


NUMBERS = count(1)


def put(state, *payloads, key=b"", ttl_ms=HOUR_MS, now_ms=0, numbers=NUMBERS):
    return state.put(key, list(payloads), now_ms, ttl_ms, numbers)


def payloads(items):
    return [item.payload for item in items]


def test_partitions_are_apart_and_in_order():
    state = QueueState()
    put(state, b"a", b"b")
    put(state, b"x", key=b"p")
    put(state, b"c")
    assert payloads(state.take(b"", 9)) == [b"a", b"b", b"c"]
    assert payloads(state.take(b"p", 9)) == [b"x"]
    assert state.take(b"none", 1) == []


def test_what_comes_back_is_before_what_came_later():
    state = QueueState()
    put(state, b"a", b"b", b"c")
    first, second = state.take(b"", 1), state.take(b"", 1)
    put(state, b"d")
    state.give_back(second)
    state.give_back(first)
    assert payloads(state.take(b"", 9)) == [b"a", b"b", b"c", b"d"]


def test_those_who_wait_get_items_in_turn():
    state = QueueState()
    line = state.partition(b"").getters
    line.extend(Getter(b"", amount, 0, 0, name) for name, amount in (("first", 2), ("second", 1), ("third", 5)))
    put(state, b"a", b"b", b"c", b"d")
    assert [(getter.asker, payloads(items)) for getter, items in state.matches(b"")] == [
        ("first", [b"a", b"b"]),
        ("second", [b"c"]),
        ("third", [b"d"]),
    ]


def test_a_full_partition_takes_nothing_and_then_those_who_waited(monkeypatch):
    monkeypatch.setattr(queues, "ITEMS_MAX", 3)
    state = QueueState()
    put(state, b"a", b"b")
    with pytest.raises(QueueFullError):
        put(state, b"c", b"d")
    assert state.length(b"") == 2
    assert state.has_room(b"", 1)
    partition = state.partition(b"")
    partition.putters.extend([Putter(b"", [b"c", b"d"], 1, "first"), Putter(b"", [b"e"], 1, "second")])
    assert not state.has_room(b"", 1), "nobody gets past those who wait"
    assert list(state.admitted(b"")) == []
    state.remove(state.take(b"", 2))
    admitted = []
    for putter in state.admitted(b""):
        admitted.append(putter.asker)
        put(state, *putter.payloads)
    assert admitted == ["first", "second"]


def test_limits_of_the_whole_queue(monkeypatch):
    monkeypatch.setattr(queues, "QUEUE_ITEMS_MAX", 2)
    monkeypatch.setattr(queues, "PARTITIONS_MAX", 2)
    state = QueueState()
    put(state, b"a", key=b"1")
    put(state, b"b", key=b"2")
    with pytest.raises(ResourceExhaustedError, match="2 items"):
        put(state, b"c", key=b"1")
    state.remove(state.take(b"1", 1))
    with pytest.raises(ResourceExhaustedError, match="2 partitions"):
        put(state, b"c", key=b"3")
    state.tidy(b"1")
    put(state, b"c", key=b"3")


def test_too_many_deliveries_end_among_the_dead():
    state = QueueState()
    put(state, b"a", b"b")
    getter = Getter(b"", 1, 10, 2, None)
    for delivery in (1, 2):
        (item,) = state.take(b"", 1)
        state.lease([item], getter, 0)
        assert (item.payload, item.deliveries) == (b"a", delivery)
        assert state.ended_leases(9) == []
        for ended in state.ended_leases(10):
            state.fail(ended, 10)
    assert payloads(state.peek(b"", 0, 9)) == [b"b"]
    (dead,) = state.peek(queues.DEAD_LETTER, 0, 9)
    assert (dead.payload, dead.deliveries, dead.expires_at_ms) == (b"a", 2, 10 + queues.DEAD_LETTER_TTL_MS)


def test_a_lease_can_be_extended():
    state = QueueState()
    put(state, b"a")
    items = state.take(b"", 1)
    state.lease(items, Getter(b"", 1, 10, 0, None), 0)
    state.extend(items[0], 50)
    assert state.ended_leases(49) == []
    assert state.ended_leases(50) == items


def test_a_partition_ends_after_its_last_put():
    state = QueueState()
    put(state, b"a", ttl_ms=100)
    put(state, b"b", ttl_ms=100, now_ms=50)
    put(state, b"x", key=b"p", ttl_ms=500)
    (held,) = state.take(b"", 1)
    assert state.expire(149) == []
    assert payloads(state.expire(150)) == [b"b"], "what is on its way stays"
    state.remove([held])
    state.expire(151)
    assert list(state.partitions) == [b"p"]


def test_clearing_takes_what_is_leased_too():
    state = QueueState()
    put(state, b"a", b"b")
    leased = state.take(b"", 1)
    state.lease(leased, Getter(b"", 1, 10, 0, None), 0)
    assert sorted(payloads(state.clear(b""))) == [b"a", b"b"]
    assert state.leased_item(leased[0].number, 1) is None
    assert state.count == 0


def test_what_was_stored_is_as_it_was():
    state = QueueState()
    numbers = count(1)
    put(state, b"a", b"b", b"c", numbers=numbers)
    items = state.take(b"", 1)
    state.lease(items, Getter(b"", 1, 10, 3, None), 0)
    again = QueueState(item.stored() for item in state)
    assert payloads(again.peek(b"", 0, 9)) == [b"b", b"c"]
    assert again.leased_item(1, 1).payload == b"a"
    assert again.next_lease_end_ms() == 10
