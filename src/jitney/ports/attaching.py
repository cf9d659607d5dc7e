"""Mounts of this machine in containers: what a runtime can do whose containers have mounts of their own. The contract:

1. A launch with `attached` starts with each of them at its path, read-only where it says so; where one cannot be put
   there, the start fails (StartFailed). Their descriptors stay with whoever made them.
2. When the container has ended, nothing of it holds them.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable


@runtime_checkable
class Attaching(Protocol):
    """A runtime that does."""

    @property
    def attaches(self) -> Literal[True]:
        """It says so."""
