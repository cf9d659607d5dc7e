"""No limits: for machines where nothing can bound a group of processes. It says why, and what would change that."""

from __future__ import annotations

from jitney.ports.limits import Bounds, LimitCapabilities
from jitney.values.containers import Usage


class NoGroup:
    """A group that nobody enters."""

    @property
    def join_fds(self) -> tuple[int, ...]:
        """See the port: entering is not needed."""
        return ()

    def close_fds(self) -> None:
        """See the port."""

    def raise_memory(self, memory_mib: int) -> None:
        """See the port: nothing is bounded."""

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """See the port: nothing is bounded."""

    def usage(self) -> Usage:
        """See the port: nothing is known."""
        return Usage()

    def sample(self, now_ns: int) -> Usage:
        """See the port: nothing is known."""
        return Usage()

    def oom_kills(self) -> int:
        """See the port."""
        return 0

    def kill(self) -> None:
        """See the port: nobody is inside."""

    def freeze(self) -> None:
        """See the port: nobody is inside."""

    def thaw(self) -> None:
        """See the port: nobody is inside."""

    async def remove(self) -> None:
        """See the port."""


class NoLimiter:
    """See `ports.limits.Limiter`. `why` and `remedy` are those of whatever could not be used."""

    def __init__(self, *, why: str, remedy: str = "") -> None:
        self._why = why
        self._remedy = remedy

    def capabilities(self) -> LimitCapabilities:
        """See the port."""
        return LimitCapabilities(
            name="none",
            cpu=False,
            memory=False,
            pids=False,
            freeze=False,
            accounting=False,
            why=self._why,
            remedy=self._remedy,
        )

    async def reap(self) -> int:
        """See the port: nothing is ever left."""
        return 0

    def make(self, name: str, bounds: Bounds) -> NoGroup:
        """See the port."""
        return NoGroup()

    async def close(self) -> None:
        """See the port."""
