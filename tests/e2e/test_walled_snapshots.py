"""Memory snapshots at the tier that this machine has by default."""

import pytest

pytestmark = pytest.mark.e2e
PROGRAM = "walled_snapshots.py"


def test_containers_share_what_was_loaded_and_nothing_that_is_drawn(program):
    found = [program.Model().seen.remote() for _ in range(4)]
    assert len({weights for weights, _, _ in found}) == 1
    assert len({own for _, own, _ in found}) == 4
    for name in found[0][2]:
        assert len({drawn[name] for _, _, drawn in found}) == 4, name
