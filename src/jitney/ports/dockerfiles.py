"""What builds Dockerfiles as a whole, where they have what only an engine can do: stages, mounts, other users.

The contract, for every driver:

 1. `why_not` says what is in the way, and what would help; two empty texts: nothing is. It blocks for no more than a
    look at a socket.
 2. `build` leaves what it made at `archive`, in the form of `docker save`: one image. The file is there as a whole when
    it returns; when it raises, or is cancelled, nothing of it counts.
 3. Lines that the steps print go to `on_line`, on the event loop.
 4. A failing step raises `ImageBuildError` with its last lines; a full disk is `StorageFullError`. A Dockerfile that
    the driver cannot do justice to (secrets, for most) is `UnsupportedError`, before anything is started. So is
    `why_not`.
 5. Cancelled, it has the build ended. However it ends, the image does not stay with the engine: what a killed run left
    there is removed by the next build of the same owner.
 6. `memory_mib` and `cpu_milli` bound each step, where the driver can.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from jitney.values.images import Dockerfile


class DockerfileOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One build. `context` is the folder that COPY and ADD see; None: an empty one. `force`: nothing cached is used."""

    base: Dockerfile
    context: Path | None = None
    force: bool = False
    memory_mib: int | None = None
    cpu_milli: int | None = None


class DockerfileBuilder(Protocol):
    """Builds Dockerfiles; see the contract above."""

    def why_not(self) -> tuple[str, str]:
        """(why it cannot build now, what would help)."""
        ...

    async def build(self, order: DockerfileOrder, archive: Path, on_line: Callable[[str], None]) -> None:
        """Make the image, and put it at `archive`.

        Raises:
            ImageBuildError: a step failed, or the engine did.
            StorageFullError: the disk is full.
            UnsupportedError: it cannot be built here.
        """
        ...
