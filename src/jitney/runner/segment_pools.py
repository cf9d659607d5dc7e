"""A client's access to the segments of every scope (see segments)."""

from __future__ import annotations

from jitney.runner.segments import SegmentGone, SegmentPool, is_name


class SegmentPools:
    """Values are read by their names, and written to one scope. Safe to use from several threads."""

    def __init__(self, folder: str, *, keep_locked: bool = False) -> None:
        self._folder = folder
        self._keep_locked = keep_locked
        self._pools: dict[str, SegmentPool] = {}

    def of(self, scope: str) -> SegmentPool:
        """The pool of a scope."""
        pool = self._pools.get(scope)
        if pool is None:
            pool = self._pools.setdefault(scope, SegmentPool(self._folder, scope, keep_locked=self._keep_locked))
        return pool

    def attach(self, name: str, size: int) -> memoryview:
        """See SegmentPool."""
        return self._named(name).attach(name, size)

    def pin(self, name: str) -> bool:
        """See SegmentPool."""
        return is_name(name) and self._named(name).pin(name)

    def unpin(self, name: str) -> None:
        """See SegmentPool."""
        if is_name(name):
            self._named(name).unpin(name)

    def release(self, name: str) -> None:
        """See SegmentPool."""
        if is_name(name):
            self._named(name).release(name)

    def close(self) -> None:
        """See SegmentPool."""
        for pool in self._pools.values():
            pool.close()

    def _named(self, name: str) -> SegmentPool:
        if not is_name(name):
            raise SegmentGone(f"{name[:80]!r} is not the name of a segment")
        return self.of(name.partition("/")[0])
