"""How a version of a volume is laid out for a mount: a decision about the stack of layers that is there."""

from __future__ import annotations

from enum import Enum

STACK_MAX = 24  # layers of one mount: each is looked into for a name that is nowhere


class Laying(Enum):
    """What is done."""

    EXTEND = "a layer more on the stack"
    RESTACK = "the stack is made anew, of one layer"
    ALONE = "the version by itself, as the stack cannot come to it"


def laying(version: int, *, is_newest: bool, stacked: int, height: int) -> Laying:
    """How `version` is laid out, where the stack is at version `stacked` and `height` layers high.

    >>> laying(7, is_newest=True, stacked=5, height=2)
    <Laying.EXTEND: 'a layer more on the stack'>
    """
    if not is_newest or version < stacked:
        return Laying.ALONE
    return Laying.RESTACK if height >= STACK_MAX else Laying.EXTEND
