"""Versions of volumes, each a whole dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from jitney.core import volumes
from jitney.core.volumes import Row
from jitney.drivers.store.memory.faults import Faults
from jitney.errors import NotFoundError
from jitney.ports.contents import Block
from jitney.ports.volumes import LIST_MAX, Commit, Diff, Restore
from jitney.values.volumes import (
    BLOCK_BYTES,
    CONFLICTS_MAX,
    WORKSPACE,
    Committed,
    Content,
    Entry,
    Head,
    Kind,
    Retention,
    Version,
)

T = TypeVar("T")


class _Volume:
    """A volume: its versions by number, each with all of its entries."""

    def __init__(self, workspace: str = WORKSPACE) -> None:
        self.workspace = workspace
        self.versions: list[tuple[Version, dict[str, Entry]]] = [(Version(version=0, parent=0, at_ms=0), {})]
        self.pruned: set[int] = set()  # of those: as if they were not there
        self.answers: dict[str, tuple[int, Committed]] = {}

    @property
    def newest(self) -> int:
        return len(self.versions) - 1

    def is_there(self, version: int) -> bool:
        """Whether there is such a version."""
        return 0 <= version <= self.newest and version not in self.pruned

    def answered(self, key: str) -> Committed | None:
        """What a commit with this key gave."""
        version, answer = self.answers.get(key, (-1, None))
        return answer if self.is_there(version) else None

    def entries(self, version: int) -> dict[str, Entry]:
        """All of a version."""
        return self.versions[min(version, self.newest)][1]

    def add(self, entries: dict[str, Entry], request: Commit | Restore, conflicts: list[str]) -> Committed:
        """One version more, if it differs from the newest."""
        before = self.entries(self.newest)
        if entries == before:
            return Committed(version=self.newest, changed=False)
        puts = sum(before.get(path) != entry for path, entry in entries.items())
        removes = len(set(before) - set(entries))
        version = Version(
            version=self.newest + 1,
            parent=self.newest,
            at_ms=request.at_ms,
            message=request.message,
            puts=puts,
            removes=removes,
            files=sum(entry.kind is Kind.FILE for entry in entries.values()),
            size=sum(entry.size for entry in entries.values()),
            restored=request.version if isinstance(request, Restore) else None,
        )
        self.versions.append((version, entries))
        answer = Committed(
            version=version.version,
            puts=puts,
            removes=removes,
            conflicts=tuple(conflicts[:CONFLICTS_MAX]),
            conflict_count=len(conflicts),
        )
        if request.key:
            self.answers[request.key] = version.version, answer
        return answer

    # What core.volumes.merge asks.

    def newest_row(self, path: str) -> Row | None:
        """The last life of a path, found by walking back."""
        until, last = None, self.newest
        while last > 0 and path not in self.entries(last):
            until, last = last, last - 1
        entry = self.entries(last).get(path)
        if entry is None:
            return None
        since = last
        while since > 1 and self.entries(since - 1).get(path) == entry:
            since -= 1
        if until is not None and self.pruned.issuperset(range(since, until)):
            return None  # no version that is there had it
        return Row(entry, since, until)


class _View:
    def __init__(self, volume: _Volume) -> None:
        self._volume = volume

    def newest(self, path: str) -> Row | None:
        return self._volume.newest_row(path)

    def below(self, folder: str) -> Iterable[Row]:
        paths = [path for path in self._volume.entries(self._volume.newest) if volumes.is_below(path, folder)]
        return [row for path in paths if (row := self._volume.newest_row(path)) is not None]


class MemoryVolumes:
    """`ports.volumes.VolumeStore`."""

    def __init__(self, faults: Faults) -> None:
        self._step = faults.step
        self._volumes: dict[str, _Volume] = {}
        self._deleted: list[_Volume] = []
        self._contents: dict[tuple[str, str], Content] = {}
        self._blocks: dict[tuple[str, bytes], Block] = {}

        self._retention: dict[str, Retention] = {}

    def _of(self, volume_id: str) -> _Volume:
        return self._volumes.get(volume_id) or _Volume()

    def _check(self, volume_id: str, version: int) -> _Volume:
        volume = self._of(volume_id)
        if not 0 <= version <= volume.newest:
            raise NotFoundError(f"volume {volume_id[:64]} has no version {version}")
        return volume

    async def commit(self, commit: Commit) -> Committed:
        def operation() -> Committed:
            known = self._of(commit.volume_id).answered(commit.key)
            if known is not None:
                return known
            volume = self._check(commit.volume_id, commit.base)
            volume.workspace = volume.workspace if volume.newest else commit.workspace
            volumes.check_changes(commit.puts, commit.removes, commit.changes_max)
            delta = volumes.merge(_View(volume), commit.base, commit.puts, commit.removes, new_only=commit.new_only)
            entries = {p: e for p, e in volume.entries(volume.newest).items() if p not in delta.ends}
            entries.update({path: replace(entry, blocks=b"") for path, entry in delta.begins.items()})
            answer = volume.add(entries, commit, delta.conflicts)
            if answer.changed:
                self._volumes[commit.volume_id] = volume
                for content in commit.contents:
                    self._add_content(commit.workspace, content)
            return answer

        return await self._step(operation)

    def _add_content(self, workspace: str, content: Content) -> None:
        if (workspace, content.digest) not in self._contents:
            self._contents[workspace, content.digest] = content
            for index in range(content.size // BLOCK_BYTES):
                self._blocks.setdefault((workspace, content.block(index)), Block(content.digest, index))

    async def restore(self, restore: Restore) -> Committed:
        def operation() -> Committed:
            known = self._of(restore.volume_id).answered(restore.key)
            if known is not None:
                return known
            volume = self._check(restore.volume_id, restore.version)
            if not volume.is_there(restore.version):
                raise NotFoundError(f"version {restore.version} of volume {restore.volume_id[:64]} is gone")
            return volume.add(volume.entries(restore.version), restore, [])

        return await self._step(operation)

    async def heads(self, volume_ids: Sequence[str]) -> list[Head]:
        def head(volume_id: str) -> Head:
            version, _ = self._of(volume_id).versions[-1]
            return Head(
                volume_id=volume_id,
                version=version.version,
                files=version.files,
                size=version.size,
                updated_at_ms=version.at_ms,
            )

        return await self._step(lambda: [head(volume_id) for volume_id in volume_ids])

    async def version(self, volume_id: str, version: int) -> Version | None:
        def operation() -> Version | None:
            volume = self._of(volume_id)
            return volume.versions[version][0] if volume.is_there(version) else None

        return await self._step(operation)

    async def history(self, volume_id: str, *, before: int | None = None, limit: int = 100) -> list[Version]:
        def operation() -> list[Version]:
            volume = self._of(volume_id)
            versions = [version for version, _ in volume.versions[1:] if volume.is_there(version.version)]
            return [v for v in versions[::-1] if before is None or v.version < before][:limit]

        return await self._step(operation)

    async def entry(self, volume_id: str, version: int, path: str) -> Entry | None:
        return await self._step(lambda: self._of(volume_id).entries(version).get(path))

    async def entries(
        self,
        volume_id: str,
        version: int,
        folder: str = "",
        *,
        recursive: bool = False,
        after: str = "",
        limit: int = 1_000,
    ) -> list[Entry]:
        def key(path: str) -> tuple[bool, str, str]:
            above, name = volumes.split(path)
            return above != folder, above, name

        def operation() -> list[Entry]:
            entries = self._of(volume_id).entries(version).values()
            inside = [e for e in entries if volumes.is_below(e.path, folder)]
            listed = [e for e in inside if recursive or volumes.split(e.path)[0] == folder]
            behind = [e for e in listed if not after or key(e.path) > key(after)]
            return sorted(behind, key=lambda e: key(e.path))[:limit]

        return await self._step(operation)

    async def diff(self, volume_id: str, old: int, new: int, *, after: str = "", limit: int = LIST_MAX) -> Diff:
        def operation() -> Diff:
            before, later = self._of(volume_id).entries(old), self._of(volume_id).entries(new)
            changed = [path for path in {**before, **later} if before.get(path) != later.get(path)]
            behind = [path for path in changed if not after or volumes.split(path) > volumes.split(after)]
            paths = sorted(behind, key=volumes.split)
            page = paths[:limit]
            puts, removes = [later[p] for p in page if p in later], [p for p in page if p not in later]
            return Diff(puts, removes, page[-1] if len(paths) > limit else "")

        return await self._step(operation)

    async def prune(self, volume_id: str, versions: Sequence[int]) -> int:
        def operation() -> int:
            volume = self._of(volume_id)
            gone = {version for version in versions if volume.is_there(version)} - {0, volume.newest}
            volume.pruned |= gone
            return len(gone)

        return await self._step(operation)

    async def retention(self, volume_id: str) -> Retention | None:
        return await self._step(lambda: self._retention.get(volume_id))

    async def keep(self, volume_id: str, retention: Retention | None) -> None:
        def operation() -> None:
            self._retention.pop(volume_id, None)
            if retention is not None:
                self._retention[volume_id] = retention

        await self._step(operation)

    async def delete(self, volume_id: str) -> bool:
        def operation() -> bool:
            self._retention.pop(volume_id, None)
            volume = self._volumes.pop(volume_id, None)
            if volume is not None:
                self._deleted.append(volume)
            return volume is not None

        return await self._step(operation)

    async def sweep(self, *, limit: int = 10_000) -> int:
        def operation() -> int:
            rows = sum(len(_lives(volume)) for volume in self._deleted)
            self._deleted.clear()
            return rows

        return await self._step(operation)

    async def known(self) -> list[str]:
        return await self._step(lambda: sorted(self._volumes))

    async def contents(self, workspace: str, digests: Sequence[str]) -> list[Content]:
        return await self._step(
            lambda: [self._contents[workspace, d] for d in digests if (workspace, d) in self._contents]
        )

    async def blocks(self, workspace: str, blocks: Sequence[bytes]) -> dict[bytes, Block]:
        return await self._step(
            lambda: {b: self._blocks[workspace, b] for b in blocks if (workspace, b) in self._blocks}
        )

    def _references(self, workspace: str) -> set[str]:
        versions = [
            entries
            for volume in self._volumes.values()
            for version, entries in volume.versions
            if volume.workspace == workspace and volume.is_there(version.version)
        ]
        return {entry.digest for entries in versions for entry in entries.values()} - {""}

    async def referenced(self, workspace: str, digests: Sequence[str]) -> set[str]:
        return await self._step(lambda: self._references(workspace) & set(digests))

    async def forget_contents(self, workspace: str, digests: Sequence[str]) -> None:
        def operation() -> None:
            for digest in set(digests) - self._references(workspace):
                self._contents.pop((workspace, digest), None)
                for key in [key for key, at in self._blocks.items() if key[0] == workspace and at.digest == digest]:
                    del self._blocks[key]

        await self._step(operation)


def _lives(volume: _Volume) -> list[tuple[str, int]]:
    """(path, since) of every entry of a version that is there: what a table has as rows once it is swept."""
    found: list[tuple[str, int]] = []
    for since in range(1, volume.newest + 1):
        before, now = volume.entries(since - 1), volume.entries(since)
        for path, entry in now.items():
            if before.get(path) == entry:
                continue
            later = range(since + 1, volume.newest + 1)
            until = next((number for number in later if volume.entries(number).get(path) != entry), None)
            if until is None or not volume.pruned.issuperset(range(since, until)):
                found.append((path, since))
    return found
