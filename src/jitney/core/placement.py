"""Which node a container goes to: cheap checks that give a reason, then a score. Ties go to the smaller id.

Memory is never overcommitted. A request for CPU above the default is a reservation: those of a node sum up to its
cores. The default itself (an eighth of a core, for functions that do not ask) is a share: most of them wait most of the
time, so it reserves nothing. *Unplaceable* is an answer, with the count of nodes for each reason; `give_way` says which
idle containers of others would make room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from jitney.values.functions import DEFAULT_CPU_MILLI, Resources


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node, and what its containers have reserved."""

    node_id: str
    cpu_milli: int
    memory_mib: int
    disk_mib: int = 0  # 0: not known
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


def reserved_cpu_milli(want: Resources) -> int:
    """What a request takes from a node's cores: nothing, up to the default."""
    return want.cpu_milli if want.cpu_milli > DEFAULT_CPU_MILLI else 0


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
    disk_mib = want.ephemeral_disk_mib or 0
    if node.disk_mib and disk_mib > node.disk_mib:
        return f"its disk has {node.disk_mib:,} MiB, {disk_mib:,} are asked for"
    return None


def has_room(want: Resources, node: NodeView) -> str | None:
    """What is left after the requests of its containers."""
    reserved = reserved_cpu_milli(want)
    if reserved and node.used_cpu_milli + reserved > node.cpu_milli:
        return "its cores are reserved"
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


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """A container that works on nothing and may go, and how long it has been so."""

    container_id: str
    node_id: str
    resources: Resources
    idle_ms: int


def give_way(want: Resources, nodes: Sequence[NodeView], idle: Sequence[Idle]) -> tuple[str, ...]:
    """Idle containers, longest idle first, without which one node has room for `want`; () if none would do.

    >>> node = NodeView(node_id="n", cpu_milli=1000, memory_mib=1024, used_memory_mib=1024)
    >>> old = Idle(container_id="a", node_id="n", resources=Resources(memory_mib=512), idle_ms=9)
    >>> give_way(Resources(memory_mib=256), [node], [old])
    ('a',)
    """
    best: tuple[str, ...] = ()
    for node in sorted(nodes, key=lambda node: node.node_id):
        going: list[str] = []
        for item in sorted(idle, key=lambda item: (-item.idle_ms, item.container_id)):
            if isinstance(place(want, [node]), Placed):
                break
            if item.node_id == node.node_id:
                going.append(item.container_id)
                node = msgspec.structs.replace(
                    node,
                    used_cpu_milli=node.used_cpu_milli - reserved_cpu_milli(item.resources),
                    used_memory_mib=node.used_memory_mib - item.resources.memory_mib,
                )
        if isinstance(place(want, [node]), Placed) and (not best or len(going) < len(best)):
            best = tuple(going)
    return best
