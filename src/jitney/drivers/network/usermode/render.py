"""The plan of a hub and the command lines of the programs, as values."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from jitney.core.egress import HUB_PREFIX, HUBS
from jitney.values.network import HubPlan

UPLINK = "up0"
_SUBNETS = tuple(IPv4Network(HUBS).subnets(new_prefix=HUB_PREFIX))
SLIRP_MTU = 65_520
PASTA_MTU = 65_520


def plan_of(count: int, refused: Sequence[str]) -> HubPlan:
    """The plan of the hub that is the `count`-th of this run. Each program is a network of its own, so numbers repeat.

    The program is at the second address and answers for names at the third; it knows the hub at the fourth only.
    """
    subnet = _SUBNETS[count % len(_SUBNETS)]
    return HubPlan(
        subnet=str(subnet),
        gateway=str(subnet[1]),
        next_hop=str(subnet[2]),
        resolvers=(str(subnet[3]),),
        address=str(subnet[4]),
        uplink=UPLINK,
        masquerade=True,
        mtu=SLIRP_MTU,
        refused=tuple(refused),
    )


def slirp_argv(path: str, pid: int, plan: HubPlan, ready: int, ended: int) -> list[str]:
    """slirp4netns for a hub: writes to `ready` when it stands, and ends when the other end of `ended` is closed."""
    return [
        path,
        f"--cidr={plan.subnet}",
        f"--mtu={plan.mtu}",
        "--disable-host-loopback",
        "--enable-sandbox",
        "--enable-seccomp",
        f"--ready-fd={ready}",
        f"--exit-fd={ended}",
        str(pid),
        plan.uplink,
    ]


def pasta_argv(path: str, pid: int, plan: HubPlan, pid_file: str) -> list[str]:
    """pasta for a hub: goes into the background when it stands, and leaves its number in `pid_file`."""
    return [
        path,
        "--quiet",
        "--ipv4-only",
        "--address",
        plan.address,
        "--netmask",
        str(IPv4Network(plan.subnet).prefixlen),
        "--gateway",
        plan.next_hop,
        "--mtu",
        str(plan.mtu),
        "--ns-ifname",
        plan.uplink,
        "--dns-forward",
        plan.resolvers[0],
        "--no-map-gw",  # the gateway's address does not lead to this machine's loopback
        *("-t", "none", "-u", "none", "-T", "none", "-U", "none"),  # nothing leads in, nothing to the loopback
        "--pid",
        pid_file,
        str(pid),
    ]
