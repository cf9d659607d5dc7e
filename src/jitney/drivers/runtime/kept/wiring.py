"""Our own network for a box that others make: they give it none, and we put one in.

    box --eth0/pod0-- holder's namespace (the hub) --up0-- the machine

So what may be reached is what it is behind our own wall (`runner.wall.hub`, `drivers.walls.uplink`), whoever makes the
box. It has the links before any code of users runs in it; its resolver file is mounted, as an engine would write one of
the machine's. This takes root on the machine, of the worker and of an engine: a rootless engine's containers have the
network that it gives.

A box whose kernel is not the machine's has a routing table of its own, which the machine's kernel does not look at. For
such a one (`is_guarded`) the hub keeps to the policy too.

What is made ends with the holder, which ends with the worker; `reap` removes what is left on the machine's side.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jitney.core import egress
from jitney.drivers.runtime.forking.leftovers import Leftovers
from jitney.drivers.runtime.kept.holder import Holder
from jitney.drivers.runtime.kept.render import BoxOrder, Mount, hub_of
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.no_names import no_names
from jitney.drivers.walls.uplink import Uplink
from jitney.drivers.walls.wall import WallFailed
from jitney.ports.network import Names, Network, NetworkFailed, Refused

RESOLVER_FILE = "/etc/resolv.conf"
KIND = "hub"  # of runner.__main__
POD = 0  # the one container of a hub: forks of a template share the network of their box


class Wires:
    """What makes the networks of boxes, with the worker's way out. `network` None: there can be none.

    `names` makes what answers for names, and is there once somebody hears what is refused.
    """

    def __init__(self, network: Network | None, env: Mapping[str, str], *, is_guarded: bool = False) -> None:
        self.names: Names = no_names(_nobody)
        self._network = network
        self._env = env
        self._is_guarded = is_guarded

    @property
    def can_be(self) -> bool:
        """Whether boxes can have a network of ours."""
        return self._network is not None

    def wiring(self, order: BoxOrder, folder: Path, on_lost: Callable[[], None]) -> Wiring:
        """The network of a box. `on_lost`: what holds it has ended."""
        assert self._network is not None
        return Wiring(order, folder, self._network, self.names, self._env, on_lost, is_guarded=self._is_guarded)

    async def reap(self, leftovers: Leftovers) -> None:
        """Remove what an earlier run left: what holds a network, should it not have heard that we ended; its links."""
        if self._network is not None:
            await leftovers.reap()
            await self._network.reap()

    async def close(self) -> None:
        """No more of them."""
        await self.names.close()
        if self._network is not None:
            await self._network.close()


class Wiring:
    """The network of one box. `why_not`: why there is none although the policy allows one."""

    def __init__(
        self,
        order: BoxOrder,
        folder: Path,
        network: Network,
        names: Names,
        env: Mapping[str, str],
        on_lost: Callable[[], None],
        *,
        is_guarded: bool = False,
    ) -> None:
        self.why_not = ""
        self.mount = Mount(source=str(folder / "resolv.conf"), target=RESOLVER_FILE)
        self._policy = order.network
        self._uplink = Uplink(hub_of(order.name), order.network, network, names)
        self._env = env
        self._on_lost = on_lost
        self._is_guarded = is_guarded
        self._holder: Holder | None = None
        self._plan: dict[str, Any] | None = None

    async def open(self) -> None:
        """Make the hub, before there is a box; what `mount` mounts is there afterwards.

        Raises:
            OSError: the file cannot be written.
        """
        text = egress.resolver_file(egress.Egress())
        if not self._policy.blocked:
            try:
                text = await self._connect()
            except (NetworkFailed, WallFailed) as error:
                await self._give_up(str(error))
        await asyncio.to_thread(_write, self.mount.source, text)

    async def _connect(self) -> str:
        argv = [*Machine().launcher()[:-1], KIND]
        self._holder = await Holder.start(argv, self._env, self._on_lost)
        self._plan, text = await self._uplink.connect(self._holder.pid)
        if self._plan is None:
            raise NetworkFailed(self._uplink.why_not)
        await self._holder.set_up(self._plan)
        await self._uplink.admit(POD)
        return text

    @property
    def is_there(self) -> bool:
        """Whether there is a hub that a box can be linked with."""
        return self._plan is not None

    async def join(self, find: Callable[[], int]) -> None:
        """Put the links into a network namespace. `find` opens it; it may raise NetworkFailed."""
        pod = self._uplink.message(POD)
        if self._holder is None or self._plan is None or pod is None:
            return
        try:
            namespace = find()
            try:
                await self._holder.join(self._plan, {**pod, "guarded": self._is_guarded}, namespace)
            finally:
                os.close(namespace)
        except NetworkFailed as error:
            await self._give_up(str(error))

    async def _give_up(self, why: str) -> None:
        self.why_not = why
        await self.close()

    async def close(self) -> None:
        """Nothing of it is left. Idempotent."""
        if self._uplink.is_there:
            await self._uplink.disconnect()
        self._plan = None
        if self._holder is not None:
            await self._holder.end()
            self._holder = None


def _nobody(refused: Refused) -> None:
    """Who hears what is refused, before there are containers."""


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
