"""Volumes in containers: what a runtime can do that has mounts of its own. The contract:

1. A launch with `mounts` starts with them in place; where one cannot be made, the start fails (StartFailed).
2. `remount` replaces one of them in a container that runs: afterwards it shows the given layers, and what the
   container had written is still above them. For a moment in between, its other threads and processes see an empty
   folder there.
3. MountBusy: files in it are open. Nothing has changed.
4. What a container has written stays in the folder of its `upper` (below the server folder's `uppers`) when it has
   ended, for whoever asked for the mount to look at, until `discard`.
5. Beside that folder, whoever asked keeps a file `COMMITTED`, whose time of change is when the last commit began to
   look: what has changed since is not committed, and may count as what the container uses.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jitney.ports.runtime import ContainerHandle
from jitney.values.volumes import Mounted

COMMITTED = "committed"


class MountBusy(Exception):
    """Files in what is to be replaced are open."""


class MountFailed(Exception):
    """The mount cannot be made: the message says why."""


@runtime_checkable
class Mounting(Protocol):
    """A runtime whose containers can have volumes."""

    async def remount(self, handle: ContainerHandle, mounted: Mounted) -> None:
        """Replace what a running container has at `mounted.target`.

        Raises:
            MountBusy: files in it are open.
            MountFailed: it cannot be made, or the container has ended.
        """

    async def discard(self, container_id: str = "") -> None:
        """Remove what a container that has ended has written to volumes; "": what all have, as none runs."""
