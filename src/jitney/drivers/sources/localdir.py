"""Sources as folders, built beside their place and renamed into it.

Beside each tree `<id>` its manifest `<id>.json` is kept, synced. The tree itself is not synced: that would cost a
commit of the file system for each file, of every source, against a loss of power that a later look can notice. So the
first time that a process asks for a source, its files are compared with the manifest by size, and a tree that does not
fit is built anew from its contents, which are synced.

Contents are collected: those that are old, and that no manifest names. Those of a source that is being made stay, and
who begins to make one while its contents may be going waits until it is known whether they do.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from jitney.core import sources
from jitney.drivers.disk import explain
from jitney.drivers.together import all_of
from jitney.errors import NotFoundError, StorageCorruptError
from jitney.ports.blobs import BlobStore
from jitney.values import ids
from jitney.values.sources import SourceFile

PARTIAL = ".partial-"
PLACED_AT_ONCE = 16  # files of one source
COLLECT_EVERY_MS = 24 * 3_600_000  # when no source was dropped: what was put, and not made into one, is rare


class _Manifest(msgspec.Struct, frozen=True):
    """What a tree has: each file, with its size in bytes."""

    files: tuple[SourceFile, ...]
    sizes: tuple[int, ...]


class LocalSources:
    """`ports.sources.SourceStore` in a folder of the local disk; contents come from a blob store."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = folder
        self._blobs = blobs
        self._whole: set[str] = set()  # looked at, or made, by this process
        self._locks: dict[str, asyncio.Lock] = {}
        self._making: Counter[str] = Counter()  # contents of sources that are being made
        self._leaving: frozenset[str] = frozenset()  # contents that may be going
        self._left = asyncio.Event()  # of those: it is known
        self._collecting = asyncio.Lock()
        self._collected_ms = 0  # what was put before then, at the last try
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob(f"{PARTIAL}*"):  # by a server that was killed
            _remove(left)

    async def missing(self, digests: Sequence[str]) -> list[str]:
        return await self._blobs.missing(digests)

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        return await self._blobs.put(contents)

    async def create(self, files: Sequence[SourceFile]) -> str:
        tree = sources.manifest(files)
        source_id = sources.source_id(tree)
        async with self._lock(source_id):
            if not (await self._is_whole(source_id) and await asyncio.to_thread(self._renew, source_id)):
                await self._build(source_id, tree)
        return source_id

    async def path(self, source_id: str) -> Path | None:
        ids.check(source_id, ids.SOURCE)
        manifest = await asyncio.to_thread(self._read, source_id)
        if manifest is None:
            return None
        async with self._lock(source_id):
            if await self._is_whole(source_id):
                return self._folder / source_id
            try:
                await self._build(source_id, manifest.files)
            except NotFoundError:
                return None
            return self._folder / source_id

    async def sweep(self, keep: AbstractSet[str], before_ms: int) -> int:
        ours = await asyncio.to_thread(lambda: sorted(path.stem for path in self._folder.glob("so-*.json")))
        removed = 0
        for source_id in ours:
            async with self._lock(source_id):
                if source_id in keep or await asyncio.to_thread(self._made_ms, source_id) >= before_ms:
                    continue
                self._whole.discard(source_id)
                await asyncio.to_thread(self._remove, source_id)
                removed += 1
        if removed or before_ms - self._collected_ms >= COLLECT_EVERY_MS:
            async with self._collecting:
                await self._collect(before_ms)
        return removed

    async def _collect(self, before_ms: int) -> None:
        """Remove contents that were put before, and that no source has. See the module."""
        self._collected_ms = before_ms
        old = await self._blobs.old(before_ms)
        self._leaving, self._left = frozenset(old) - self._making.keys(), asyncio.Event()
        try:
            referred = await asyncio.to_thread(self._referred)
            await self._blobs.remove(sorted(self._leaving - referred))
        finally:
            self._leaving = frozenset()
            self._left.set()

    def _referred(self) -> set[str]:
        """Contents of all sources. One that cannot be read ends this: what it has would count as nobody's."""
        found: set[str] = set()
        for path in self._folder.glob("so-*.json"):
            try:
                manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
            except OSError as error:
                raise explain(error, path) from None
            except msgspec.MsgspecError:
                raise StorageCorruptError(
                    f"{path} is damaged, so it is not known which contents are used", hint="remove it"
                ) from None
            found.update(file.digest for file in manifest.files)
        return found

    @asynccontextmanager
    async def _made_of(self, digests: AbstractSet[str]) -> AsyncIterator[None]:
        """Keep contents from going."""
        while not self._leaving.isdisjoint(digests):
            await self._left.wait()
        self._making.update(digests)
        try:
            yield
        finally:
            self._making.subtract(digests)
            self._making = +self._making

    def _lock(self, source_id: str) -> asyncio.Lock:
        return self._locks.setdefault(source_id, asyncio.Lock())

    async def _is_whole(self, source_id: str) -> bool:
        if source_id not in self._whole and await asyncio.to_thread(self._fits, source_id):
            self._whole.add(source_id)
        return source_id in self._whole

    async def _build(self, source_id: str, tree: Sequence[SourceFile]) -> None:
        async with self._made_of({file.digest for file in tree}):
            await self._build_of(source_id, tree)

    async def _build_of(self, source_id: str, tree: Sequence[SourceFile]) -> None:
        lost = await self._blobs.missing([file.digest for file in tree])
        if lost:
            raise NotFoundError(f"{len(lost):,} of the contents of this source are not here", hint="send them first")
        partial = self._folder / f"{PARTIAL}{secrets.token_hex(8)}"
        try:
            folders = {os.path.dirname(file.path) for file in tree}
            await asyncio.to_thread(_make_folders, partial, folders)
            for at in range(0, len(tree), PLACED_AT_ONCE):
                await all_of(
                    [
                        self._blobs.place(file.digest, partial / file.path, executable=file.executable)
                        for file in tree[at : at + PLACED_AT_ONCE]
                    ]
                )
            await asyncio.to_thread(self._publish, source_id, tuple(tree), partial)
        except OSError as error:
            raise explain(error, self._folder) from None
        finally:
            await asyncio.to_thread(_remove, partial)
        self._whole.add(source_id)

    def _publish(self, source_id: str, tree: tuple[SourceFile, ...], partial: Path) -> None:
        """The manifest first: a tree without one would never be looked at again."""
        sizes = tuple((partial / file.path).stat().st_size for file in tree)
        manifest = partial.with_suffix(".json")
        try:
            with manifest.open("xb") as file:
                file.write(msgspec.json.encode(_Manifest(tree, sizes)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(manifest, self._manifest_path(source_id))
        finally:
            manifest.unlink(missing_ok=True)
        _remove(self._folder / source_id)  # a damaged one
        os.rename(partial, self._folder / source_id)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _renew(self, source_id: str) -> bool:
        """Make a source as new as one that is made now: whether it is there."""
        try:
            os.utime(self._manifest_path(source_id))
        except OSError:
            return False
        return True

    def _fits(self, source_id: str) -> bool:
        manifest = self._read(source_id)
        if manifest is None or not (self._folder / source_id).is_dir():
            return False
        for file, size in zip(manifest.files, manifest.sizes, strict=True):
            try:
                if os.lstat(self._folder / source_id / file.path).st_size != size:
                    return False
            except OSError:
                return False
        return True

    def _read(self, source_id: str) -> _Manifest | None:
        try:
            return msgspec.json.decode(self._manifest_path(source_id).read_bytes(), type=_Manifest)
        except (OSError, msgspec.MsgspecError):
            return None

    def _manifest_path(self, source_id: str) -> Path:
        return self._folder / f"{source_id}.json"

    def _made_ms(self, source_id: str) -> int:
        try:
            return self._manifest_path(source_id).stat().st_mtime_ns // 1_000_000
        except OSError:
            return 0

    def _remove(self, source_id: str) -> None:
        self._manifest_path(source_id).unlink(missing_ok=True)
        _remove(self._folder / source_id)


def _make_folders(root: Path, folders: set[str]) -> None:
    root.mkdir(mode=0o755)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True, mode=0o755)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
