"""The model of a store: what the port means, in dictionaries. It forgets all at its end.

It is what the others are compared with, so it is written to be read, and shares nothing with them. And it can be told
to misbehave: `fail(3, error)` makes the third operation from now raise; with `applied=True` after it has done its
work, as when an answer is lost on its way.
"""

from __future__ import annotations

from jitney.drivers.store.memory.calls import MemoryCalls
from jitney.drivers.store.memory.faults import Faults
from jitney.drivers.store.memory.objects import MemoryDicts, MemoryObjects, MemoryQueues
from jitney.drivers.store.memory.records import MemoryApps, MemoryContainers, MemoryFunctions
from jitney.drivers.store.memory.secrets import MemorySecrets
from jitney.drivers.store.memory.volumes import MemoryVolumes
from jitney.errors import JitneyError
from jitney.ports.store import StoreMeta


class MemoryStore:
    """`ports.store.Store` in dictionaries."""

    def __init__(self, *, server_id: str = "memory") -> None:
        self._faults = Faults()
        self._server_id = server_id
        self.functions = MemoryFunctions(self._faults)
        self.apps = MemoryApps(self._faults, self.functions)
        self.calls = MemoryCalls(self._faults)
        self.containers = MemoryContainers(self._faults)
        self.volumes = MemoryVolumes(self._faults)
        self.objects = MemoryObjects(self._faults)
        self.dicts = MemoryDicts(self._faults, self.objects)
        self.queues = MemoryQueues(self._faults, self.objects)
        self.secrets = MemorySecrets(self._faults, self.apps.is_alive)

    def fail(self, nth: int, error: JitneyError, *, applied: bool = False) -> None:
        """Make the `nth` operation from now (1: the next) raise; `applied`: after it has done its work."""
        self._faults.planned[self._faults.count + nth] = (error, applied)

    @property
    def operations(self) -> int:
        """How many were asked for so far."""
        return self._faults.count

    async def meta(self) -> StoreMeta:
        return StoreMeta(schema_version=0, server_id=self._server_id, boot=1)

    def healthy(self) -> bool:
        return True

    def problem(self) -> str:
        return ""

    async def close(self) -> None:
        self._faults.closed = True
