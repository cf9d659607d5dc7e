"""Which versions of a volume are kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.retention import DAY_MS, prunable
from jitney.errors import InvalidError
from jitney.values.volumes import KEPT_DAYS_MAX, KEPT_VERSIONS_MAX, Retention, Version

NOW_MS = 1_000 * DAY_MS


def history(*days_ago):
    """Versions 1, 2, ... that were made so many days ago, as the store lists them."""
    made = [Version(version=n + 1, parent=n, at_ms=NOW_MS - days * DAY_MS) for n, days in enumerate(days_ago)]
    return made[::-1]


def test_the_newest_and_the_recent_ones_stay():
    versions = history(40, 30, 20, 3, 2)
    assert prunable(versions, Retention(versions=1, days=0), (), NOW_MS) == [1, 2, 3, 4]
    assert prunable(versions, Retention(versions=4, days=0), (), NOW_MS) == [1]
    assert prunable(versions, Retention(versions=1, days=7), (), NOW_MS) == [1, 2]  # 3 was the newest 7 days ago
    assert prunable(versions, Retention(versions=1, days=25), (), NOW_MS) == [1]
    assert prunable(versions, Retention(versions=1, days=0), (2, 4, 77), NOW_MS) == [1, 3]
    assert prunable([], Retention(), (), NOW_MS) == []


@given(
    st.lists(st.integers(-5, 60), max_size=20),
    st.builds(Retention, versions=st.integers(1, 8), days=st.integers(0, 40)),
    st.sets(st.integers(0, 20)),
)
def test_nothing_goes_that_is_to_be_kept(days_ago, retention, used):
    versions = history(*sorted(days_ago, reverse=True))
    gone = prunable(versions, retention, used, NOW_MS)
    assert gone == sorted(set(gone))
    assert not set(gone) & used
    assert not set(gone) & {one.version for one in versions[: retention.versions]}
    for newer, one in pairwise(versions):
        if newer.at_ms >= NOW_MS - retention.days * DAY_MS:
            assert one.version not in gone
        elif one.version not in used and one not in versions[: retention.versions]:
            assert one.version in gone


@pytest.mark.parametrize(
    "wrong",
    [{"versions": 0}, {"versions": KEPT_VERSIONS_MAX + 1}, {"days": -1}, {"days": KEPT_DAYS_MAX + 1}],
)
def test_what_cannot_be_kept_is_refused(wrong):
    with pytest.raises(InvalidError):
        Retention(**wrong)
