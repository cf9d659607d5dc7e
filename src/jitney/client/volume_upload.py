"""Putting files into a volume: what is not there yet is sent, then all of it is committed at once.

Small files are read and hashed on threads and go in batches, several under way. Of a large one the server is asked
which blocks it lacks, and gets those; where this process can write to the server's folder, it copies the file there
instead, and the server makes a content of it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from msgspec.structs import replace

from jitney.client import output, volume_files
from jitney.client.bulk import Bulk
from jitney.client.portal import PORTAL
from jitney.client.volume_files import Wanted
from jitney.core import volumes
from jitney.errors import AlreadyExistsError, InvalidError, NotFoundError
from jitney.values.volumes import BLOCK_BYTES, CHANGES_MAX, Committed, Content, Entry, Kind
from jitney.wire.messages import volumes as vm
from jitney.wire.methods import (
    VOLUME_ADOPT,
    VOLUME_COMMIT,
    VOLUME_MISSING,
    VOLUME_PUT_BLOCK,
    VOLUME_STAT,
)

if TYPE_CHECKING:
    from jitney.client.session import Session

T = TypeVar("T")

BATCH_BYTES = 4 * 1024 * 1024
BATCH_FILES = 1_000
SMALL_BYTES = BLOCK_BYTES  # a file of one block goes whole
PLACED_BYTES_MIN = 1024 * 1024  # that are copied into the server's folder rather than sent
BATCHES_AT_ONCE = 4
BLOCKS_AT_ONCE = 6
LARGE_AT_ONCE = 2
LOOKED_AT_MAX = 200  # paths that are looked at before anything is sent
NOTHING = memoryview(b"")


class Place(NamedTuple):
    """A volume at its server. `incoming`: where files can be placed, if they can."""

    session: Session
    volume_id: str
    incoming: Path | None

    async def ask(self, method: Any, message: Any) -> Any:
        """The server's answer."""
        return await self.session.request(method, message)


