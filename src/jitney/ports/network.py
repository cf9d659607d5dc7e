"""The way out of containers: an uplink for each wall, and what each container of it may reach.

A wall has a network namespace of its own (the *hub*), and each container another one, joined to the hub by a pair of
virtual interfaces; the hub routes between them and the uplink. What a container may reach is its own routing table
(`core.egress`): it has no privilege to change it. Links and routes are made inside the wall by `runner.wall.hub`; a
driver of `Network` only connects a hub to the world, and one of `Names` answers for names in it.

The contract of `Network`, for every driver:

 1. `connect` gives a `HubPlan` when the uplink stands: the address of the hub, the next hop, the name servers that
    containers may ask. It raises `NetworkFailed`, and then nothing is left behind. A hub has one uplink: connecting it
    again gives the same plan. The namespace of the caller is never taken for a hub.
 2. `disconnect` is idempotent; a hub whose namespace is gone is cleaned up after all the same. `reap` removes what an
    earlier run left (interfaces, rules, processes).
 3. Nothing outside can connect to a hub or container. The host's loopback and its own addresses, metadata addresses,
    and other hubs cannot be reached through an uplink, whatever the routes of a container say.

The contract of `Names`, for every driver:

 4. A container that `admit` does not know is answered nothing and carried nowhere. One that it knows may ask the hub's
    resolver for the names that it lists ("*.example.com": those below example.com; "*": all, for containers that may
    go anywhere and have no other name server), and for others is told that they do not exist.
 5. An allowed name is answered with an address of `core.egress.NAMES`, where ports 80 and 443 lead to the name that
    was asked for and to no other: resolved once on this side, to a public address or one of `cidrs`, and with the
    name checked in what is sent (TLS: the server name; HTTP: the host).
 6. What was refused is told to `on_refused`, each container and name once a minute at most.
 7. `open` may be called before or after the hub is set up; `shut` and `forget` are idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from jitney.values.network import HubPlan as HubPlan


class NetworkCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver can do here."""

    name: str  # "veth", "slirp4netns", "pasta", "none"
    outbound: bool
    domains: bool  # domain allowlists are enforced
    ipv6: bool = False
    why: str = ""
    remedy: str = ""


class NetworkFailed(Exception):
    """No uplink: the message says why."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A container asked for something that its policy does not list."""

    hub_id: str
    address: str  # of the container
    name: str
    why: str


OnRefused = Callable[[Refused], None]


class Network(Protocol):
    """Connects hubs; see the contract above."""

    def capabilities(self) -> NetworkCapabilities:
        """What holds here."""
        ...

    async def connect(self, hub_id: str, pid: int) -> HubPlan:
        """Give the network namespace of process `pid` (host number) a way out.

        Raises:
            NetworkFailed: it cannot be had.
        """
        ...

    async def disconnect(self, hub_id: str) -> None:
        """The hub is gone."""
        ...

    async def reap(self) -> int:
        """Remove what an earlier run left; how many hubs it was of."""
        ...

    async def close(self) -> None:
        """Disconnect all."""
        ...


class Names(Protocol):
    """Answers for names; see the contract above."""

    async def open(self, hub_id: str, pid: int, plan: HubPlan) -> None:
        """Listen in the hub, which is the network namespace of process `pid` (host number).

        Raises:
            NetworkFailed: it cannot be done.
        """
        ...

    async def admit(self, hub_id: str, address: str, names: Sequence[str], cidrs: Sequence[str] = ()) -> None:
        """The container of this address may ask for `names`, from when this returns.

        Raises:
            NetworkFailed: the hub is not open.
        """
        ...

    async def forget(self, hub_id: str, address: str) -> None:
        """The container is gone: its address may soon be another's. What it has open is cut."""
        ...

    async def shut(self, hub_id: str) -> None:
        """The hub is gone."""
        ...

    async def close(self) -> None:
        """Shut all."""
        ...
