"""Variants of functions, near names, summaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.metering import summarize
from jitney.errors import InvalidError
from jitney.server.api.apps import function_id_of
from jitney.server.apps import bind, bound_id, did_you_mean
from jitney.values.containers import ContainerRecord
from jitney.values.functions import Concurrency, FunctionSpec, Overrides, RetryPolicy, Scaling

SPEC = FunctionSpec(name="f", env={"A": "1"}, scaling=Scaling(max_containers=3))


def test_overrides_change_what_they_name_and_nothing_else():
    bound = bind(
        SPEC,
        Overrides(
            env={"B": "2"}, min_containers=1, timeout_ms=5_000, retries=RetryPolicy(max_retries=2), parameters=b"p"
        ),
    )
    assert bound.env == {"A": "1", "B": "2"}
    assert bound.scaling == Scaling(min_containers=1, max_containers=3)
    assert (bound.timeout_ms, bound.retries.max_retries, bound.parameters) == (5_000, 2, b"p")
    assert bind(SPEC, Overrides()) == SPEC
    assert bind(SPEC, Overrides(concurrency=Concurrency(max_inputs=4, target_inputs=2))).max_inputs == 4


def test_an_override_out_of_its_bounds_is_refused():
    with pytest.raises(InvalidError, match="min_containers"):
        bind(SPEC, Overrides(min_containers=4))
    with pytest.raises(InvalidError, match="timeout"):
        bind(SPEC, Overrides(timeout_ms=1))


def test_equal_binds_share_a_pool_and_different_ones_do_not():
    assert bound_id("fu-1", Overrides(parameters=b"a")) == bound_id("fu-1", Overrides(parameters=b"a"))
    assert bound_id("fu-1", Overrides(parameters=b"a")) != bound_id("fu-1", Overrides(parameters=b"b"))
    assert bound_id("fu-1", Overrides()) != bound_id("fu-2", Overrides())


def test_a_function_that_did_not_change_keeps_its_id_over_deployments():
    again = FunctionSpec(name="f", env={"A": "1"}, scaling=Scaling(max_containers=3))
    assert function_id_of("ap-1", SPEC) == function_id_of("ap-1", again)
    assert function_id_of("ap-1", SPEC) != function_id_of("ap-1", bind(SPEC, Overrides(timeout_ms=1_000)))
    assert function_id_of("ap-1", SPEC) != function_id_of("ap-2", SPEC)


def test_near_names():
    assert did_you_mean("squre", ["square", "cube"]) == "did you mean 'square'?"
    assert did_you_mean("x", ["square"]) == ""


RECORDS = st.builds(
    lambda created, start, ready, end, busy: ContainerRecord(
        container_id="ta",
        function_id="fu",
        created_at_ms=created,
        ready_at_ms=created + start if ready else None,
        ended_at_ms=created + start + end if ready else created + start,
        busy_ms=min(busy, end) if ready else 0,
    ),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.booleans(),
    st.integers(0, 10_000),
    st.integers(0, 20_000),
)


@given(st.lists(RECORDS, max_size=10))
def test_busy_and_idle_make_up_the_ready_time_of_every_container(records):
    summary = summarize(records, now_ms=100_000, started_at_ms=0, inputs=5, failed=1)
    ready_ms = sum(r.ended_at_ms - r.ready_at_ms for r in records if r.ready_at_ms is not None)
    assert summary.busy_ms + summary.idle_ms == ready_ms
    assert summary.containers == len(records)
    assert summary.cold_starts == sum(r.ready_at_ms is not None for r in records)
