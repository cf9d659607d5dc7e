"""Which node a container goes to: cheap checks that give a reason, then a score. Ties go to the smaller id.

CPU is a share, not a wall: a machine takes CPU_OVERCOMMIT times its cores in requests, since most containers wait most of
the time; memory is not overcommitted. *Unplaceable* is an answer, with the count of nodes for each reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from jitney.values.functions import Resources

CPU_OVERCOMMIT = 8


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node and what its containers have asked for."""

    node_id: str
    cpu_milli: int
    memory_mib: int
    used_cpu_milli: int = 0
    used_memory_mib: int = 0
    connected: bool = True


class Placed(msgspec.Struct, frozen=True):
    """It goes to this node."""

    node_id: str


class Unplaceable(msgspec.Struct, frozen=True):
    """No node takes it: reason -> number of nodes. `never`: not even empty nodes would."""

    reasons: dict[str, int]
    never: bool = False

    def describe(self) -> str:
        """'2 nodes: not enough memory', for a sentence."""
        if not self.reasons:
            return "no machine is connected"
        return "; ".join(f"{count} node{'s'[: count > 1]}: {why}" for why, count in sorted(self.reasons.items()))


Check = Callable[[Resources, NodeView], "str | None"]


def is_connected(_: Resources, node: NodeView) -> str | None:
    """A node whose worker does not answer takes nothing."""
    return None if node.connected else "its worker is not connected"


def has_size(want: Resources, node: NodeView) -> str | None:
    """One container must fit the empty machine."""
    if want.cpu_milli > node.cpu_milli:
        return f"it has {node.cpu_milli / 1000:g} cores, {want.cpu_milli / 1000:g} are asked for"
    if want.memory_mib > node.memory_mib:
        return f"it has {node.memory_mib:,} MiB of memory, {want.memory_mib:,} are asked for"
    return None


def has_room(want: Resources, node: NodeView) -> str | None:
    """What is left after the requests of its containers."""
    if node.used_cpu_milli + want.cpu_milli > node.cpu_milli * CPU_OVERCOMMIT:
        return "all of its cpu is asked for"
    if node.used_memory_mib + want.memory_mib > node.memory_mib:
        return "all of its memory is asked for"
    return None


CHECKS: Sequence[Check] = (is_connected, has_size, has_room)  # cheap first; size before room: it decides `never`


def place(want: Resources, nodes: Sequence[NodeView], checks: Sequence[Check] = CHECKS) -> Placed | Unplaceable:
    """The feasible node that is fullest (packing leaves others free for large containers)."""
    refusals: Counter[str] = Counter()
    best: tuple[float, str] | None = None
    for node in sorted(nodes, key=lambda node: node.node_id):
        reason = next((why for check in checks if (why := check(want, node))), None)
        if reason is not None:
            refusals[reason] += 1
            continue
        fullness = node.used_memory_mib / max(node.memory_mib, 1)
        if best is None or fullness > best[0]:
            best = (fullness, node.node_id)
    if best is None:
        never = bool(nodes) and all(has_size(want, node) for node in nodes)
        return Unplaceable(dict(refusals), never)
    return Placed(best[1])
