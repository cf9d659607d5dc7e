"""A container that goes on after it was written down takes the environment of now."""

import os

from hypothesis import given
from hypothesis import strategies as st

from jitney.runner.pause import refresh

NAMES = st.sampled_from(["A", "B", "C", "D"])
ENVIRONMENTS = st.dictionaries(NAMES, st.sampled_from(["1", "2", "3"]))


@given(before=ENVIRONMENTS, changes=st.dictionaries(NAMES, st.sampled_from(["x", None])), now=ENVIRONMENTS)
def test_what_the_import_changed_stays_and_all_else_is_as_now(before, changes, now):
    """`changes`: what the import set, or removed."""
    ours = {**before, **{name: value for name, value in changes.items() if value is not None}}
    ours = {name: value for name, value in ours.items() if changes.get(name, "") is not None}
    expected = {name: value for name, value in ours.items() if value != before.get(name)}
    for name in {*before, *now}:
        if ours.get(name) == before.get(name) and name in now:
            expected[name] = now[name]
    kept = dict(os.environ)
    os.environ.clear()
    try:
        os.environ.update(ours)
        refresh(before, now)
        assert dict(os.environ) == expected
    finally:
        os.environ.clear()
        os.environ.update(kept)
