"""No uplink: hubs are cut off, and the reason is known. Names may be answered all the same (`Names`)."""

from __future__ import annotations

from ipaddress import IPv4Network

from jitney.core.egress import HUB_PREFIX, HUBS
from jitney.ports.network import HubPlan, NetworkCapabilities

_SUBNET = next(IPv4Network(HUBS).subnets(new_prefix=HUB_PREFIX))


class NoNetwork:
    """Every hub gets the same plan, which leads nowhere."""

    def __init__(self, why: str, remedy: str) -> None:
        self._why = why
        self._remedy = remedy

    def capabilities(self) -> NetworkCapabilities:
        """Nothing leads out but allowed names."""
        return NetworkCapabilities(name="none", outbound=False, domains=True, why=self._why, remedy=self._remedy)

    async def connect(self, hub_id: str, pid: int) -> HubPlan:
        """Numbers for containers, and no uplink."""
        return HubPlan(subnet=str(_SUBNET), gateway=str(_SUBNET[1]))

    async def disconnect(self, hub_id: str) -> None:
        """Nothing was made."""

    async def reap(self) -> int:
        """Nothing was left."""
        return 0

    async def close(self) -> None:
        """Nothing is open."""
