"""Which templates are worth their memory, and which are made ahead."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.templates import FAILURES_MAX, HALF_LIFE_MS, Budget, Known, Uses, evictions, reason, refill
from jitney.values.containers import TemplateSpec

NOW = 10 * HALF_LIFE_MS


def spec(name):
    return TemplateSpec(image_id=name)


def known(name="a", **changes):
    return Known(spec=spec(name), **{"uses": Uses(1.0, NOW), **changes})


@st.composite
def pools(draw):
    """(idle, busy) templates."""
    count = draw(st.integers(0, 8))
    made = [
        Known(
            spec=spec(f"im-{number}"),
            uses=Uses(draw(st.floats(0, 100)), draw(st.integers(0, NOW))),
            cost_ms=draw(st.floats(0, 60_000)),
            size_kib=draw(st.integers(0, 4_000_000)),
            is_kept=draw(st.booleans()),
        )
        for number in range(count)
    ]
    cut = draw(st.integers(0, count))
    return made[:cut], made[cut:]


budgets = st.builds(Budget, count=st.integers(1, 8), memory_kib=st.integers(0, 8_000_000))


@given(pools(), budgets, st.integers(0, 1))
def test_what_goes_is_idle_enough_and_no_more(pool, budget, incoming):
    idle, busy = pool
    going = {one.spec for one in evictions(idle, busy, budget, NOW, incoming=incoming)}
    assert going <= {one.spec for one in idle}

    def fits(left):
        count, memory = len(left) + len(busy) + incoming, sum(one.size_kib for one in [*left, *busy])
        return count <= 1 or (count <= budget.count and memory <= budget.memory_kib)

    left = [one for one in idle if one.spec not in going]
    assert fits(left) or not [one for one in left if one.size_kib or len(left) + len(busy) + incoming > budget.count]
    if going:
        last = evictions(idle, busy, budget, NOW, incoming=incoming)[-1].spec
        assert not fits([*left, next(one for one in idle if one.spec == last)])


@given(pools(), budgets)
def test_what_stays_is_worth_more_or_is_kept_or_has_no_size(pool, budget):
    idle, busy = pool
    going = {one.spec for one in evictions(idle, busy, budget, NOW)}
    gone = [one for one in idle if one.spec in going]
    for stayed in [one for one in idle if one.spec not in going and one.size_kib]:
        assert all((one.is_kept, one.value(NOW)) <= (stayed.is_kept, stayed.value(NOW)) for one in gone)


@given(pools(), budgets, st.integers(0, 4_000_000))
def test_more_memory_never_costs_a_template(pool, budget, more):
    idle, busy = pool
    richer = msgspec.structs.replace(budget, memory_kib=budget.memory_kib + more)
    assert len(evictions(idle, busy, richer, NOW)) <= len(evictions(idle, busy, budget, NOW))


def test_a_large_one_that_is_made_in_a_blink_goes_before_a_small_one_that_takes_long():
    slow = known("slow", cost_ms=10_000, size_kib=100_000, uses=Uses(1.0, NOW - HALF_LIFE_MS))
    large = known("large", cost_ms=100, size_kib=1_000_000)
    [gone] = evictions([slow, large], [], Budget(count=9, memory_kib=1_000_000), NOW)
    assert gone.spec == large.spec
    assert "they have 1,074 MiB, and may have 976" in gone.why
    assert not evictions([slow], [], Budget(count=9, memory_kib=1), NOW)  # one may always stay


@given(st.lists(st.integers(0, NOW), max_size=20))
def test_likelihood_is_what_is_left_of_the_uses(times):
    uses = Uses()
    for at in sorted(times):
        uses = uses.used(at)
    assert uses.likelihood(NOW) == pytest.approx(sum(2 ** (-(NOW - at) / HALF_LIFE_MS) for at in times))


@pytest.mark.parametrize(
    "one, why",
    [
        (known(), ""),
        (known(is_asked=True), "its app was published"),
        (known(is_kept=True), "its function keeps containers"),
        (known(was_open=True, has_died=True), "it has died, and was used lately"),
        (known(was_open=True, has_died=True, uses=Uses(1.0, NOW - 2 * HALF_LIFE_MS)), ""),
        (known(is_asked=True, failures=1), ""),
        (known(is_kept=True, was_open=True, failures=1), "its function keeps containers"),
        (known(is_kept=True, was_open=True, deaths=1, failures=FAILURES_MAX - 1), ""),
    ],
)
def test_why_one_is_made_ahead(one, why):
    assert reason(one, NOW) == why


def test_refill_never_makes_what_would_not_fit_and_takes_kept_ones_first():
    budget = Budget(count=3, memory_kib=1_000)
    asked, kept = known("asked", is_asked=True), known("kept", is_kept=True, size_kib=600)
    assert refill([asked, kept], [], budget, NOW).spec == kept.spec
    assert refill([asked, kept], [known("there", size_kib=500)], budget, NOW).spec == asked.spec
    assert refill([asked], [known("a"), known("b"), known("c")], budget, NOW) is None
    assert refill([known("later", is_asked=True, retry_at_ms=NOW + 1)], [], budget, NOW) is None
    assert refill([], [], budget, NOW) is None
