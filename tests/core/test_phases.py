"""Where the time of a start went."""

from hypothesis import given
from hypothesis import strategies as st

from jitney.core import phases


def test_reports_join_in_the_order_of_a_start():
    found = phases.join({"queued": 3.0}, {"load": 1, "enter": 2.5})
    found = phases.join(found, {"fork": 0.7, "template": 0.0})
    assert list(found.items()) == [("queued", 3.0), ("template", 0.0), ("fork", 0.7), ("load", 1.0), ("enter", 2.5)]
    assert phases.is_complete(found)
    assert not phases.is_complete({"load": 1.0})
    assert phases.total_ms(found) == 4.2


values = st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.lists(st.integers()))


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(phases.NAMES)), st.text()), values))
def test_whatever_a_runner_says_is_kept_to_what_can_be(reported):
    found = phases.join({}, reported)
    assert found.keys() <= phases.NAMES & reported.keys()
    assert all(0 <= value <= phases.PHASE_MS_MAX for value in found.values())
    phases.slow_start("f", found)
    phases.so_far(found, 5.0)


def test_only_slow_starts_are_told_with_what_took_longest():
    assert phases.slow_start("f", {"queued": 9_000.0, "template": 900.0, "fork": 3.0}) == ""
    told = phases.slow_start("f", {"template": 2.0, "fork": 3.0, "load": 10.0, "enter": 1_500.0})
    assert told == "a start of f took 1.5 s, most of it enter: template 2 ms, fork 3 ms, load 10 ms, enter 1.5 s"
    assert "most of it snapshot" in phases.slow_start("f", {"template": 3_000.0, "import": 200.0, "snapshot": 2_000.0})
