"""Trees whose files are elsewhere: before a version is laid out, its contents are brought to this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from jitney.ports.trees import Changes, Stamp, Trees
from jitney.values.volumes import Entry, Kind


class FetchingTrees:
    """See the module.

    Args:
        trees: what lays out.
        fetch: has contents, by digest, where `trees` looks for them.
        forget_half: removes what an earlier run had half fetched, and says how many.
    """

    def __init__(
        self, trees: Trees, fetch: Callable[[Sequence[str]], Awaitable[None]], forget_half: Callable[[], int]
    ) -> None:
        self._trees = trees
        self._fetch = fetch
        self._forget_half = forget_half

    def laid_out(self, volume_id: str) -> int:
        """See the port."""
        return self._trees.laid_out(volume_id)

    def layers(self, volume_id: str, version: int) -> tuple[str, ...]:
        """See the port."""
        return self._trees.layers(volume_id, version)

    def folder(self, volume_id: str) -> Path:
        """See the port."""
        return self._trees.folder(volume_id)

    async def extend(self, volume_id: str, version: int, puts: Sequence[Entry], removes: Sequence[str]) -> None:
        """See the port."""
        await self._bring(puts)
        await self._trees.extend(volume_id, version, puts, removes)

    async def restack(self, volume_id: str, version: int, entries: Sequence[Entry]) -> None:
        """See the port."""
        await self._bring(entries)
        await self._trees.restack(volume_id, version, entries)

    async def lay_out(self, volume_id: str, version: int, entries: Sequence[Entry]) -> None:
        """See the port."""
        await self._bring(entries)
        await self._trees.lay_out(volume_id, version, entries)

    async def _bring(self, entries: Sequence[Entry]) -> None:
        await self._fetch([entry.digest for entry in entries if entry.kind is Kind.FILE])

    async def changes(self, upper: Path, known: Mapping[str, Stamp]) -> Changes:
        """See the port."""
        return await self._trees.changes(upper, known)

    def open(self, upper: Path, path: str) -> int:
        """See the port."""
        return self._trees.open(upper, path)

    async def collect(self, volume_id: str, in_use: Collection[str]) -> int:
        """See the port."""
        return await self._trees.collect(volume_id, in_use)

    async def reap(self) -> int:
        """See the port."""
        return self._forget_half() + await self._trees.reap()

    async def remove(self, volume_id: str) -> None:
        """See the port."""
        await self._trees.remove(volume_id)
