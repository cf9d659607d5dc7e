"""What the driver asks of the kernel, as values: names, the plan of a hub, packet rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

from jitney.core.egress import FIRST_POD, HUB_PREFIX, HUBS, NEVER
from jitney.runner.wall import nftables
from jitney.runner.wall.nftables import DIFFERENT, DROP, EQUAL, IN, OUT, Chain
from jitney.values.network import HubPlan

UPLINK = "up0"
GUARD = "guard_"
_SUBNETS = tuple(IPv4Network(HUBS).subnets(new_prefix=HUB_PREFIX))


def prefix_of(owner: str) -> str:
    """What the names of an owner's links begin with; the kernel takes 15 letters."""
    return "jt" + hashlib.sha256(owner.encode()).hexdigest()[:6]


def table_of(prefix: str) -> str:
    """The name of an owner's table of packet rules."""
    return f"jitney_{prefix}"


def link_of(prefix: str, index: int) -> str:
    """The name of this side's end of a hub's uplink."""
    return f"{prefix}n{index}"


def free_index(taken: Iterable[str]) -> int | None:
    """The lowest number of a hub whose subnet meets no route that the machine has; None: all are taken."""
    networks = [network for network in map(IPv4Network, taken) if network.prefixlen]
    return next(
        (n for n, subnet in enumerate(_SUBNETS) if not any(subnet.overlaps(network) for network in networks)), None
    )


def plan_of(index: int, resolvers: Sequence[str], mtu: int, refused: Sequence[str]) -> HubPlan:
    """The plan of a hub. The first address is the hub's, the second this side's."""
    subnet = _SUBNETS[index]
    return HubPlan(
        subnet=str(subnet),
        gateway=str(subnet[1]),
        next_hop=str(subnet[2]),
        uplink=UPLINK,
        resolvers=tuple(resolvers),
        mtu=mtu,
        refused=tuple(refused),
    )


def chains(prefix: str, guarded: Sequence[str], refused: Sequence[str]) -> list[Chain]:
    """All packet rules of an owner.

    `guarded` are links for which we have switched forwarding on. The machine was no router before, and does not become
    one: from these, only answers, what leads to a hub, and what another program has redirected goes on.
    """
    ours_in = nftables.interface(IN, f"{prefix}*")
    ours_out = nftables.interface(OUT, f"{prefix}*")
    not_ours_out = nftables.interface(OUT, f"{prefix}*", DIFFERENT)
    pods = ~(FIRST_POD - 1) & ((1 << (32 - HUB_PREFIX)) - 1)  # these bits are 0 in addresses of a hub itself
    return [
        # Before addresses are translated: what another program redirects from here into a container is refused too.
        Chain(
            "prerouting",
            nftables.PREROUTING,
            [
                [ours_in, nftables.protocol(DIFFERENT, nftables.IPV4), DROP],
                [ours_in, nftables.to_this_machine(), DROP],
                [ours_in, nftables.address_bits("saddr", pods, 0), DROP],
                *([ours_in, nftables.address("daddr", network), DROP] for network in (*NEVER, *refused)),
            ],
        ),
        Chain("input", nftables.INPUT, [[ours_in, DROP]]),
        Chain(
            "forward",
            nftables.FORWARD,
            [[ours_out, nftables.answer(), nftables.ACCEPT], [ours_out, DROP]],
        ),
        Chain(
            "postrouting",
            nftables.POSTROUTING,
            [[nftables.address("saddr", HUBS), not_ours_out, nftables.masquerade()]],
        ),
        *(
            Chain(
                GUARD + link,
                nftables.FORWARD,
                [
                    [
                        nftables.interface(IN, link),
                        not_ours_out,
                        nftables.answer(EQUAL),
                        nftables.redirected(EQUAL),
                        DROP,
                    ]
                ],
            )
            for link in guarded
        ),
    ]
