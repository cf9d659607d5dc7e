"""An uplink by a program that speaks TCP and UDP for the hub: slirp4netns or pasta. Needs no privilege.

One program serves all containers of a hub. It sees one address, as the hub translates; and it connects from this
machine as its user would, so what must not be reached is refused in the hub: the machine's own addresses as they are
when the hub is connected.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Literal

from jitney.drivers.network.usermode import render
from jitney.drivers.network.usermode.programs import Carrier, Pasta, ProgramFailed, Slirp
from jitney.ports.network import HubPlan, NetworkCapabilities, NetworkFailed
from jitney.runner.wall.netlink import Netlink

Program = Literal["slirp4netns", "pasta"]


class UsermodeNetwork:
    """Connects hubs by a program each. `folder` is ours alone; `refused` as in every driver."""

    def __init__(self, program: Program, path: str, folder: Path, refused: Sequence[str] = ()) -> None:
        self._program = program
        self._path = path
        self._folder = folder
        self._refused = tuple(refused)
        self._hubs: dict[str, tuple[HubPlan, Carrier]] = {}
        self._numbers = count()

    def capabilities(self) -> NetworkCapabilities:
        """TCP and UDP by a program."""
        return NetworkCapabilities(
            name=self._program,
            outbound=True,
            domains=True,
            why="packets pass through a program, which is slower than routing; IPv6 does not lead out of containers",
            remedy="a worker that runs as root routes them by the kernel",
        )

    async def connect(self, hub_id: str, pid: int) -> HubPlan:
        """Start the program for a hub."""
        if hub_id in self._hubs:
            return self._hubs[hub_id][0]
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
                raise NetworkFailed(f"process {pid} has no network namespace of its own")
            number = next(self._numbers)
            plan = render.plan_of(number, [*self._refused, *_own_addresses()])
            carrier = await self._start(pid, plan, number)
        except (OSError, ProgramFailed, TimeoutError) as error:
            raise NetworkFailed(f"no way out for containers: {self._program}: {error}") from error
        self._hubs[hub_id] = plan, carrier
        return plan

    async def _start(self, pid: int, plan: HubPlan, number: int) -> Carrier:
        if self._program == "slirp4netns":
            return await Slirp.start(self._path, pid, plan)
        self._folder.mkdir(parents=True, exist_ok=True)
        return await Pasta.start(self._path, pid, plan, self._folder / f"pasta-{number}.pid")

    async def disconnect(self, hub_id: str) -> None:
        """End the program of a hub."""
        known = self._hubs.pop(hub_id, None)
        if known is not None:
            await known[1].end()

    async def reap(self) -> int:
        """End what an earlier run left: only pasta outlives us."""
        if self._hubs:
            return 0
        left = sorted(self._folder.glob("pasta-*.pid")) if self._folder.is_dir() else []
        for file in left:
            await Pasta(file).end()
        return len(left)

    async def close(self) -> None:
        """Disconnect all."""
        for hub_id in list(self._hubs):
            await self.disconnect(hub_id)


def _own_addresses() -> list[str]:
    with Netlink() as netlink:
        addresses = [known.address for known in netlink.addresses()]
    return [f"{address}/32" for address in addresses if ":" not in address and not address.startswith("127.")]
