"""The state of a map, without loop, clock or link: any order of events gives each input one result."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jitney.client.mapping import FRAME_BYTES_MAX, FRAME_INPUTS_MAX, MapState
from jitney.values.calls import Output, Status


def output(index, status=Status.SUCCESS):
    return Output(index, int(status), b"%d" % index)


def frames(state):
    found = []
    while (frame := state.frame()) is not None:
        found.append(frame)
    return found


def test_what_is_there_leaves_in_frames_of_neighbours():
    state = MapState(ordered=True)
    state.add([b"x"] * 600)
    assert [(first, len(payloads)) for first, payloads in frames(state)] == [(0, 256), (256, 256), (512, 88)]
    assert frames(state) == []


def test_frames_are_bounded_by_bytes_and_take_at_least_one():
    state = MapState(ordered=True)
    state.add([b"x" * (FRAME_BYTES_MAX // 2)] * 4 + [b"y" * (2 * FRAME_BYTES_MAX)] * 2)
    assert [len(payloads) for _, payloads in frames(state)] == [2, 2, 1, 1]


def test_ordered_results_wait_for_their_turn():
    state = MapState(ordered=True)
    state.add([b"x"] * 3)
    frames(state)
    state.on_outputs([output(2), output(1)])
    assert state.take() == []
    state.on_outputs([output(0)])
    assert [o.index for o in state.take()] == [0, 1, 2]


def test_unordered_results_come_as_they_are():
    state = MapState(ordered=False)
    state.add([b"x"] * 3)
    state.on_outputs([output(2)])
    assert [o.index for o in state.take()] == [2]


def test_room_is_bounded_by_what_is_out_and_by_what_is_not_taken():
    state = MapState(ordered=True, outstanding_max=10, ahead_max=15)
    assert state.room(0) == 10
    state.add([b"x"] * 10)
    assert state.room(0) == 0
    state.on_outputs([output(n) for n in range(1, 10)])
    assert state.room(0) == 5  # input 0 holds back nine results
    state.add([b"x"] * 5)
    assert state.room(0) == 0
    assert state.is_ahead(0)
    assert state.room(3) == 3


def test_refused_inputs_wait_and_hold_back_new_ones():
    state = MapState(ordered=True)
    state.add([b"x"] * 10)
    frames(state)
    state.on_refused(4, 3, due=5.0)
    assert state.room(0) == 0
    assert state.due(4.0) == 5.0
    assert frames(state) == []
    assert state.due(5.0) is None
    assert [(first, len(p)) for first, p in frames(state)] == [(4, 3)]
    assert state.room(0) > 0


def test_the_end_is_said_after_the_last_input_and_again_after_a_break():
    state = MapState(ordered=True)
    state.add([b"x"] * 2)
    state.end()
    assert not state.says_end()
    frames(state)
    assert state.says_end()
    assert not state.says_end()
    state.on_connected()
    assert not state.says_end()
    frames(state)
    assert state.says_end()


def test_after_a_break_only_what_has_no_output_goes_out():
    state = MapState(ordered=True)
    state.add([b"%d" % n for n in range(5)])
    frames(state)
    state.on_outputs([output(1), output(3)])
    state.on_connected()
    assert frames(state) == [(0, [b"0"]), (2, [b"2"]), (4, [b"4"])]


def test_the_payloads_of_what_is_over_are_given_back_once():
    state = MapState(ordered=True)
    state.add([b"a", b"b"])
    assert state.on_outputs([output(1)]) == [b"b"]
    assert state.on_outputs([output(1), output(7)]) == []
    assert state.leftover() == [b"a"]


def test_failures_are_counted():
    state = MapState(ordered=False)
    state.add([b"x"] * 3)
    state.on_outputs([output(0), output(1, Status.FAILURE)])
    assert (state.made, state.done, state.failed) == (3, 2, 1)


class AnyOrder(RuleBasedStateMachine):
    """A server that refuses, repeats, reorders and vanishes, against a model of what must come out."""

    @initialize(
        ordered=st.booleans(), total=st.integers(0, 60), outstanding=st.integers(1, 20), ahead=st.integers(1, 40)
    )
    def begin(self, ordered, total, outstanding, ahead):
        self.ordered, self.total = ordered, total
        self.outstanding_max, self.ahead_max = outstanding, max(ahead, outstanding)
        self.state = MapState(ordered=ordered, outstanding_max=outstanding, ahead_max=self.ahead_max)
        self.now = 0.0
        self.at_server = {}
        self.yielded = []
        self.over = []

    @rule(count=st.integers(1, 30))
    def add(self, count):
        room = self.state.room(len(self.yielded))
        taken = min(count, room, self.total - self.state.made)
        if taken > 0:
            first = self.state.made
            self.state.add([b"%d" % n for n in range(first, first + taken)])
        if self.state.made == self.total and not self.state.ended:
            self.state.end()

    @rule()
    def send(self):
        self.state.due(self.now)
        for first, payloads in frames(self.state):
            assert 1 <= len(payloads) <= FRAME_INPUTS_MAX
            for index, payload in enumerate(payloads, first):
                assert payload == b"%d" % index
                self.at_server[index] = payload

    @precondition(lambda self: self.at_server)
    @rule(data=st.data())
    def finish(self, data):
        some = data.draw(st.lists(st.sampled_from(sorted(self.at_server)), unique=True, max_size=10))
        self.over += self.state.on_outputs([output(index) for index in some])
        for index in some:
            del self.at_server[index]

    @precondition(lambda self: self.yielded)
    @rule(data=st.data())
    def repeat(self, data):
        index = data.draw(st.sampled_from(self.yielded))
        assert self.state.on_outputs([output(index)]) == []

    @precondition(lambda self: self.at_server)
    @rule(data=st.data(), delay=st.floats(0.1, 5))
    def refuse(self, data, delay):
        first = data.draw(st.sampled_from(sorted(self.at_server)))
        count = 0
        while first + count in self.at_server and count < 5:
            del self.at_server[first + count]
            count += 1
        self.state.on_refused(first, count, self.now + delay)

    @rule(lose=st.booleans())
    def connect_again(self, lose):
        if lose:
            self.at_server.clear()
        self.state.on_connected()

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def take(self):
        self.yielded += [o.index for o in self.state.take()]

    @invariant()
    def nothing_twice_and_in_order(self):
        if not hasattr(self, "state"):
            return
        assert len(set(self.yielded)) == len(self.yielded)
        if self.ordered:
            assert self.yielded == list(range(len(self.yielded)))

    @invariant()
    def bounded(self):
        if not hasattr(self, "state"):
            return
        assert len(self.state.leftover()) <= self.outstanding_max
        assert self.state.made - len(self.yielded) <= self.ahead_max

    def teardown(self):
        """When the server behaves again, everything comes out."""
        if not hasattr(self, "state"):
            return
        for _ in range(10 * self.total + 10):
            self.now += 10.0
            self.add(30)
            self.send()
            if self.state.says_end():
                assert self.state.made == self.total
            self.over += self.state.on_outputs([output(index) for index in list(self.at_server)])
            self.at_server.clear()
            self.take()
            if self.state.is_finished:
                break
        assert self.state.is_finished
        assert sorted(self.yielded) == list(range(self.total))
        assert sorted(self.over) == sorted(b"%d" % n for n in range(self.total))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(sizes=st.lists(st.integers(0, FRAME_BYTES_MAX + 10), max_size=40))
@settings(deadline=None, max_examples=50)
def test_frames_keep_every_input_once_and_in_order(sizes):
    state = MapState(ordered=True)
    state.add([bytes(1) * size for size in sizes])
    sent = [index for first, payloads in frames(state) for index in range(first, first + len(payloads))]
    assert sent == list(range(len(sizes)))


def test_inputs_cannot_follow_the_end():
    state = MapState(ordered=True)
    state.end()
    assert state.room(0) == 0
    with pytest.raises(AssertionError):
        state.add([b"x"])
