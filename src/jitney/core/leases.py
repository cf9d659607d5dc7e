"""Fencing tokens: the number that makes an attempt's result acceptable, once.

A token is `boot << 40 | n`: `boot` grows with each start of the server (it is in the store), `n` with each lease. So
tokens of one input strictly grow, also over restarts, and a result that carries any but the current one is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

SEQUENCE_BITS = 40
BOOTS_MAX = 1 << 24


def tokens(boot: int) -> Iterator[int]:
    """All tokens of the `boot`-th start of a server, in order.

    >>> source = tokens(1)
    >>> next(source) < next(source) < next(tokens(2))
    True
    """
    assert 0 < boot < BOOTS_MAX
    return count(boot << SEQUENCE_BITS)


def boot_of(token: int) -> int:
    """The start of the server that made `token`."""
    return token >> SEQUENCE_BITS
