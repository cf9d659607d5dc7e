"""What a container may reach, as the routing table that it is given.

The kernel takes the most specific route, and where there is none, the destination cannot be reached. So a policy
becomes few routes: one to each allowed network, and an unreachable one to each refused network inside it. Whatever is
always refused wins over every allowance. The same refusals stand in the hub, where no container can change them.

Only IPv4 leads out. A container has no IPv6 address but its own loopback's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, ip_address, ip_network

import msgspec

from jitney.values.network import HubPlan, NetworkPolicy

HUBS = "198.18.0.0/16"  # of the range for tests between networks, which no machine of the internet has
NAMES = "198.19.0.0/20"  # stand for allowed names; each hub answers for them itself
HUB_PREFIX = 23
FIRST_POD = 16  # addresses below are the hub's and its uplink's
PODS_MAX = 2 ** (32 - HUB_PREFIX) - FIRST_POD - 1
NEVER = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, and with it the metadata of most clouds
    "100.100.100.200/32",  # metadata: Alibaba Cloud
    "168.63.129.16/32",  # metadata: Azure
    "192.0.0.192/32",  # metadata: Oracle Cloud
    "198.18.0.0/15",  # other hubs, and names
    "224.0.0.0/4",
    "240.0.0.0/4",
)


class Route(msgspec.Struct, frozen=True, order=True):
    """To a network: by the gateway, or not at all."""

    cidr: str
    reachable: bool = True


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """The network of one container. No `address`: it has none but its loopback.

    `names`: what it may ask the hub's resolver for; None: it does not ask there; "*" in it: anything.
    """

    address: str = ""
    gateway: str = ""
    mtu: int = 1500
    routes: tuple[Route, ...] = ()
    resolvers: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    cidrs: tuple[str, ...] = ()  # where an allowed name may lead although it is private


def egress(policy: NetworkPolicy, plan: HubPlan | None, number: int) -> Egress:
    """The network of the container with this number (from 0, free in its hub)."""
    if policy.blocked or plan is None:
        return Egress()
    inside = [] if policy.domains is None else [ip_network(NAMES)]
    allowed = ["0.0.0.0/0"] if policy.is_open and plan.uplink else list(policy.cidrs or ()) if plan.uplink else []
    names = policy.domains
    resolvers: tuple[str, ...] = ()
    if policy.domains is not None:
        resolvers = (plan.gateway,)
    elif policy.is_open and plan.uplink:
        resolvers = plan.resolvers or (plan.gateway,)
        inside += [ip_network(resolver) for resolver in plan.resolvers if not _within(resolver, allowed, plan.refused)]
        names = None if plan.resolvers else ("*",)
    elif plan.uplink:
        resolvers = tuple(r for r in plan.resolvers if _within(r, allowed, plan.refused))
    return Egress(
        address=address_of(plan, number),
        gateway=plan.gateway,
        mtu=plan.mtu,
        routes=routes_to(allowed, [*NEVER, *plan.refused], [str(network) for network in inside]),
        resolvers=resolvers,
        names=names,
        cidrs=policy.cidrs or (),
    )


def address_of(plan: HubPlan, number: int) -> str:
    """The address of a container of this hub."""
    assert 0 <= number < PODS_MAX, f"a hub has {PODS_MAX} containers at most"
    return str(IPv4Network(plan.subnet)[FIRST_POD + number])


def routes_to(allowed: Iterable[str], refused: Iterable[str], besides: Iterable[str] = ()) -> tuple[Route, ...]:
    """Routes by which an address is reached if it is in `allowed` and not in `refused`, or is in `besides`.

    None of them can be left out. What is in `besides` lies in no network of it twice, and is small.
    """
    extra = list(collapse_addresses(_v4(besides)))
    never = list(collapse_addresses(_v4(refused)))
    found = set()
    for network in collapse_addresses(_v4(allowed)):
        if any(network.subnet_of(no) for no in never):
            continue
        found.add(Route(str(network)))
        found.update(Route(str(no), False) for no in never if no.subnet_of(network))
    for network in extra:
        if reaches(found, network):
            continue
        found = {route for route in found if not ip_network(route.cidr).subnet_of(network)}  # type: ignore[arg-type]
        found.add(Route(str(network)))
    return tuple(sorted(found, key=lambda route: (IPv4Network(route.cidr), route.reachable)))


def reaches(routes: Iterable[Route], target: IPv4Network | IPv4Address) -> bool:
    """Whether all of `target` is reached by the routes: the most specific one decides."""
    network = IPv4Network(target)
    known = [(IPv4Network(route.cidr), route.reachable) for route in routes]
    over = [(net.prefixlen, reachable) for net, reachable in known if network.subnet_of(net)]
    under = [reachable for net, reachable in known if net.subnet_of(network) and net != network]
    return bool(over) and max(over)[1] and all(under)


def may_stand_for_a_name(address: str, cidrs: Sequence[str], refused: Sequence[str]) -> bool:
    """Whether an allowed name may lead to this address: a public one, or one that the policy allows by itself."""
    found = ip_address(address)
    if any(found in ip_network(no) for no in (*NEVER, *refused)) or _hides_ipv4(address):
        return False
    if any(found in ip_network(cidr) for cidr in cidrs):
        return True
    return found.is_global and not found.is_multicast


def nameservers(resolv_conf: str) -> tuple[str, ...]:
    """The name servers of a resolver file: three at most, as everybody reads it."""
    lines = (line.split() for line in resolv_conf.splitlines())
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return tuple(dict.fromkeys(filter(_is_address, found)))[:3]


def usable_resolvers(resolv_conf: str, refused: Sequence[str]) -> tuple[str, ...]:
    """Those that containers could ask themselves: IPv4, and not refused."""
    return tuple(
        server for server in nameservers(resolv_conf) if ":" not in server and _within(server, ["0.0.0.0/0"], refused)
    )


def resolver_file(egress: Egress) -> str:
    """/etc/resolv.conf of a container."""
    if not egress.resolvers:
        return "# This container's network policy leaves it no name server.\n"
    servers = "".join(f"nameserver {resolver}\n" for resolver in egress.resolvers)
    return servers + "options timeout:3 attempts:2\n"


def hosts_file(egress: Egress, hostname: str) -> str:
    """/etc/hosts of a container."""
    own = egress.address or "127.0.1.1"
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}\t{hostname}\n"


def hub_message(plan: HubPlan) -> dict[str, object]:
    """What `runner.wall.hub.set_up_hub` is given."""
    refused = collapse_addresses(_v4([*NEVER, *plan.refused]))
    return {
        "gateway": plan.gateway,
        "uplink": plan.uplink,
        "next_hop": plan.next_hop,
        "address": plan.address or plan.gateway,
        "masquerade": plan.masquerade,
        "names": NAMES,
        "refused": [str(network) for network in refused],
        "beside": [resolver for resolver in plan.resolvers if IPv4Address(resolver) in IPv4Network(plan.subnet)],
    }


def pod_message(egress: Egress, number: int) -> dict[str, object]:
    """What `runner.wall.hub.set_up_pod` and `finish_pod` are given."""
    return {
        "link": f"pod{number}" if egress.address else "",
        "address": egress.address,
        "gateway": egress.gateway,
        "mtu": egress.mtu,
        "routes": [[route.cidr, route.reachable] for route in egress.routes],
    }


def _v4(cidrs: Iterable[str]) -> list[IPv4Network]:
    return [network for network in map(ip_network, cidrs) if isinstance(network, IPv4Network)]


def _within(address: str, cidrs: Iterable[str], refused: Iterable[str]) -> bool:
    found = IPv4Address(address)
    return any(found in network for network in _v4(cidrs)) and not any(
        found in network for network in _v4([*NEVER, *refused])
    )


def _hides_ipv4(address: str) -> bool:
    """Whether an IPv6 address is an IPv4 one in disguise (mapped, 6to4, Teredo, NAT64), which we would not judge."""
    found = ip_address(address)
    if isinstance(found, IPv4Address):
        return False
    nat64 = found in ip_network("64:ff9b::/96") or found in ip_network("64:ff9b:1::/48")
    return bool(found.ipv4_mapped or found.sixtofour or found.teredo or nat64 or found.packed[:12] == bytes(12))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
