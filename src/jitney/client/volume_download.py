"""Getting files out of a volume: block by block, several under way, each checked by its digest.

Where this process can read the server's folder, whole files are copied from there instead, inside the kernel.

What a file system cannot hold is not put on it under another name: of two names that it takes for one, the first is
kept, and the others are reported. Nothing is written through a link, and no link leads out of the volume.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from jitney.client import volume_files
from jitney.client.bulk import Bulk
from jitney.client.volume_files import Told
from jitney.client.volume_upload import Place, Progress, in_parallel
from jitney.core import volumes
from jitney.errors import AlreadyExistsError, InvalidError, StorageCorruptError
from jitney.values.volumes import BLOCK_BYTES, Entry, Kind
from jitney.wire.messages import volumes as vm
from jitney.wire.methods import VOLUME_ENTRIES, VOLUME_READ, VOLUME_STAT

T = TypeVar("T")

BLOCKS_AHEAD = 4
FILES_AT_ONCE = 8
PAGE = 1_000


class Found(NamedTuple):
    """A file of one version."""

    version: int
    entry: Entry


class Downloaded(NamedTuple):
    """What a download did. `collisions`: what was left out, with the path that the file system takes it for."""

    files: int
    size: int
    collisions: dict[str, str]


async def stat(place: Place, path: str, version: int | None) -> Found:
    """What is at a path.

    Raises:
        NotFoundError: nothing.
    """
    answer = await place.ask(VOLUME_STAT, vm.VolumeStat(volume_id=place.volume_id, path=path, version=version))
    return Found(answer.version, answer.entry)


async def stat_file(place: Place, path: str, version: int | None) -> Found:
    """A file.

    Raises:
        NotFoundError: there is nothing. InvalidError: it is no file.
    """
    found = await stat(place, volumes.check_path(path), version)
    if found.entry.kind is not Kind.FILE:
        raise InvalidError(f"{path!r} is a {found.entry.kind} in the volume, not a file")
    return found


async def entries(place: Place, path: str, version: int | None, *, recursive: bool) -> AsyncGenerator[Entry, None]:
    """What is in a folder: all of one version, page by page."""
    after = ""
    while True:
        request = vm.VolumeEntries(
            volume_id=place.volume_id, path=path, version=version, recursive=recursive, after=after, limit=PAGE
        )
        page = await place.ask(VOLUME_ENTRIES, request)
        version, after = page.version, page.after
        for entry in page.entries:
            yield entry
        if not after:
            return


async def blocks(place: Place, found: Found) -> AsyncGenerator[memoryview, None]:
    """What a file holds, block by block, each checked."""
    content, ahead = found.entry.content, deque[asyncio.Task[memoryview]]()
    async with Bulk(place.session) as bulk:
        try:
            for position in range(content.count):
                ahead.append(asyncio.create_task(_block(place, bulk, found, position, lambda data: data)))
                if len(ahead) > BLOCKS_AHEAD:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)


async def _block(place: Place, bulk: Bulk, found: Found, position: int, take: Callable[[memoryview], T]) -> T:
    """What `take` makes of a block that has been checked, on a thread."""
    request = vm.VolumeRead(
        volume_id=place.volume_id,
        path=found.entry.path,
        version=found.version,
        offset=position * BLOCK_BYTES,
        length=BLOCK_BYTES,
    )

    def checked(data: memoryview) -> T:
        if volumes.block_digest(data) != found.entry.content.block(position):
            raise StorageCorruptError(
                f"{found.entry.path!r} is damaged on the server: block {position} is not what was put",
                hint="put the file again; `jitney volume history` shows versions that may have it whole",
            )
        return take(data)

    def get() -> tuple[T] | None:
        answer = bulk.ask(VOLUME_READ, request)
        return None if answer is None else (checked(answer.data),)

    got = await bulk.run(get)
    if got is None:
        answer = await place.ask(VOLUME_READ, request)
        got = await bulk.run(lambda: (checked(answer.data),))
    return got[0]


async def write_to(place: Place, found: Found, target: IO[bytes], told: Told | None = None) -> int:
    """Write what a file holds to a file object: how many bytes."""
    written = 0
    async with aclosing(blocks(place, found)) as source:
        async for data in source:
            await asyncio.to_thread(volume_files.write_all, target, data)
            written += len(data)
            if told:
                told(len(data))
    return written


async def _write_blocks(place: Place, bulk: Bulk, found: Found, path: Path, told: Told) -> None:
    """The same to a new file, in any order."""
    content = found.entry.content

    async def get(position: int) -> None:
        await _block(place, bulk, found, position, lambda data: volume_files.write_block(path, position, data))
        told(content.length(position))

    await asyncio.to_thread(volume_files.make, path, content.size)
    await in_parallel((get(position) for position in range(content.count)), BLOCKS_AHEAD)


# ------------------------------------------------------------------------------------------------ to a folder


async def download(place: Place, path: str, version: int | None, local: Path, *, force: bool) -> Downloaded:
    """Put a file, or a folder with all that is in it, at `local`.

    Raises:
        NotFoundError: the volume has nothing there.
        AlreadyExistsError: a file is there, and not `force`.
    """
    top = await stat(place, path, version) if path else None
    if top is not None and top.entry.kind is not Kind.DIR:
        progress = Progress(top.entry.name, top.entry.size)
        async with Bulk(place.session) as bulk:
            await _get(place, bulk, top, local, force, progress)
        progress.end()
        return Downloaded(1, top.entry.size, {})
    found = [entry async for entry in entries(place, path, top.version if top else version, recursive=True)]
    at = top.version if top else version
    await asyncio.to_thread(_make_folder, local)
    folds_case, folds_unicode = await asyncio.to_thread(folds, local)
    collisions = volumes.collisions([entry.path for entry in found], folds_case=folds_case, folds_unicode=folds_unicode)
    wanted = [entry for entry in found if entry.path not in collisions]
    files = [entry for entry in wanted if entry.kind is Kind.FILE]
    size = sum(entry.size for entry in files)
    progress = Progress(f"{len(files):,} files", size)

    def target(entry: Entry) -> Path:
        return local / (entry.path[len(path) + 1 :] if path else entry.path)

    for entry in wanted:
        if entry.kind is Kind.DIR:
            await asyncio.to_thread(_make_folder, target(entry))
    if at is None and found:
        at = (await stat(place, found[0].path, None)).version
    async with Bulk(place.session) as bulk:
        work = (
            _get(place, bulk, Found(at or 0, entry), target(entry), force, progress)
            for entry in wanted
            if entry.kind is not Kind.DIR
        )
        await in_parallel(work, FILES_AT_ONCE)
    progress.end()
    return Downloaded(len(files), size, collisions)


async def _get(place: Place, bulk: Bulk, found: Found, target: Path, force: bool, progress: Progress) -> None:
    """One file or link, under a name of its own until it is whole."""
    entry = found.entry
    await asyncio.to_thread(_check_free, target, force)
    partial = target.with_name(f".{volume_files.new_name()}.partial")
    try:
        if entry.kind is Kind.SYMLINK:
            await asyncio.to_thread(os.symlink, entry.target, partial)
        else:
            source = place.incoming.parent / "files" / entry.digest[:2] / entry.digest if place.incoming else None
            is_copied = source is not None and await asyncio.to_thread(_copy, source, partial, entry, progress)
            if not is_copied:
                if entry.size and not entry.blocks:
                    found = await stat_file(place, entry.path, found.version)
                await _write_blocks(place, bulk, found, partial, progress.more)
            await asyncio.to_thread(_dress, partial, entry)
        await asyncio.to_thread(os.replace, partial, target)
    except OSError as error:
        raise volume_files.no_room(target, error) from None
    finally:
        await asyncio.to_thread(partial.unlink, missing_ok=True)


def _copy(source: Path, target: Path, entry: Entry, progress: Progress) -> bool:
    """Copy a content from the server's folder: whether it is there, whole. What shares it (see `clone`) is not read,
    and so not checked."""
    try:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(reading).st_size != entry.size:
            return False
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if volume_files.clone(reading, writing):
                progress.more(entry.size)
                return True
            is_whole = volume_files.copy_checked(reading, writing, entry.size, progress.more).digest == entry.digest
        finally:
            os.close(writing)
        if not is_whole:
            target.unlink()  # by the link it is found out which block it is
        return is_whole
    finally:
        os.close(reading)


def _dress(path: Path, entry: Entry) -> None:
    path.chmod(entry.mode)
    if entry.mtime_ns:
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _check_free(target: Path, force: bool) -> None:
    if target.is_symlink() or target.exists():
        if target.is_dir() and not target.is_symlink():
            raise AlreadyExistsError(f"{target} is a folder", hint="give another place")
        if not force:
            raise AlreadyExistsError(f"{target} is there already", hint="--force (or force=True) replaces it")


def _make_folder(path: Path) -> None:
    """A real folder: what is below it must not land elsewhere.

    Raises:
        InvalidError: something else is there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidError(f"{path} is no folder", hint="remove it, or give another place") from None
    except OSError as error:
        raise volume_files.no_room(path, error) from None
    if path.is_symlink():
        raise InvalidError(f"{path} is a link, and nothing is written through one", hint="give another place")


def folds(folder: Path) -> tuple[bool, bool]:
    """(case, unicode): whether the file system of a folder takes names that differ in it only for one."""
    name = f".{volume_files.new_name()}-\u00e9"
    probe = folder / name
    try:
        probe.touch()
        return (folder / name.upper()).exists(), (folder / unicodedata.normalize("NFD", name)).exists()
    except OSError:
        return False, False
    finally:
        probe.unlink(missing_ok=True)
