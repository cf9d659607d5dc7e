"""Retries, admission, routing, autoscaling, placement, leases: pure decisions by example and property."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core import admission, autoscale, leases, retries, routing
from jitney.core.admission import Load
from jitney.core.autoscale import PoolView, decide, desired
from jitney.core.placement import NodeView, Placed, Unplaceable, place
from jitney.core.retries import Again, Failures, GiveUp
from jitney.values.calls import CRASHES_MAX, INTERNAL_FAILURES_MAX, CallKind, Status
from jitney.values.functions import Resources, RetryPolicy, Scaling

POLICIES = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 10),
    backoff_coefficient=st.floats(1, 10),
    initial_delay_ms=st.integers(0, 60_000),
    max_delay_ms=st.integers(1_000, 60_000),
)
ENDINGS = st.lists(
    st.sampled_from([Status.FAILURE, Status.TIMEOUT, Status.CRASH, Status.INTERNAL_FAILURE]), min_size=40, max_size=40
)


class TestRetries:
    @given(POLICIES, ENDINGS)
    def test_every_input_ends_and_our_failures_use_up_no_retry(self, policy, endings):
        failures, attempts = Failures(), []
        for status in endings:
            attempts.append(status)
            decision = retries.after(status, failures, policy)
            failures = decision.failures
            if isinstance(decision, GiveUp):
                break
        else:
            pytest.fail("an input that always fails never ended")
        user = sum(status in (Status.FAILURE, Status.TIMEOUT) for status in attempts)
        assert user <= policy.max_retries + 1
        assert attempts.count(Status.CRASH) <= CRASHES_MAX
        assert attempts.count(Status.INTERNAL_FAILURE) <= INTERNAL_FAILURES_MAX
        assert failures == Failures(user, attempts.count(Status.CRASH), attempts.count(Status.INTERNAL_FAILURE))

    @given(POLICIES, st.integers(1, 500))
    def test_delays_never_shrink_and_have_a_cap(self, policy, failure):
        delay, following = retries.delay_ms(policy, failure), retries.delay_ms(policy, failure + 1)
        assert 0 <= delay <= following <= policy.max_delay_ms

    def test_without_a_policy_the_first_failure_is_the_result(self):
        assert isinstance(retries.after(Status.FAILURE, Failures(), None), GiveUp)
        assert isinstance(retries.after(Status.INTERNAL_FAILURE, Failures(), None), Again)

    def test_what_will_not_get_better_is_not_tried_again(self):
        policy = RetryPolicy(max_retries=5)
        for status in (Status.TERMINATED, Status.INIT_FAILURE):
            assert isinstance(retries.after(status, Failures(), policy), GiveUp)

    def test_a_generator_is_never_run_again(self):
        policy = RetryPolicy(max_retries=5)
        for status in (Status.FAILURE, Status.CRASH, Status.INTERNAL_FAILURE):
            assert isinstance(retries.after(status, Failures(), policy, is_generator=True), GiveUp)


class TestAdmission:
    @given(st.integers(0, 3_000_000), st.integers(0, 30_000), st.sampled_from(list(CallKind)))
    def test_room_is_never_negative_and_zero_past_the_byte_limit(self, queued, running, kind):
        assert admission.room(Load(queued, running, 0), kind) >= 0
        assert admission.room(Load(queued, running, admission.QUEUED_BYTES_MAX), kind) == 0

    def test_a_refusal_says_what_is_full_and_when_to_come_back(self):
        refusal = admission.refusal(Load(2_000, 0, 0), CallKind.MAP, "square")
        assert "square" in refusal.message
        assert "2,000" in refusal.message
        assert refusal.retry_after_ms > 0
        assert "argument" in admission.refusal(Load(0, 0, admission.QUEUED_BYTES_MAX), CallKind.MAP, "f").message


class TestRouting:
    @given(st.integers(1, 8), st.one_of(st.none(), st.floats(1, 1e12)), st.integers(0, 10**6), st.integers(1, 100))
    def test_capacity_is_at_least_the_slots_and_bounded(self, slots, service_ns, queued, containers):
        capacity = routing.capacity(slots, service_ns, queued, containers)
        assert slots <= capacity <= max(slots, routing.AHEAD_INPUTS_MAX)

    def test_long_functions_are_not_fed_ahead(self):
        assert routing.capacity(1, 50_000_000.0, 10_000, 2) == 1

    def test_one_long_input_stops_feeding_ahead_at_once(self):
        service_ns = None
        for _ in range(100):
            service_ns = routing.smooth(service_ns, 20_000)
        assert routing.capacity(1, service_ns, 1_000, 1) > 100
        assert routing.capacity(1, routing.smooth(service_ns, 10**9), 1_000, 1) == 1


def view(**changes):
    return PoolView(
        **{"scaling": Scaling(), "target_inputs": 1, "queued": 0, "running": 0, "starting": 0, "ready": 0, **changes}
    )


VIEWS = st.builds(
    PoolView,
    scaling=st.builds(
        lambda low, span, buffer: Scaling(min_containers=low, max_containers=low + span, buffer_containers=buffer),
        st.integers(0, 10),
        st.integers(1, 100),
        st.integers(0, 5),
    ),
    target_inputs=st.integers(1, 10),
    queued=st.integers(0, 10_000),
    running=st.integers(0, 100),
    starting=st.integers(0, 50),
    ready=st.integers(0, 50),
    draining=st.integers(0, 20),
    service_ns=st.one_of(st.none(), st.floats(1_000, 1e12)),
)


class TestAutoscale:
    @given(VIEWS)
    def test_bounds_hold_and_there_is_always_a_reason(self, pool):
        wanted, why = desired(pool)
        assert pool.scaling.min_containers <= wanted <= pool.scaling.max_containers
        assert why
        decision = decide(pool, 0)
        have = pool.starting + pool.ready + pool.draining
        assert decision.start == 0 or have + decision.start <= pool.scaling.max_containers
        assert not (decision.start and decision.drain)

    @given(VIEWS)
    def test_demand_always_gets_a_container(self, pool):
        if pool.queued + pool.running:
            assert desired(pool)[0] >= 1

    def test_nothing_to_do_is_no_container(self):
        assert desired(view())[0] == 0

    def test_a_hundred_long_inputs_get_a_hundred_containers_by_doubling(self):
        ready, rounds = 0, 0
        while ready < 100:
            ready = desired(view(queued=100 - ready, running=ready, ready=ready))[0]
            rounds += 1
        assert rounds <= 6

    def test_trivial_inputs_do_not_get_a_container_each(self):
        assert desired(view(queued=1_000, ready=2, service_ns=20_000.0))[0] == 1

    def test_a_failing_start_waits_longer_each_time(self):
        pool = view(queued=1, failed_starts=3, last_failure_at_ms=1_000)
        assert decide(pool, 1_100).start == 0
        assert decide(pool, 1_100).retry_at_ms == 1_400
        assert decide(pool, 1_400).start == 1
        waits = [autoscale.backoff_until_ms(failed, 0) for failed in range(1, 40)]
        assert waits == sorted(waits)
        assert waits[-1] == autoscale.BACKOFF_MS_MAX

    def test_only_containers_idle_for_the_window_go_and_the_oldest_first(self):
        pool = view(ready=3, idle_for_ms=(("a", 59_000), ("b", 61_000), ("c", 90_000)))
        assert decide(pool, 0).drain == ("c", "b")
        kept = view(
            scaling=Scaling(min_containers=2), ready=3, idle_for_ms=(("a", 70_000), ("b", 80_000), ("c", 90_000))
        )
        assert decide(kept, 0).drain == ("c",)


class TestPlacement:
    NODES = st.lists(
        st.builds(
            NodeView,
            node_id=st.sampled_from(["n1", "n2", "n3", "n4"]),
            cpu_milli=st.integers(0, 64_000),
            memory_mib=st.integers(0, 65_536),
            used_cpu_milli=st.integers(0, 64_000),
            used_memory_mib=st.integers(0, 65_536),
            connected=st.booleans(),
        ),
        max_size=4,
        unique_by=lambda node: node.node_id,
    )

    @given(NODES, st.builds(Resources, cpu_milli=st.integers(1, 8_000), memory_mib=st.integers(1, 8_192)))
    def test_a_placed_container_fits_and_a_refused_one_has_a_reason_for_each_node(self, nodes, want):
        placed = place(want, nodes)
        if isinstance(placed, Placed):
            node = next(node for node in nodes if node.node_id == placed.node_id)
            assert node.connected
            assert node.used_memory_mib + want.memory_mib <= node.memory_mib
        else:
            assert sum(placed.reasons.values()) == len(nodes)
            assert placed.describe()

    @given(NODES, st.permutations(range(4)))
    def test_the_order_of_nodes_does_not_matter(self, nodes, order):
        shuffled = [nodes[index] for index in order if index < len(nodes)]
        assert place(Resources(), nodes) == place(Resources(), shuffled)

    def test_what_no_machine_could_ever_hold_is_said_so(self):
        node = NodeView(node_id="n", cpu_milli=2_000, memory_mib=4_096)
        refused = place(Resources(cpu_milli=64_000), [node])
        assert isinstance(refused, Unplaceable)
        assert refused.never
        assert "64 are asked for" in refused.describe()
        full = NodeView(node_id="n", cpu_milli=2_000, memory_mib=4_096, used_memory_mib=4_096)
        assert not place(Resources(), [full]).never
        assert place(Resources(), []) == Unplaceable({}, never=False)


def test_tokens_grow_within_and_over_restarts():
    first = list(itertools.islice(leases.tokens(1), 3))
    second = list(itertools.islice(leases.tokens(2), 3))
    assert first == sorted(set(first))
    assert max(first) < min(second)
    assert [leases.boot_of(token) for token in first + second] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("module", ["fairqueue", "routing", "autoscale", "retries", "leases"])
def test_examples_in_docstrings(module):
    import doctest
    import importlib

    assert doctest.testmod(importlib.import_module(f"jitney.core.{module}")).failed == 0
