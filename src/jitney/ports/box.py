"""Runs one command behind a wall over a root file system: steps of image builds, and nothing that stays.

The contract, for every driver:

 1. `run` gives the exit code (negative: the signal that ended it) when the command and everything that it started
    has ended: nothing outlives it. Output goes line by line to `on_line`, on the event loop.
 2. What the command writes to the root file system is in the folder `upper` afterwards, in the form that an overlay
    file system takes as a layer (whiteouts included), and nowhere else. Without `upper` it is thrown away.
 3. The command sees the root file system, `binds`, and a fresh /proc, /dev, /sys, /tmp; nothing else of the machine.
    `layers` are folders, lowest first; none: the host's file system without what is private (see the driver).
    It is root inside, with the capabilities that package managers need and no more; outside it is nobody.
 4. Cancelled, or over `timeout_ms` (`TimeoutError`), it ends the command with every process before it returns.
 5. `BoxFailed` says that the wall could not be made; nothing was run.
 6. `adopt` makes an empty folder for a layer, owned so that `run` can fill it; `discard` removes one, whoever owns
    what is in it. Who reads what is in there reads what a stranger wrote: links are not followed, and only plain files
    are opened.
 7. `reap` removes what earlier runs left in the driver's own folder: call it once, before anything else.
 8. A command that failed, where the limit of memory has ended it or something that it started, is `OverMemory`.
 9. A volume is seen at its target, which is made where it is missing: its `layers`, lowest first, as `ports.trees` has
    them, and over them what is in `upper`, where everything that the command writes there is afterwards, and nowhere
    else: in no layer, and not in the spec's `upper`, but for the empty folder that it was mounted on. `upper` is a
    folder that was adopted, and may have what earlier commands wrote. Without one the volume is read-only. Of a
    `sub_path` only that folder is seen; it is made where that is possible, and never a link. What was mounted ends with
    the command. Without root file systems a volume is BoxFailed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """A host path that is seen inside."""

    source: str
    target: str
    writable: bool = False


class BoxVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume that is seen inside. Folders of the host, absolute."""

    target: str
    layers: tuple[str, ...]
    upper: str = ""
    sub_path: str = ""


class BoxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One command and its surroundings. Paths of the host are absolute."""

    argv: tuple[str, ...]
    layers: tuple[str, ...] = ()
    upper: str = ""
    binds: tuple[Bind, ...] = ()
    volumes: tuple[BoxVolume, ...] = ()
    env: dict[str, str] = {}
    cwd: str = "/"
    network: NetworkPolicy = NetworkPolicy()
    cpu_milli: int | None = None
    memory_mib: int | None = None
    pids: int | None = 4_096
    timeout_ms: int = 3_600_000


class BoxCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What boxes can do here."""

    isolation: Isolation
    root_filesystem: bool  # `layers`, `upper` and `volumes` work; otherwise commands run on the host as they are
    host_layer_writable: bool  # an `upper` over the host's own file system works (apt on the host base)
    many_users: bool  # files inside may belong to other users than root; otherwise chown is a lie that succeeds
    network: bool
    why: str = ""
    remedy: str = ""
    no_network: str = ""  # why there is none, and what would help


class BoxFailed(Exception):
    """The wall cannot be made: the message says why."""


class OverMemory(Exception):
    """The command failed, and the limit of memory had ended a process of it. `code`: as `run` would have given it."""

    def __init__(self, code: int, limit_mib: int) -> None:
        super().__init__(f"it needed more than {limit_mib:,} MiB of memory")
        self.code = code
        self.limit_mib = limit_mib


class Box(Protocol):
    """Runs commands behind a wall; see the contract above."""

    def capabilities(self) -> BoxCapabilities:
        """What holds here."""
        ...

    async def run(self, spec: BoxSpec, on_line: Callable[[str], None]) -> int:
        """Run it; the exit code.

        Raises:
            BoxFailed: the wall cannot be made.
            OverMemory: it failed for want of memory.
            TimeoutError: it took too long.
        """
        ...

    def adopt(self, folder: str) -> None:
        """Make an empty folder that `run` can take as `upper`."""
        ...

    async def discard(self, folder: str) -> None:
        """Remove a folder and all in it."""
        ...

    async def reap(self) -> int:
        """Remove what earlier runs left; the number of such leftovers."""
        ...
