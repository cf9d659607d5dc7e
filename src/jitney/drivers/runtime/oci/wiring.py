"""Our own network for an engine's container: the engine gives it none, and we put one in.

    container --eth0/pod0-- holder's namespace (the hub) --up0-- the machine

So what may be reached is what it is behind our own wall (`runner.wall.hub`, `drivers.walls.uplink`), whoever the engine
is. A container has the links when its first process, the keeper, has started, and before anything else has; its
resolver file is mounted, as the engine would write one of the machine's. This takes root on the machine, of the worker
and of the engine: a rootless engine's containers have the network that it gives.

What is made ends with the holder, which ends with the worker; `reap` removes what is left on the machine's side.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jitney.core import egress
from jitney.drivers.runtime.kept.render import CONTROL, BoxOrder, Mount, hub_of
from jitney.drivers.runtime.oci.holder import Holder
from jitney.drivers.walls.machine import Machine
from jitney.drivers.walls.uplink import Uplink
from jitney.drivers.walls.wall import WallFailed
from jitney.ports.network import Names, Network, NetworkFailed

RESOLVER_FILE = "/etc/resolv.conf"
KIND = "hub"  # of runner.__main__
POD = 0  # the one container of a hub: forks of a template share the network of their box


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
    ) -> None:
        self.why_not = ""
        self.mount = Mount(source=str(folder / "resolv.conf"), target=RESOLVER_FILE)
        self._policy = order.network
        self._control = next(one.source for one in order.mounts if one.target == CONTROL)
        self._uplink = Uplink(hub_of(order.name), order.network, network, names)
        self._env = env
        self._on_lost = on_lost
        self._holder: Holder | None = None
        self._plan: dict[str, Any] | None = None

    async def open(self) -> None:
        """Make the hub, before there is a container; what `mount` mounts is there afterwards.

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

    async def join(self, pid: int) -> None:
        """Put the links into the container whose first process this is, as the engine numbers it."""
        pod = self._uplink.message(POD)
        if self._holder is None or self._plan is None or pod is None:
            return
        try:
            namespace = namespace_of(pid, self._control)
            try:
                await self._holder.join(self._plan, pod, namespace)
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


def namespace_of(pid: int, control: str) -> int:
    """A descriptor of the network namespace of a box's first process. `control`: the folder of it that we know.

    An engine may number processes as another namespace does: what is not the box's would be another's network.

    Raises:
        NetworkFailed: it is not that, or has ended.
    """
    try:
        process = os.pidfd_open(pid)
        try:
            if not os.path.samestat(os.stat(f"/proc/{pid}/root{CONTROL}"), os.stat(control)):
                raise NetworkFailed(f"process {pid} is none of the engine's container")
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            if _has_ended(process) or os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
                os.close(namespace)
                raise NetworkFailed(f"process {pid} has ended, or has no network namespace of its own")
            return namespace
        finally:
            os.close(process)
    except OSError as error:
        raise NetworkFailed(
            f"the engine's process {pid} is not to be seen from here ({error.strerror or error}): "
            "the engine must run on this machine, outside of other containers"
        ) from error


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))
