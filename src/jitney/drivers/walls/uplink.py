"""The way out of one wall: its hub, and what may be asked for by name."""

from __future__ import annotations

from typing import Any

from jitney.core import egress
from jitney.drivers.walls.wall import WallFailed
from jitney.ports.network import HubPlan, Names, Network, NetworkFailed
from jitney.values.network import NetworkPolicy


class Uplink:
    """See the module. Pods are told apart by their numbers; 0 is the template's."""

    def __init__(self, name: str, policy: NetworkPolicy, network: Network, names: Names) -> None:
        self.why_not = ""  # why there is none although the policy allows one
        self._name = name
        self._policy = policy
        self._network = network
        self._names = names
        self._hub: HubPlan | None = None

    async def connect(self, pid: int) -> tuple[dict[str, Any] | None, str]:
        """(the hub's message, its resolver file) for the wall whose warden this is."""
        if not self._policy.blocked:
            try:
                self._hub = await self._network.connect(self._name, pid)
                if self._egress(0).names is not None:
                    await self._names.open(self._name, pid, self._hub)
            except NetworkFailed as error:
                self.why_not = str(error)
                await self.disconnect()
        plan = egress.hub_message(self._hub) if self._hub is not None else None
        return plan, egress.resolver_file(self._egress(0))

    async def disconnect(self) -> None:
        """There is none any more."""
        self._hub = None
        await self._names.shut(self._name)
        await self._network.disconnect(self._name)

    @property
    def is_there(self) -> bool:
        """Whether it leads anywhere."""
        return self._hub is not None

    def message(self, number: int) -> dict[str, Any] | None:
        """A pod's network, for the warden."""
        return None if self._hub is None else egress.pod_message(self._egress(number), number)

    def address(self, number: int) -> str:
        """A pod's address; '' without one."""
        return self._egress(number).address

    async def admit(self, number: int) -> None:
        """Let a pod ask for what its policy names.

        Raises:
            WallFailed: that cannot be.
        """
        found = self._egress(number)
        if found.names is not None:
            try:
                await self._names.admit(self._name, found.address, found.names, found.cidrs)
            except NetworkFailed as error:
                raise WallFailed(str(error)) from error

    async def forget(self, number: int) -> None:
        """The pod has ended."""
        found = self._egress(number)
        if found.names is not None:
            await self._names.forget(self._name, found.address)

    def _egress(self, number: int) -> egress.Egress:
        return egress.egress(self._policy, self._hub, number)
