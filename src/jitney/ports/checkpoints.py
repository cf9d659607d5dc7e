"""What writes a process down and makes it again: where forking cannot serve, as it has threads.

The contract of a `Checkpointer`, for every driver:

 1. `capabilities` says whether it can be done here; if not, why, and what would change that. Where it cannot, `dump`
    and `restore` raise `CheckpointFailed` with the same reason.
 2. `dump` writes a process that is stopped (SIGSTOP), with its threads and descendants, into a folder that it makes,
    whose parent is there. One that runs is refused. The process is stopped afterwards, and goes on with SIGCONT as if
    nothing had been.
 3. A dump that fails raises `CheckpointFailed` with the reason in words, leaves no folder, and leaves the process as
    sentence 2 says; where the driver cannot know that, `is_process_lost` is set, and the process is to be ended.
 4. `restore` gives a process that is stopped and has the memory and the threads that were dumped, as often as it is
    asked and also while the first one lives. What it does after SIGCONT changes neither the folder nor any other.
 5. `Restored.pid` names it on this machine. What it takes for its own process id is what it was.
 6. `watch` tells of its end once, with the exit code or the signal, when nothing of it is left, also none of its
    descendants. `kill` ends all of it; of one that has ended, nothing.
 7. A restore that fails raises `CheckpointFailed` and leaves no process. So does one that is cancelled.
 8. `remove` removes what `dump` wrote, also what is damaged, and is idempotent. Processes that were restored go on.

That of `AcceleratorHooks`, for the memory of devices, which a dump does not see:

 1. `before_checkpoint(pid)` moves what the process has on devices into its own memory, while it runs, and says whether
    there was anything. Raises `CheckpointFailed` where it cannot: then the process has its devices as before.
 2. `after_restore(pid)` puts it back, in the process itself or in one that was restored, while it runs. Called only
    where the first said that there was something. Raises `CheckpointFailed`: then the process is of no use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from jitney.values.containers import Exit


class CheckpointCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What can be done here; for `jitney doctor`, and for the log of a container that is not restored."""

    name: str
    possible: bool
    why: str = ""  # it is not
    remedy: str = ""
    version: str = ""  # of what does it: checkpoints of another are not restored


class CheckpointFailed(Exception):
    """No checkpoint, or no process from it: the message says why."""

    def __init__(self, message: str, *, is_process_lost: bool = False) -> None:
        super().__init__(message)
        self.is_process_lost = is_process_lost


class Restored(Protocol):
    """A process that was made from a checkpoint."""

    pid: int

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """Call `on_ended` once, on the loop, when it has ended and was collected."""
        ...

    def kill(self) -> None:
        """End it at once; nothing happens if it has ended."""
        ...

    def attendants(self) -> tuple[int, ...]:
        """Processes of the driver's own that are there as long as it is: children of this process."""
        ...


class Checkpointer(Protocol):
    """Writes processes down; see the contract above."""

    def capabilities(self) -> CheckpointCapabilities:
        """What can be done here. The first time this may take some hundred milliseconds."""
        ...

    async def dump(self, pid: int, folder: Path) -> None:
        """Write a stopped process into a folder.

        Raises:
            CheckpointFailed: it cannot be.
        """
        ...

    async def restore(self, folder: Path) -> Restored:
        """Make a stopped process.

        Raises:
            CheckpointFailed: it cannot be.
        """
        ...

    async def remove(self, folder: Path) -> None:
        """Remove a checkpoint."""
        ...


class AcceleratorHooks(Protocol):
    """Moves the state of devices; see the contract above."""

    async def before_checkpoint(self, pid: int) -> bool:
        """Into the memory of the process.

        Raises:
            CheckpointFailed: it cannot be.
        """
        ...

    async def after_restore(self, pid: int) -> None:
        """Back to the devices.

        Raises:
            CheckpointFailed: it cannot be.
        """
        ...
