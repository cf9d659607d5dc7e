"""Secrets at the fake server: the real handlers, on memory and a key service that is none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from jitney.drivers.keys.fake import FakeKms
from jitney.drivers.store.memory import MemoryStore
from jitney.server.api.secrets import SecretsApi
from jitney.server.api.table import Emit, Handler, Table
from jitney.server.vault import Vault
from jitney.testing.fake_server import FakeServer
from jitney.wire.methods import METHODS


class FakePeer:
    """Whoever asks."""

    role = "client"

    def on_gone(self, action: Callable[[], None]) -> None:
        """It stays."""


class FakeSecrets:
    """Attach it to a `FakeServer` before it is asked for secrets. `vault` and `store` are what it has."""

    def __init__(self, server: FakeServer) -> None:
        self.store = MemoryStore()
        self.keys = FakeKms()
        self.vault = Vault(store=self.store, keys=self.keys, entropy=os.urandom, wall_ms=self._now_ms)
        table = Table()
        SecretsApi(vault=self.vault, store=self.store).register(table)
        for name in set(METHODS) - table.missing():
            _, handler = table.find(FakePeer(), name)
            setattr(server.answers, name.replace(".", "_"), self._answering(handler))

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def _answering(self, handler: Handler[Any, Any]) -> Callable[[msgspec.Struct, Emit], Any]:
        def answer(request: msgspec.Struct, emit: Emit) -> Any:
            return handler(FakePeer(), request, emit)

        return answer
