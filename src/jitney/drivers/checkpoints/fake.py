"""Checkpoints for tests: of processes that a test makes again, and hooks that write down when they were called.

What a process is, the `Machine` of the test knows. It may be one of simulated processes (`FakeMachine`, which keeps the
whole contract), or one that starts real processes which come to the same place again by themselves.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jitney.ports.checkpoints import CheckpointCapabilities, CheckpointFailed, Restored
from jitney.values.containers import Exit

MEMORY = "memory"


class Machine(Protocol):
    """Where processes are."""

    def is_stopped(self, pid: int) -> bool:
        """Whether it waits for SIGCONT."""
        ...

    def memory(self, pid: int) -> bytes:
        """All that is needed to make it again."""
        ...

    async def make(self, memory: bytes) -> Restored:
        """Do so: a stopped process."""
        ...


class FakeProcess:
    """A simulated process: what it has in memory, and whether it is stopped."""

    def __init__(self, pid: int, memory: bytes, own_pid: int | None = None) -> None:
        self.pid = pid
        self.own_pid = pid if own_pid is None else own_pid  # as it would say itself
        self.memory = memory
        self.is_stopped = True
        self.end: Exit | None = None
        self._on_ended: list[Callable[[Exit], None]] = []

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """See `ports.checkpoints.Restored`."""
        self._on_ended.append(on_ended)

    def kill(self) -> None:
        """See `ports.checkpoints.Restored`."""
        self.finish(Exit(signal=signal.SIGKILL))

    def attendants(self) -> tuple[int, ...]:
        """See `ports.checkpoints.Restored`."""
        return ()

    def finish(self, how: Exit) -> None:
        """It ends."""
        if self.end is None:
            self.end = how
            for on_ended in self._on_ended:
                on_ended(how)


class FakeMachine:
    """Simulated processes."""

    def __init__(self) -> None:
        self.processes: dict[int, FakeProcess] = {}

    def start(self, memory: bytes, own_pid: int | None = None) -> FakeProcess:
        """A process that has stopped."""
        pid = 1_000 + len(self.processes)
        self.processes[pid] = FakeProcess(pid, memory, own_pid)
        return self.processes[pid]

    def is_stopped(self, pid: int) -> bool:
        """See Machine."""
        process = self.processes.get(pid)
        return process is not None and process.is_stopped and process.end is None

    def memory(self, pid: int) -> bytes:
        """See Machine."""
        process = self.processes[pid]
        return b"%d\n%s" % (process.own_pid, process.memory)

    async def make(self, memory: bytes) -> FakeProcess:
        """See Machine."""
        own_pid, _, rest = memory.partition(b"\n")
        return self.start(rest, int(own_pid))


class FakeCheckpointer:
    """See `ports.checkpoints.Checkpointer`.

    Args:
        machine: where processes are.
        refuses: why nothing can be done here, while it is set.
        fails: what the next dumps and restores fail with, first to last.
    """

    def __init__(self, machine: Machine, *, refuses: str = "", fails: list[CheckpointFailed] | None = None) -> None:
        self.machine = machine
        self.refuses = refuses
        self.fails = fails if fails is not None else []
        self.did: list[str] = []  # 'dump', 'restore', ...

    def capabilities(self) -> CheckpointCapabilities:
        """See the port."""
        return CheckpointCapabilities(name="fake", possible=not self.refuses, why=self.refuses, version="1")

    async def dump(self, pid: int, folder: Path) -> None:
        """See the port."""
        self._begin("dump")
        if not self.machine.is_stopped(pid):
            raise CheckpointFailed(f"the process {pid} is not stopped")
        try:
            os.mkdir(folder)
        except OSError as error:
            raise CheckpointFailed(f"its folder cannot be made: {error.strerror}") from error
        (folder / MEMORY).write_bytes(self.machine.memory(pid))

    async def restore(self, folder: Path) -> Restored:
        """See the port."""
        self._begin("restore")
        try:
            memory = (folder / MEMORY).read_bytes()
        except OSError as error:
            raise CheckpointFailed(f"no process can be made from it: {error.strerror}") from error
        return await self.machine.make(memory)

    async def remove(self, folder: Path) -> None:
        """See the port."""
        self.did.append("remove")
        shutil.rmtree(folder, ignore_errors=True)

    def _begin(self, what: str) -> None:
        self.did.append(what)
        if self.refuses:
            raise CheckpointFailed(self.refuses)
        if self.fails:
            raise self.fails.pop(0)


class FakeHooks:
    """See `ports.checkpoints.AcceleratorHooks`.

    Args:
        has_state: whether processes have anything on a device.
        fails: what the next calls fail with; None for one that works.
        did: where each call is written down.
    """

    def __init__(
        self,
        *,
        has_state: bool = True,
        fails: list[CheckpointFailed | None] | None = None,
        did: list[str] | None = None,
    ) -> None:
        self.has_state = has_state
        self.fails = fails if fails is not None else []
        self.did = did if did is not None else []

    async def before_checkpoint(self, pid: int) -> bool:
        """See the port."""
        self._begin("before")
        return self.has_state

    async def after_restore(self, pid: int) -> None:
        """See the port."""
        self._begin("after")

    def _begin(self, what: str) -> None:
        self.did.append(what)
        error = self.fails.pop(0) if self.fails else None
        if error is not None:
            raise error
