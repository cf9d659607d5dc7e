"""How versions are laid out."""

import pytest

from jitney.core.layers import STACK_MAX, Laying, laying


@pytest.mark.parametrize(
    "version, newest, stacked, height, how",
    [
        (1, True, 0, 1, Laying.EXTEND),
        (9, True, 3, STACK_MAX - 1, Laying.EXTEND),
        (9, True, 3, STACK_MAX, Laying.RESTACK),
        (9, False, 3, 2, Laying.ALONE),
        (2, True, 3, 2, Laying.ALONE),
    ],
)
def test_the_stack_grows_until_it_is_high(version, newest, stacked, height, how):
    assert laying(version, is_newest=newest, stacked=stacked, height=height) is how