class Progress:
    """How far a transfer is, told to whoever shows it. From any thread. It is not over before `end`."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0

    def more(self, count: int) -> None:
        """So many bytes are done."""
        self._done += count
        if self._total:
            output.current().transfer(self._name, min(self._done, self._total - 1), self._total)

    def end(self) -> None:
        """It is over, whatever it came to."""
        output.current().transfer(self._name, self._total, self._total)


class Upload:
    """One upload: everything is known when it begins."""

    def __init__(self, place: Place, wanted: Iterable[Wanted], *, force: bool, message: str = "") -> None:
        self._place = place
        self._wanted = list({one.entry.path: one for one in wanted}.values())
        self._force = force
        self._message = message
        total = sum(one.size for one in self._wanted)
        name = self._wanted[0].entry.path if len(self._wanted) == 1 else f"{len(self._wanted):,} files"
        self._progress = Progress(name, total)

    async def run(self) -> list[Committed]:
        """Send and commit: one commit, unless there are more changes than one takes."""
        if not self._force:
            await self._look_for_files_that_are_there()
        try:
            try:
                return await self._commit(await self._send())
            except NotFoundError:  # a content went between sending and committing: then it is to be sent again
                return await self._commit(await self._send())
        finally:
            self._progress.end()

    async def _look_for_files_that_are_there(self) -> None:
        async def look(path: str) -> None:
            try:
                request = vm.VolumeStat(volume_id=self._place.volume_id, path=path)
                found = await self._place.ask(VOLUME_STAT, request)
            except NotFoundError:
                return
            if found.entry.kind is not Kind.DIR:
                raise AlreadyExistsError(f"{path!r} is in the volume already", hint="force=True replaces it")

        files = [one.entry.path for one in self._wanted if one.entry.kind is not Kind.DIR]
        await in_parallel((look(path) for path in files[:LOOKED_AT_MAX]), BATCHES_AT_ONCE)

    async def _commit(self, entries: list[Entry]) -> list[Committed]:
        done = []
        for start in range(0, len(entries), CHANGES_MAX):
            commit = vm.VolumeCommit(
                volume_id=self._place.volume_id,
                puts=tuple(entries[start : start + CHANGES_MAX]),
                message=self._message,
                key=volume_files.new_name(),
                new_only=not self._force,
            )
            done.append(await self._place.ask(VOLUME_COMMIT, commit))
        return done

    # ------------------------------------------------------------------------------------------- sending

    async def _send(self) -> list[Entry]:
        """All entries, with their contents, when those are at the server."""
        small_max = PLACED_BYTES_MIN if self._place.incoming else SMALL_BYTES
        small = [one for one in self._wanted if one.source is not None and one.size <= small_max]
        large = [one for one in self._wanted if one.source is not None and one.size > small_max]
        rest = [one.entry for one in self._wanted if one.source is None]
        batches = in_parallel((self._send_batch(batch) for batch in _batches(small)), BATCHES_AT_ONCE)
        files = in_parallel((self._send_large(one) for one in large), LARGE_AT_ONCE)
        sent = await together(batches, files)
        found = {entry.path: entry for entry in [*rest, *(entry for batch in sent[0] for entry in batch), *sent[1]]}
        return [found[one.entry.path] for one in self._wanted]

    async def _send_batch(self, batch: list[Wanted]) -> list[Entry]:
        wholes = await asyncio.to_thread(volume_files.read_wholes, batch)
        contents = {one.content.digest: one for one in wholes}
        request = vm.VolumeMissing(
            volume_id=self._place.volume_id, contents=tuple(one.content for one in contents.values())
        )
        missing = (await self._place.ask(VOLUME_MISSING, request)).missing
        blocks = tuple(vm.BlockData(one.digest, 0, memoryview(contents[one.digest].data)) for one in missing)
        if blocks:
            await self._place.ask(VOLUME_PUT_BLOCK, vm.VolumePutBlock(volume_id=self._place.volume_id, blocks=blocks))
        self._progress.more(sum(one.content.size for one in wholes))
        return [_with(one.wanted.entry, one.content) for one in wholes]

    async def _send_large(self, wanted: Wanted) -> Entry:
        assert wanted.source is not None
        content = await self._adopted(wanted.source) if self._place.incoming else None
        if content is None:
            content = await self._send_blocks(wanted.source)
        return _with(wanted.entry, content)

    async def _adopted(self, source: str) -> Content | None:
        """The content that the server made of a copy in its folder; None where it does not see that folder."""
        assert self._place.incoming is not None
        target = self._place.incoming / volume_files.new_name()
        try:
            size = await asyncio.to_thread(volume_files.place, source, target, self._progress.more)
            file = vm.IncomingFile(target.name, size)
            adopt = vm.VolumeAdopt(volume_id=self._place.volume_id, files=(file,))
            content: Content = (await self._place.ask(VOLUME_ADOPT, adopt)).contents[0]
            return content
        except NotFoundError:
            if target.exists():
                return None  # our folder is not the server's, though it has the same path
            raise
        finally:
            target.unlink(missing_ok=True)

    async def _send_blocks(self, source: str) -> Content:
        content = await asyncio.to_thread(volume_files.hash_file, source, lambda count: None)
        request = vm.VolumeMissing(volume_id=self._place.volume_id, contents=(content,))
        missing = [
            position for one in (await self._place.ask(VOLUME_MISSING, request)).missing for position in one.positions
        ]
        self._progress.more(content.size - sum(content.length(position) for position in missing))
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            async with Bulk(self._place.session) as bulk:
                sending = (self._send_block(bulk, file, content, position) for position in missing)
                await in_parallel(sending, BLOCKS_AT_ONCE)
        except InvalidError:
            raise volume_files.changed(source) from None
        finally:
            os.close(file)
        return content

    async def _send_block(self, bulk: Bulk, file: int, content: Content, position: int) -> None:
        def message(data: memoryview) -> vm.VolumePutBlock:
            return vm.VolumePutBlock(
                volume_id=self._place.volume_id, blocks=(vm.BlockData(content.digest, position, data),)
            )

        def send() -> bool:
            data = volume_files.read_block(file, position)
            return bulk.ask(VOLUME_PUT_BLOCK, message(NOTHING), data) is not None

        if not await bulk.run(send):
            data = await bulk.run(lambda: bytes(volume_files.read_block(file, position)))
            await self._place.ask(VOLUME_PUT_BLOCK, message(memoryview(data)))
        self._progress.more(content.length(position))


def _with(entry: Entry, content: Content) -> Entry:
    return replace(entry, size=content.size, digest=content.digest, blocks=content.blocks)


def _batches(small: list[Wanted]) -> Iterator[list[Wanted]]:
    batch: list[Wanted] = []
    size = 0
    for one in small:
        if batch and (size + one.size > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.size
    if batch:
        yield batch


async def in_parallel(work: Iterable[Coroutine[Any, Any, T]], at_once: int) -> list[T]:
    """Results in order, of so many at once; the first error ends the others."""
    todo = enumerate(work)
    results: dict[int, T] = {}

    async def take() -> None:
        for number, coro in todo:
            results[number] = await coro

    await together(*(take() for _ in range(at_once)))
    return [results[number] for number in range(len(results))]


async def together(*coros: Awaitable[Any]) -> list[Any]:
    """Results of all, in order; the first error ends the others."""
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ------------------------------------------------------------------------------------------------ batches


class BatchUpload:
    """What `volume.batch_upload()` gives: collect files in a `with` block; at its end all are put by one commit.

        with volume.batch_upload() as batch:
            batch.put_file("model.bin", "/models/model.bin")
            batch.put_directory("data", "/data")

    An error inside the block puts nothing. `committed` has what the commit did, `conflicts` among it.
    """

    def __init__(self, place: Callable[[], Coroutine[Any, Any, Place]], *, force: bool) -> None:
        self._find = place
        self._force = force
        self._sources: list[Callable[[Path], Iterable[Wanted]]] = []
        self.committed: list[Committed] = []

    def put_file(self, local_file: str | Path | IO[bytes], remote_path: str, mode: int | None = None) -> None:
        """Put a file, or what a file object (open for bytes) holds, at a path of the volume.

        Args:
            local_file: a path, or a file object, which is read when the block ends.
            remote_path: where; if it ends with '/', in that folder, by the file's own name.
            mode: its permissions; those of the file where it is not given.

        Raises:
            InvalidError: there is no such file, or the path cannot be.
        """
        path = _target(remote_path, local_file)
        if not isinstance(local_file, str | Path):
            self._sources.append(lambda folder: [_spooled(local_file, path, mode, folder)])
            return
        local = Path(local_file).expanduser().absolute()
        volume_files.look_at(local, path, mode)
        self._sources.append(lambda folder: [volume_files.look_at(local, path, mode)])

    def put_directory(self, local_path: str | Path, remote_path: str, recursive: bool = True) -> None:
        """Put what is in a folder into a folder of the volume, which is made where it is not there.

        Links stay links; one that leads out of the volume is refused.

        Args:
            local_path: the folder.
            remote_path: the folder of the volume; "/" is its top.
            recursive: False leaves out the folders in it.

        Raises:
            InvalidError: there is no such folder, or the path cannot be.
        """
        path, local = volumes.plain_path(remote_path), Path(local_path).expanduser().absolute()
        if not local.is_dir():
            raise InvalidError(f"{local} is not a folder", hint="put_file puts files")
        self._sources.append(lambda folder: volume_files.walk(local, path, recursive=recursive))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.committed = PORTAL.call(self._run())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.committed = await PORTAL.acall(self._run())

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Paths that others had changed meanwhile, and that this upload replaced."""
        return tuple(path for one in self.committed for path in one.conflicts)

    async def _run(self) -> list[Committed]:
        place = await self._find()
        async with _spool_folder(place) as folder:
            wanted = await asyncio.to_thread(lambda: [one for source in self._sources for one in source(folder)])
            return await Upload(place, wanted, force=self._force).run() if wanted else []


@asynccontextmanager
async def _spool_folder(place: Place) -> AsyncIterator[Path]:
    """Where what file objects hold is kept until it is sent."""
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="jitney-put-")
    try:
        yield Path(folder)
    finally:
        import shutil

        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _spooled(source: IO[bytes], path: str, mode: int | None, folder: Path) -> Wanted:
    return volume_files.spool(source, path, folder / volume_files.new_name(), mode=mode, now_ns=time.time_ns())


def _target(remote_path: str, local_file: str | Path | IO[bytes]) -> str:
    if remote_path.endswith("/") and isinstance(local_file, str | Path):
        remote_path += Path(local_file).name
    path = volumes.plain_path(remote_path)
    if not path or remote_path.endswith("/"):
        raise InvalidError(f"{remote_path!r} names no file", hint="for example '/models/a.bin'")
    return path
