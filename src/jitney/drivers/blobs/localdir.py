"""Contents as files of one folder, named by their digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from jitney.drivers.disk import copy_new, explain
from jitney.ports.blobs import check_digest, not_here

PARTIAL = ".partial-"  # names of files that are being written


class LocalBlobs:
    """`ports.blobs.BlobStore` in a folder of the local disk.

    Args:
        folder: for this alone; made if it is not there.
        synced: have each content on the disk before it counts. Without, a loss of power damages some: for what is
            somewhere else too.
    """

    def __init__(self, folder: Path, *, synced: bool = True) -> None:
        self._folder = folder
        self._synced = synced
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob(f"{PARTIAL}*"):  # by a server that was killed
            left.unlink(missing_ok=True)

    async def missing(self, digests: Sequence[str]) -> list[str]:
        wanted = list(dict.fromkeys(check_digest(digest) for digest in digests))
        return await asyncio.to_thread(lambda: [d for d in wanted if not (self._folder / d).exists()])

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        return await asyncio.to_thread(self._put, contents)

    async def read(self, digest: str) -> bytes:
        return await asyncio.to_thread(self._read, check_digest(digest))

    async def place(self, digest: str, target: Path, *, executable: bool = False) -> None:
        await asyncio.to_thread(self._place, check_digest(digest), target, 0o555 if executable else 0o444)

    async def remove(self, digests: Sequence[str]) -> None:
        await asyncio.to_thread(self._remove, [check_digest(digest) for digest in digests])

    async def old(self, before_ms: int) -> list[str]:
        def names() -> list[str]:
            return sorted(name for name, found in self._files() if found.st_mtime_ns // 1_000_000 < before_ms)

        return await asyncio.to_thread(names)

    async def trim(self, bytes_max: int) -> int:
        """Remove what was not read for longest, until the rest has so many bytes at most: how many."""
        return await asyncio.to_thread(self._trim, bytes_max)

    def _put(self, contents: Sequence[bytes]) -> list[str]:
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        partial: dict[str, Path] = {}
        try:
            for digest, content in zip(digests, contents, strict=True):
                if digest not in partial and not self._touch(digest):
                    partial[digest] = self._folder / f"{PARTIAL}{secrets.token_hex(8)}"
                    _write(partial[digest], content, synced=self._synced)
            for digest, path in partial.items():
                os.replace(path, self._folder / digest)
            if partial and self._synced:
                _sync_folder(self._folder)
        except OSError as error:
            raise explain(error, self._folder) from None
        finally:
            for path in partial.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        return digests

    def _touch(self, digest: str) -> bool:
        """Whether a content is here; it was put and read now, if so."""
        try:
            os.utime(self._folder / digest)
        except FileNotFoundError:
            return False
        return True

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Contents by their names."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if not entry.name.startswith("."):
                        yield entry.name, entry.stat(follow_symlinks=False)

    def _trim(self, bytes_max: int) -> int:
        left, dropped = bytes_max, 0
        try:
            for name, found in sorted(self._files(), key=lambda file: file[1].st_atime_ns, reverse=True):
                if found.st_size <= left:
                    left -= found.st_size
                else:
                    (self._folder / name).unlink(missing_ok=True)
                    dropped += 1
        except OSError as error:
            raise explain(error, self._folder) from None
        return dropped

    def _open(self, digest: str) -> BinaryIO:
        """A content, which counts as read now: by what we say, as a disk may note that once a day, or never."""
        try:
            file = (self._folder / digest).open("rb")
        except FileNotFoundError:
            raise not_here(digest) from None
        except OSError as error:
            raise explain(error, self._folder) from None
        with suppress(OSError):
            os.utime(file.fileno(), ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
        return file

    def _remove(self, digests: Sequence[str]) -> None:
        for digest in digests:
            (self._folder / digest).unlink(missing_ok=True)

    def _read(self, digest: str) -> bytes:
        try:
            with self._open(digest) as file:
                content = file.read()
        except OSError as error:
            raise explain(error, self._folder) from None
        if hashlib.sha256(content).hexdigest() != digest:
            self._drop_damaged(digest)
        return content

    def _place(self, digest: str, target: Path, mode: int) -> None:
        """Copied, not linked: user code that writes into its source must not change the content for others."""
        with self._open(digest) as source:
            found = copy_new(source, target, mode)
        if found != digest:
            target.unlink(missing_ok=True)
            self._drop_damaged(digest)

    def _drop_damaged(self, digest: str) -> None:
        (self._folder / digest).unlink(missing_ok=True)
        raise not_here(digest)


def _write(path: Path, content: bytes, *, synced: bool) -> None:
    with path.open("xb") as file:
        file.write(content)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
