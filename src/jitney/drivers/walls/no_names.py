"""Where nothing answers for names: containers whose policy lists domains have no network."""

from __future__ import annotations

from collections.abc import Sequence

from jitney.ports.network import HubPlan, Names, NetworkFailed, OnRefused


class NoNames:
    """See `ports.network.Names`: fails closed."""

    async def open(self, hub_id: str, pid: int, plan: HubPlan) -> None:
        """See the port."""
        raise NetworkFailed("nothing answers for names here, so that domains cannot be allowed one by one")

    async def admit(self, hub_id: str, address: str, names: Sequence[str], cidrs: Sequence[str] = ()) -> None:
        """See the port."""
        raise NetworkFailed("nothing answers for names here")

    async def forget(self, hub_id: str, address: str) -> None:
        """See the port: nobody is known."""

    async def shut(self, hub_id: str) -> None:
        """See the port: nothing is open."""

    async def close(self) -> None:
        """See the port: nothing is open."""


def no_names(on_refused: OnRefused) -> Names:
    """For runtimes that are given none."""
    return NoNames()
