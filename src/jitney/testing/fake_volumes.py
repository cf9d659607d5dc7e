"""Volumes at the fake server: the real handlers, on memory or on a folder."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from jitney.drivers.contents.localdir import LocalContents
from jitney.drivers.store.memory import MemoryStore
from jitney.ports.contents import Contents
from jitney.server.api.objects import ObjectsApi
from jitney.server.api.table import Emit, Handler, Table
from jitney.server.api.volumes import VolumesApi
from jitney.server.objects import Objects
from jitney.server.volumes import Volumes
from jitney.testing.fake_server import FakeServer
from jitney.wire.methods import METHODS


class FakePeer:
    """Whoever asks."""

    def __init__(self) -> None:
        self.role = "client"

    def on_gone(self, action: Callable[[], None]) -> None:
        """It stays."""


class FakeVolumes:
    """Attach it to a `FakeServer` before it is asked for volumes. `is_at_hand=False`: clients do not see the folder."""

    def __init__(self, server: FakeServer, *, contents: Contents | None = None, is_at_hand: bool = True) -> None:
        self.store = MemoryStore()
        self.contents = contents or LocalContents(server.home.volumes)
        self.peer = FakePeer()
        self.peer.role = "client" if is_at_hand else "container"
        self._tasks: set[asyncio.Task[None]] = set()
        self.objects = Objects(self.store, self.now_ms, os.urandom)
        self.volumes = Volumes(
            objects=self.objects, store=self.store, contents=self.contents, now_ms=self.now_ms, run=self._run
        )
        table = Table()
        ObjectsApi(self.objects).register(table)
        VolumesApi(volumes=self.volumes, objects=self.objects).register(table)
        for name in set(METHODS) - table.missing():
            _, handler = table.find(self.peer, name) if name != "volume.adopt" else table.find(FakePeer(), name)
            setattr(server.answers, name.replace(".", "_"), self._answering(handler))

    def now_ms(self) -> int:
        """The time."""
        return time.time_ns() // 1_000_000

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answering(self, handler: Handler[Any, Any]) -> Callable[[msgspec.Struct, Emit], Any]:
        def answer(request: msgspec.Struct, emit: Emit) -> Any:
            return handler(self.peer, request, emit)

        return answer
