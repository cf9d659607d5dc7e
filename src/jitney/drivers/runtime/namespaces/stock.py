"""Pods made ahead of need, for each size of shared memory that containers of one wall ask for.

A pod takes some milliseconds to make, and a container in a ready one about one. So a few wait; when a burst finds none,
twice as many are kept from then on, until it has been calm for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from jitney.drivers.walls.wall import Pod, WallFailed, WallGone

STOCK_MIN = 2
STOCK_MAX = 32
CALM_S = 30.0  # after a burst, the stock stays large for so long


class PodStock:
    """See the module.

    Args:
        least: how many wait when it is calm; 0: none, ever.
        make: makes one, of this size of shared memory in MiB.
        drop: ends one.
        spawn: runs a task that ends with the wall.
    """

    def __init__(
        self,
        least: int,
        *,
        make: Callable[[int], Awaitable[Pod]],
        drop: Callable[[Pod], object],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._least = least
        self._make = make
        self._drop = drop
        self._spawn = spawn
        self._ready: dict[int, deque[Pod]] = {}
        self._wanted: dict[int, int] = {}
        self._refilling: dict[int, asyncio.Task[None]] = {}
        self._calm: asyncio.TimerHandle | None = None
        self._is_closed = False

    def pods(self) -> list[Pod]:
        """Those that wait."""
        return [pod for ready in self._ready.values() for pod in ready]

    async def take(self, shm_mib: int) -> Pod:
        """One, made now if none waits.

        Raises:
            WallFailed: none can be made.
            WallGone: the wall has ended.
        """
        ready = self._ready.setdefault(shm_mib, deque())
        while ready:
            pod = ready.popleft()
            if pod.pidfd >= 0:
                self.refill(shm_mib)
                return pod
        self._grow(shm_mib)
        pod = await self._make(shm_mib)
        self.refill(shm_mib)
        return pod

    def refill(self, shm_mib: int) -> None:
        """Have pods of this size ready, soon."""
        if shm_mib not in self._refilling and not self._is_closed:
            task = self._refilling[shm_mib] = self._spawn(self._fill(shm_mib))
            task.add_done_callback(lambda _: self._refilling.pop(shm_mib, None))

    async def _fill(self, shm_mib: int) -> None:
        ready = self._ready.setdefault(shm_mib, deque())
        while len(ready) < self._wanted.get(shm_mib, self._least) and not self._is_closed:
            try:
                ready.append(await self._make(shm_mib))
            except (WallFailed, WallGone):
                return  # whoever needs one will hear why

    def _grow(self, shm_mib: int) -> None:
        self._wanted[shm_mib] = min(STOCK_MAX, 2 * self._wanted.get(shm_mib, self._least))
        if self._calm is not None:
            self._calm.cancel()
        self._calm = asyncio.get_running_loop().call_later(CALM_S, self._shrink)

    def _shrink(self) -> None:
        self._calm = None
        self._wanted.clear()
        for ready in self._ready.values():
            while len(ready) > self._least:
                self._drop(ready.pop())

    def close(self) -> None:
        """Make no more."""
        self._is_closed = True
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
