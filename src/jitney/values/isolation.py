"""Tiers of isolation, from none to a kernel of its own."""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    """How strong the wall around a container is. A policy names the lowest that is allowed."""

    PROCESS = "process"  # a plain process of the worker's user: no wall
    OCI = "oci"  # an engine's container (Docker, Podman) with the engine's own defaults
    NAMESPACES = "namespaces"  # user, mount, pid, ipc, uts, net namespaces; no capabilities; seccomp; masks
    GVISOR = "gvisor"  # the same, and system calls are answered by a kernel in user space

    @property
    def strength(self) -> int:
        """Larger is stronger."""
        return _STRENGTH[self]

    def stricter(self, other: Isolation | None) -> Isolation:
        """The stronger of the two; None asks for nothing."""
        return other if other is not None and other.strength > self.strength else self

    def allows(self, tier: Isolation) -> bool:
        """Whether a container may run at `tier` when this is the lowest that is allowed."""
        return tier.strength >= self.strength


_STRENGTH = {Isolation.PROCESS: 0, Isolation.OCI: 1, Isolation.NAMESPACES: 2, Isolation.GVISOR: 3}
