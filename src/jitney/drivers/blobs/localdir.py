"""Contents as files of one folder, named by their digest."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from jitney.errors import NotFoundError, StorageError, StorageFullError
from jitney.ports.blobs import check_digest

CHUNK_BYTES = 1024 * 1024
PARTIAL = ".partial-"  # names of files that are being written


class LocalBlobs:
    """`ports.blobs.BlobStore` in a folder of the local disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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

    async def digests(self) -> list[str]:
        def names() -> list[str]:
            return sorted(name for name in os.listdir(self._folder) if not name.startswith("."))

        return await asyncio.to_thread(names)

    def _put(self, contents: Sequence[bytes]) -> list[str]:
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        partial: dict[str, Path] = {}
        try:
            for digest, content in zip(digests, contents, strict=True):
                if digest not in partial and not (self._folder / digest).exists():
                    partial[digest] = self._folder / f"{PARTIAL}{secrets.token_hex(8)}"
                    _write(partial[digest], content)
            for digest, path in partial.items():
                os.replace(path, self._folder / digest)
            if partial:
                _sync_folder(self._folder)
        except OSError as error:
            raise _explain(error, self._folder) from None
        finally:
            for path in partial.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        return digests

    def _remove(self, digests: Sequence[str]) -> None:
        for digest in digests:
            (self._folder / digest).unlink(missing_ok=True)

    def _read(self, digest: str) -> bytes:
        try:
            content = (self._folder / digest).read_bytes()
        except FileNotFoundError:
            raise _not_here(digest) from None
        except OSError as error:
            raise _explain(error, self._folder) from None
        if hashlib.sha256(content).hexdigest() != digest:
            self._drop_damaged(digest)
        return content

    def _place(self, digest: str, target: Path, mode: int) -> None:
        """Copied, not linked: user code that writes into its source must not change the content for others."""
        try:
            source = (self._folder / digest).open("rb")
        except FileNotFoundError:
            raise _not_here(digest) from None
        except OSError as error:
            raise _explain(error, self._folder) from None
        with source:
            found = _copy(source, target, mode)
        if found != digest:
            target.unlink(missing_ok=True)
            self._drop_damaged(digest)

    def _drop_damaged(self, digest: str) -> None:
        (self._folder / digest).unlink(missing_ok=True)
        raise _not_here(digest)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: BinaryIO, target: Path, mode: int) -> str:
    """Copy to a new file: the digest of what was copied."""
    found = hashlib.sha256()
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _explain(error, target) from None
    try:
        with os.fdopen(file, "wb") as copy:
            while chunk := source.read(CHUNK_BYTES):
                found.update(chunk)
                copy.write(chunk)
            os.fchmod(copy.fileno(), mode)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _explain(error, target) from None
    return found.hexdigest()


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _not_here(digest: str) -> NotFoundError:
    return NotFoundError(f"the content {digest} is not on this server", hint="send it again")


def _explain(error: OSError, path: Path) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"the disk of {path} is full", hint="free some space, then try again")
    return StorageError(f"{path}: {error.strerror or error}", hint="check the disk and the folder's permissions")
