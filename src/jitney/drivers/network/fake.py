"""Uplinks and names in memory, that can be told to fail."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from jitney.core.egress import HUB_PREFIX, HUBS
from jitney.core.names import listed
from jitney.ports.network import HubPlan, NetworkCapabilities, NetworkFailed, OnRefused, Refused

_SUBNETS = tuple(IPv4Network(HUBS).subnets(new_prefix=HUB_PREFIX))


class FakeNetwork:
    """`fail_next` is the reason why the next connection fails; `connected` are the plans of hubs, by id."""

    def __init__(self, resolvers: Sequence[str] = ("9.9.9.9",)) -> None:
        self.connected: dict[str, HubPlan] = {}
        self.left: list[str] = []  # of an earlier run
        self.fail_next = ""
        self._resolvers = tuple(resolvers)

    def capabilities(self) -> NetworkCapabilities:
        """Says that all works."""
        return NetworkCapabilities(name="fake", outbound=True, domains=True)

    async def connect(self, hub_id: str, pid: int) -> HubPlan:
        """Note a hub."""
        if hub_id in self.connected:
            return self.connected[hub_id]
        if self.fail_next or pid <= 1:
            why, self.fail_next = self.fail_next or f"there is no process {pid}", ""
            raise NetworkFailed(why)
        taken = {plan.subnet for plan in self.connected.values()}
        subnet = next(subnet for subnet in _SUBNETS if str(subnet) not in taken)
        plan = HubPlan(
            subnet=str(subnet),
            gateway=str(subnet[1]),
            next_hop=str(subnet[2]),
            uplink="up0",
            resolvers=self._resolvers,
        )
        self.connected[hub_id] = plan
        return plan

    async def disconnect(self, hub_id: str) -> None:
        """Forget a hub."""
        self.connected.pop(hub_id, None)

    async def reap(self) -> int:
        """Forget what was left."""
        count, self.left = len(self.left), []
        return count

    async def close(self) -> None:
        """Forget all."""
        self.connected.clear()


class FakeNames:
    """`guests` are the admitted containers: (hub, address) -> names. `ask` asks as one of them would."""

    def __init__(self, on_refused: OnRefused) -> None:
        self.hubs: set[str] = set()
        self.guests: dict[tuple[str, str], tuple[str, ...]] = {}
        self.fail_next = ""
        self._on_refused = on_refused

    async def open(self, hub_id: str, pid: int, plan: HubPlan) -> None:
        """Note a hub."""
        if self.fail_next or pid <= 1:
            why, self.fail_next = self.fail_next or f"there is no process {pid}", ""
            raise NetworkFailed(why)
        self.hubs.add(hub_id)

    async def admit(self, hub_id: str, address: str, names: Sequence[str], cidrs: Sequence[str] = ()) -> None:
        """Note a container."""
        if hub_id not in self.hubs:
            raise NetworkFailed(f"names: the hub {hub_id} is not open")
        self.guests[hub_id, address] = tuple(names)

    async def forget(self, hub_id: str, address: str) -> None:
        """Forget a container."""
        self.guests.pop((hub_id, address), None)

    async def shut(self, hub_id: str) -> None:
        """Forget a hub and its containers."""
        self.hubs.discard(hub_id)
        self.guests = {key: names for key, names in self.guests.items() if key[0] != hub_id}

    async def close(self) -> None:
        """Forget all."""
        self.hubs.clear()
        self.guests.clear()

    def ask(self, hub_id: str, address: str, name: str) -> bool:
        """Whether the container of this address may reach a name."""
        allowed = listed(name, self.guests.get((hub_id, address), ()))
        if not allowed:
            self._on_refused(Refused(hub_id=hub_id, address=address, name=name, why="not listed"))
        return allowed
