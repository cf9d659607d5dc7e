"""Which checkpoints are kept."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.checkpoints import MIB, Kept, doomed, key_of, unfit
from jitney.values.containers import Snapshot, TemplateSpec

SPEC = TemplateSpec(image_id="im-1", source_id="so-1", module="m", checkpoint=True)
KEPT = st.builds(
    Kept,
    key=st.uuids().map(str),
    size_bytes=st.integers(0, 100),
    used_at_ms=st.integers(0, 20),
    is_of_use=st.booleans(),
)


@given(st.lists(KEPT, unique_by=lambda one: one.key), st.integers(0, 300))
def test_what_stays_is_of_use_and_fits(kept, budget):
    going = doomed(kept, budget)
    staying = [one for one in kept if one.key not in going]
    assert all(one.is_of_use for one in staying)
    assert sum(one.size_bytes for one in staying) <= budget
    assert set(going) <= {one.key for one in kept}


@given(st.lists(KEPT, unique_by=lambda one: one.key), st.integers(0, 300))
def test_nothing_goes_that_has_room(kept, budget):
    """Of what goes and is of use, each is too large for what those used later leave it."""
    going = set(doomed(kept, budget))
    for one in kept:
        if one.key in going and one.is_of_use:
            later = [other for other in kept if other.key not in going and other.used_at_ms >= one.used_at_ms]
            assert sum(other.size_bytes for other in later) + one.size_bytes > budget


def test_those_used_longest_ago_go_first():
    kept = [Kept(key=f"k{at}", size_bytes=10, used_at_ms=at) for at in (3, 1, 2)]
    assert doomed(kept, 20) == ("k1",)
    assert doomed(kept, 5) == ("k3", "k2", "k1")
    assert doomed([Kept(key="wreck", size_bytes=1, used_at_ms=9, is_of_use=False), *kept], 100) == ("wreck",)


def test_other_code_parameters_and_surroundings_have_another_key():
    variants = [
        SPEC,
        msgspec.structs.replace(SPEC, image_id="im-2"),
        msgspec.structs.replace(SPEC, source_id="so-2"),
        msgspec.structs.replace(SPEC, snapshot=Snapshot(qualname="Model")),
        msgspec.structs.replace(SPEC, snapshot=Snapshot(qualname="Model", parameters=b"x")),
        msgspec.structs.replace(SPEC, snapshot=Snapshot(qualname="Model", env=(("A", "1"),))),
    ]
    keys = {key_of(spec, "boot") for spec in variants} | {key_of(SPEC, "boot 2"), key_of(SPEC, "bo", "ot")}
    assert len(keys) == len(variants) + 2
    assert key_of(SPEC, "boot") == key_of(msgspec.structs.replace(SPEC), "boot")


def test_what_is_too_large_is_not_begun():
    assert unfit(10 * MIB, 100 * MIB, 100_000 * MIB) == ""
    assert unfit(0, 0, 100_000 * MIB) == "`checkpoints_mib` is 0"
    assert "it has 101 MiB of memory, and `checkpoints_mib` is 100" in unfit(101 * MIB, 100 * MIB, 100_000 * MIB)
    assert "the disk has 1,030 MiB free" in unfit(10 * MIB, 100 * MIB, 1_030 * MIB)
