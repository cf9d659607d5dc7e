"""The network of a wall: a *hub* namespace that routes, and a pair of links from it to each container.

    container --eth0/pod7-- hub --uplink-- the machine, or a program that carries packets for it

Three functions, the first two for the warden (which holds the hub), the last for a container's first process:

    set_up_hub(plan)            once, when the driver has connected the uplink (or will have none)
    set_up_pod(plan, pod, pid)  links the namespace of process `pid`, before the next
    finish_pod(pod)             inside that namespace, with its privileges: names, addresses, routes

Both are dictionaries as JSON has them, made by `core.egress`:

    plan  {"gateway": "198.18.6.1", "uplink": "up0" or "", "next_hop": "198.18.6.2", "address": "198.18.6.1",
           "masquerade": false, "names": "198.19.0.0/20" or "", "refused": [networks], "beside": [addresses]}
    pod   {"link": "pod7" or "", "address": "198.18.6.23", "gateway": "198.18.6.1", "mtu": 1500,
           "routes": [[network, reachable], ...], "guarded": true if the hub is to keep to `routes` too}

What keeps containers apart is routing, by where a packet comes from. Theirs are looked up in OUT, where everything that
is always refused is unreachable, other containers among it; answers come by the uplink and are looked up in PODS; the
reverse path filter drops a packet whose source is not the container's own. A container sees one neighbour, the gateway,
and its own table (`routes`) holds what its policy allows. It has no privilege to change either. A kernel in user space
has its own table where it is: then (`guarded`, and the only pod of its hub) what it sends is looked up in GUARD first,
where all that is allowed is thrown back, to the next rule.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

from jitney.runner.wall import nftables
from jitney.runner.wall.netlink import (
    TABLE_LOCAL,
    Netlink,
    Request,
    add_address,
    add_route,
    add_rule,
    delete_link,
    index_of,
    link_up,
    make_veth,
    set_flags,
    without_ipv6,
)

PODS, OUT, GUARD = 101, 102, 103  # routing tables
RULES_FROM = 100
GUARD_RULE = 99
INSIDE = "eth0"
LOOPBACK = 1  # the kernel's number for it in every namespace
NETFILTER_TABLE = "jitney"


def set_up_hub(plan: dict[str, Any]) -> None:
    """Make this namespace the hub of its containers.

    Raises:
        OSError: the kernel refused; the message says what.
    """
    uplink = plan["uplink"]
    with Netlink() as netlink:
        requests = [link_up("lo"), add_address(LOOPBACK, f"{plan['gateway']}/32")]
        if plan["names"]:
            requests.append(add_route(plan["names"], index=LOOPBACK, kind="local", table=TABLE_LOCAL))
        # Our own packets, and every check of a source, look in both tables: a source is right if its way back is.
        requests.append(add_rule(RULES_FROM, "lo", PODS))
        if uplink:
            requests += [add_rule(RULES_FROM + 1, uplink, PODS), add_rule(RULES_FROM + 2, uplink)]
        requests += [add_rule(RULES_FROM + 3, "", OUT), add_rule(RULES_FROM + 4)]
        requests += [add_route(network, kind="unreachable", table=OUT) for network in plan["refused"]]
        netlink.perform(requests)
        if uplink:
            netlink.perform(_uplink(plan, index_of(uplink)))
    if plan["masquerade"]:
        nftables.put(NETFILTER_TABLE, _translation(uplink))


def _uplink(plan: dict[str, Any], index: int) -> list[Request]:
    uplink, next_hop = plan["uplink"], plan["next_hop"]
    requests = [without_ipv6(uplink)] if _knows_ipv6() else []
    requests.append(set_flags(uplink, forwarding=1, accept_redirects=0, send_redirects=0))
    if plan["address"] != plan["gateway"] or plan["masquerade"]:
        requests.append(add_address(index, f"{plan['address']}/32"))
    requests += [link_up(uplink), add_route(f"{next_hop}/32", index=index, table=OUT)]
    requests += [add_route(f"{address}/32", index=index, table=OUT) for address in plan["beside"]]
    return [*requests, add_route("0.0.0.0/0", next_hop, index, table=OUT)]


def _translation(uplink: str) -> list[nftables.Chain]:
    """Packets of containers leave with the hub's address; the hub itself has nothing to say out there."""
    leaves = nftables.interface(nftables.OUT, uplink)
    return [
        nftables.Chain("postrouting", nftables.POSTROUTING, [[leaves, nftables.masquerade()]]),
        nftables.Chain("output", nftables.OUTPUT, [[leaves, nftables.DROP]]),
    ]


def set_up_pod(plan: dict[str, Any], pod: dict[str, Any], pid: int) -> None:
    """Link the network namespace of process `pid` (a number of this pid namespace) with the hub.

    Raises:
        OSError: the kernel refused; the message says what.
    """
    link = pod["link"]
    if not link:
        return
    with Netlink() as netlink:
        create = make_veth(link, INSIDE, pid, pod["mtu"])
        try:
            netlink.perform([create])
        except FileExistsError:  # of one that has just ended, whose namespace the kernel has not taken apart yet
            netlink.perform([delete_link(link)])
            netlink.perform([create])
        requests = [without_ipv6(link)] if _knows_ipv6() else []
        requests += [
            set_flags(link, forwarding=1, rp_filter=1, accept_redirects=0, send_redirects=0),
            link_up(link),
            add_route(f"{pod['address']}/32", index=index_of(link), table=PODS),
        ]
        if pod.get("guarded"):
            requests += _guard(link, pod["routes"])
        netlink.perform(requests)


def _guard(link: str, routes: Sequence[tuple[str, bool]]) -> list[Request]:
    requests = [add_route("0.0.0.0/0", kind="unreachable", table=GUARD)]
    requests += [
        add_route(network, kind="throw" if reachable else "unreachable", table=GUARD) for network, reachable in routes
    ]
    return [*requests, add_rule(GUARD_RULE, link, GUARD)]


def finish_pod(pod: dict[str, Any]) -> None:
    """Address and routes, inside the container's namespace. Without a link it has its loopback only.

    Raises:
        OSError: the kernel refused; the message says what.
    """
    with Netlink() as netlink:
        requests = [link_up("lo")]
        if pod["link"]:
            index = index_of(INSIDE)
            requests += [without_ipv6(INSIDE)] if _knows_ipv6() else []
            requests.append(set_flags(INSIDE, accept_redirects=0))
            requests += [add_address(index, f"{pod['address']}/32"), link_up(INSIDE)]
            requests.append(add_route(f"{pod['gateway']}/32", index=index))
            requests += [
                add_route(network, pod["gateway"], index) if reachable else add_route(network, kind="unreachable")
                for network, reachable in pod["routes"]
            ]
        netlink.perform(requests)


def _knows_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise
    return True
