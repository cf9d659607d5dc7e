"""Memory over time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jitney.core.metering import NS_PER_S, SAMPLE_GAP_MAX_NS, MemoryTime

SAMPLES = st.lists(st.tuples(st.integers(-NS_PER_S, 2 * SAMPLE_GAP_MAX_NS), st.integers(0, 1 << 40)), max_size=20)


def test_memory_that_stays_counts_its_size_each_second():
    meter = MemoryTime(at_ns=7, memory_bytes=1000)
    for second in range(1, 61):
        meter = meter.until(7 + second * NS_PER_S, 1000)
    assert meter.byte_s == 60_000


def test_memory_that_changes_counts_the_mean_of_both_ends():
    assert MemoryTime(at_ns=0, memory_bytes=0).until(4 * NS_PER_S, 100).byte_s == 200


def test_over_a_long_gap_only_what_both_ends_have_seen_counts():
    meter = MemoryTime(at_ns=0, memory_bytes=100).until(SAMPLE_GAP_MAX_NS + NS_PER_S, 10)
    assert meter.byte_s == 110


@given(SAMPLES)
def test_it_never_shrinks_and_never_counts_more_than_the_most_that_was_seen(samples):
    meter, now_ns = MemoryTime(at_ns=0, memory_bytes=0), 0
    for step_ns, memory in samples:
        now_ns += step_ns
        later = meter.until(now_ns, memory)
        assert later.byte_ns >= meter.byte_ns
        assert later.at_ns >= meter.at_ns
        meter = later
    assert meter.byte_ns <= meter.at_ns * max((memory for _, memory in samples), default=0)
