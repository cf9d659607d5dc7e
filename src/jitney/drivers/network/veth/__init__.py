"""An uplink by the kernel's own routing: a pair of links from each hub to this machine, address translation, and rules.

Needs the privilege to administer the machine's network (root), and nf_tables in the kernel; no program. All names
begin with a prefix of the owner: two workers on one machine do not touch each other's. Where another firewall of the
machine drops what is forwarded (its policy is DROP), it has to allow links named `jt*`: a packet needs the consent of
all tables.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from jitney.core.egress import usable_resolvers
from jitney.drivers.network.veth import render
from jitney.ports.network import HubPlan, NetworkCapabilities, NetworkFailed
from jitney.runner.wall import nftables
from jitney.runner.wall.netlink import (
    TABLE_MAIN,
    Netlink,
    Request,
    add_address,
    add_route,
    delete_link,
    index_of,
    link_up,
    make_veth,
    set_flags,
    without_ipv6,
)

MTU_MIN, MTU_MAX = 576, 1500
RESOLVER_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


class VethNetwork:
    """Connects hubs by pairs of links. `refused` are networks that no container reaches: nodes, the control plane."""

    def __init__(self, owner: str, refused: Sequence[str] = (), resolver_files: Sequence[str] = RESOLVER_FILES) -> None:
        self._prefix = render.prefix_of(owner)
        self._table = render.table_of(self._prefix)
        self._refused = tuple(refused)
        self._resolver_files = tuple(resolver_files)
        self._hubs: dict[str, tuple[int, HubPlan]] = {}
        self._guarded: list[str] = []
        self._has_table = False
        self._lock = asyncio.Lock()

    def capabilities(self) -> NetworkCapabilities:
        """Routing and translation by the kernel."""
        return NetworkCapabilities(
            name="veth",
            outbound=True,
            domains=True,
            why="IPv6 does not lead out of containers",
        )

    async def connect(self, hub_id: str, pid: int) -> HubPlan:
        """Make the links, and the rules with the first of them."""
        async with self._lock:
            if hub_id in self._hubs:
                return self._hubs[hub_id][1]
            try:
                index, plan = await asyncio.to_thread(self._connect, pid)
            except OSError as error:
                if not self._hubs:
                    await asyncio.to_thread(self._remove_rules)
                raise NetworkFailed(
                    f"no way out for containers: {error.strerror or error}; it needs root and a kernel with nf_tables"
                ) from error
            self._hubs[hub_id] = index, plan
            return plan

    def _connect(self, pid: int) -> tuple[int, HubPlan]:
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            raise OSError(f"process {pid} has no network namespace of its own")
        with Netlink() as netlink:
            links = netlink.links()
            routes = netlink.routes()
            addresses = [known.address for known in netlink.addresses()]
            own = [f"{a}/32" for a in addresses if ":" not in a and not a.startswith("127.")]
            # The kernel takes the links of a hub that ends, and we hear of its end later: its number is not free yet.
            taken = [plan.subnet for _, plan in self._hubs.values()]
            taken += [route.cidr for route in routes if ip_network(route.cidr).prefixlen]
            index = render.free_index(taken)
            if index is None:
                raise OSError("all subnets for walls are in use on this machine")
            by_route = {route.link for route in routes if route.table == TABLE_MAIN}
            leading_out = {name: link.mtu for name, link in links.items() if link.number in by_route and name != "lo"}
            leading_out = {name: mtu for name, mtu in leading_out.items() if not name.startswith(self._prefix)}
            self._put_rules(set(leading_out))
            refused = [*self._refused, *own]
            mtu = max(MTU_MIN, min([MTU_MAX, *leading_out.values()]))
            plan = render.plan_of(index, self._resolvers(refused), mtu, refused)
            self._link(netlink, render.link_of(self._prefix, index), plan, pid)
        return index, plan

    def _link(self, netlink: Netlink, link: str, plan: HubPlan, pid: int) -> None:
        netlink.perform([make_veth(link, render.UPLINK, pid, plan.mtu)])
        try:
            number = index_of(link)
            requests: list[Request] = [without_ipv6(link)] if os.path.exists("/proc/sys/net/ipv6") else []
            requests += [
                set_flags(link, forwarding=1, rp_filter=1, accept_redirects=0, send_redirects=0),
                add_address(number, f"{plan.next_hop}/32"),
                link_up(link),
                add_route(f"{plan.gateway}/32", index=number),
                add_route(plan.subnet, plan.gateway, number),
            ]
            netlink.perform(requests)
        except OSError:
            netlink.perform([delete_link(link)])
            raise

    def _put_rules(self, leading_out: set[str]) -> None:
        """Rules first, forwarding then: at no moment is this machine a router for others."""
        if _read_setting("ip_forward"):
            guarded: list[str] = []  # it is one anyway, or has become one: what passes is for others to say
        else:
            closed = (link for link in leading_out if not _read_setting(f"conf/{link}/forwarding"))
            guarded = sorted({*self._guarded, *closed})
        if not self._has_table or guarded != self._guarded:
            nftables.put(self._table, render.chains(self._prefix, guarded, self._refused))
            self._has_table = True
        for link in guarded:
            if link not in self._guarded:
                _write_setting(f"conf/{link}/forwarding", 1)
        self._guarded = guarded

    def _remove_rules(self) -> None:
        """Forwarding ends first: what is known of it is in the names of the chains, also after a crash."""
        try:
            chains = nftables.chains_of(self._table)
        except OSError:
            return  # a kernel without tables has none of ours
        for chain in chains:
            if chain.startswith(render.GUARD) and not _read_setting("ip_forward"):
                _write_setting(f"conf/{chain.removeprefix(render.GUARD)}/forwarding", 0)
        nftables.remove(self._table)
        self._guarded, self._has_table = [], False

    def _resolvers(self, refused: Sequence[str]) -> tuple[str, ...]:
        for file in self._resolver_files:
            try:
                found = usable_resolvers(Path(file).read_text(encoding="utf-8", errors="replace"), refused)
            except OSError:
                continue
            if found:
                return found
        return ()

    async def disconnect(self, hub_id: str) -> None:
        """Remove a hub's links, and the rules with the last of them."""
        async with self._lock:
            known = self._hubs.pop(hub_id, None)
            if known is not None:
                await asyncio.to_thread(self._unlink, render.link_of(self._prefix, known[0]))
                if not self._hubs:
                    await asyncio.to_thread(self._remove_rules)

    def _unlink(self, link: str) -> None:
        with Netlink() as netlink:
            if link in netlink.links():
                try:
                    netlink.perform([delete_link(link)])
                except OSError:
                    if link in netlink.links():  # else the namespace of its other end has just taken it along
                        raise

    async def reap(self) -> int:
        """Remove what has our names and is no hub's of this run."""
        async with self._lock:
            ours = {render.link_of(self._prefix, index) for index, _ in self._hubs.values()}
            left = await asyncio.to_thread(self._links)
            for link in left - ours:
                await asyncio.to_thread(self._unlink, link)
            if not self._hubs:
                await asyncio.to_thread(self._remove_rules)
            return len(left - ours)

    def _links(self) -> set[str]:
        with Netlink() as netlink:
            return {link for link in netlink.links() if link.startswith(self._prefix)}

    async def close(self) -> None:
        """Disconnect all."""
        for hub_id in list(self._hubs):
            await self.disconnect(hub_id)


def _read_setting(name: str) -> int:
    try:
        return int(Path(f"/proc/sys/net/ipv4/{name}").read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0  # a link that is gone


def _write_setting(name: str, value: int) -> None:
    try:
        Path(f"/proc/sys/net/ipv4/{name}").write_text(f"{value}\n", encoding="ascii")
    except FileNotFoundError:
        pass
