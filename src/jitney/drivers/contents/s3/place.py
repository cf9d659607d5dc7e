"""The folder of this machine beside a bucket.

    <workspace>/incoming/<name>       placed by somebody on this machine, who asks for it to be adopted
    <workspace>/incoming/f-<random>   one that is being fetched; what a killed process left of these is removed
    <workspace>/files/<aa>/<digest>   a content that is here too: for mounts, which need files, and for reading again
    <workspace>/unsynced/<digest>     marks one that may not be on the disk yet

A file that is here is whole and read-only; it is the bucket that counts. One that was fetched is used before it is on
the disk, as it can be fetched again: until it is, it has a mark, and whoever begins anew removes what has one. The mark
is made before the file gets its name, and the disk keeps that order.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from jitney.core import volumes
from jitney.drivers.hashing import hash_blocks
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.contents import Stored, check_incoming, check_workspace
from jitney.values.volumes import BLOCK_BYTES, Content

log = logging.getLogger("jitney.bucket")

SYNCS_AT_ONCE = 2
FILE_MODE = 0o444
FETCHED = "f-"
KEPT_S = 24 * 3600.0  # a file that no mount has, and nobody looked at


class Place:
    """See the module. All of it blocks; `Syncing` is for who may not."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, workspace: str) -> Path:
        """That of a workspace, made if it is not there."""
        path = self._root / check_workspace(workspace)
        (path / "incoming").mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def path(self, one: Stored) -> str:
        """Where a content is, if it is here."""
        return f"{self._root}/{one.workspace}/files/{one.digest[:2]}/{one.digest}"

    def has(self, one: Stored) -> bool:
        """Whether a content is here; it counts as used then."""
        path = self.path(one)
        try:
            os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))
        except FileNotFoundError:
            return False
        return True

    def new(self, workspace: str) -> str:
        """A name for a file that is being fetched."""
        return str(self.folder(workspace) / "incoming" / f"{FETCHED}{secrets.token_hex(12)}")

    def name_unsynced(self, path: str, one: Stored) -> None:
        """Give a file the name of what it holds; `sync` is to follow."""
        mark = self._mark(one)
        os.makedirs(os.path.dirname(mark), exist_ok=True, mode=0o700)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._name(path, one)

    def sync(self, one: Stored) -> None:
        """Have it on the disk, and take its mark away. It may have been removed."""
        with suppress(FileNotFoundError):
            sync(self.path(one))
        with suppress(FileNotFoundError):
            os.unlink(self._mark(one))

    def _mark(self, one: Stored) -> str:
        return f"{self._root}/{one.workspace}/unsynced/{one.digest}"

    def _name(self, path: str, one: Stored) -> None:
        target = self.path(one)
        os.makedirs(os.path.dirname(target), exist_ok=True, mode=0o700)
        os.chmod(path, FILE_MODE)
        os.replace(path, target)

    def open_incoming(self, workspace: str, name: str, size: int) -> int:
        """A file that was placed, open for reading.

        Raises:
            NotFoundError: there is none.
            InvalidError: it has another size, is no plain file, or others hold it too.
        """
        path = self.folder(workspace) / "incoming" / check_incoming(name)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError(f"no incoming file {name}", hint="place it again") from None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise InvalidError(f"the incoming file {name} is a link", hint="place a copy") from None
        found = os.fstat(file)
        plain = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if plain and found.st_size == size:
            return file
        os.close(file)
        if not plain:
            raise InvalidError(
                "an incoming file is a plain one of the server's user, with one name", hint="place a copy"
            )
        raise InvalidError(f"the incoming file has {found.st_size:,} bytes, and {size:,} were said", hint="place again")

    def keep_incoming(self, workspace: str, name: str, digest: str) -> None:
        """Have a file that was adopted here, under its content's name; `sync` is to follow."""
        path = f"{self.folder(workspace)}/incoming/{name}"
        one = Stored(workspace, digest)
        if os.path.exists(self.path(one)):
            os.unlink(path)
            return
        self.name_unsynced(path, one)

    def forget_fetched(self) -> int:
        """Remove what was not fetched to its end, or not synced: nobody fetches now. How many."""
        left = list(self._root.glob(f"*/incoming/{FETCHED}*"))
        marks = list(self._root.glob("*/unsynced/*"))
        for path in left:
            path.unlink(missing_ok=True)
        for mark in marks:
            with suppress(FileNotFoundError):
                os.unlink(self.path(Stored(mark.parent.parent.name, mark.name)))
            mark.unlink(missing_ok=True)
        return len(left) + len(marks)

    def sweep_incoming(self, before_ms: int) -> int:
        """Remove what was placed before then and not asked for: how many."""
        dropped = 0
        for path in self._root.glob("*/incoming/*"):
            with suppress(OSError):
                if path.lstat().st_mtime_ns // 1_000_000 < before_ms and not path.name.startswith(FETCHED):
                    path.unlink()
                    dropped += 1
        return dropped

    def tidy(self, now_s: float) -> int:
        """Remove files that no mount shares and nobody looked at for `KEPT_S`: how many."""
        dropped = 0
        for path in self._root.glob("*/files/??/*"):
            with suppress(OSError):
                seen = path.lstat()
                if seen.st_nlink == 1 and max(seen.st_atime, seen.st_mtime, seen.st_ctime) < now_s - KEPT_S:
                    path.unlink()
                    dropped += 1
        return dropped


class Syncing:
    """Gets files to the disk, while nobody waits for it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._room = asyncio.Semaphore(SYNCS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def later(self, one: Stored) -> None:
        """This one, soon."""
        task = asyncio.ensure_future(self._sync(one))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sync(self, one: Stored) -> None:
        async with self._room:
            try:
                await asyncio.to_thread(self._place.sync, one)
            except OSError as error:  # its mark stays: it is fetched again one day
                log.warning("not_synced digest=%s reason=%s", one.digest, error)

    async def done(self) -> None:
        """Until all of them are there."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def sync(path: str) -> None:
    """Have a file on the disk.

    Raises:
        FileNotFoundError: there is none.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def read_content(file: int, size: int) -> Content:
    """What is in a file."""
    starts = range(0, size, BLOCK_BYTES)
    blocks = hash_blocks(file, [(number, min(BLOCK_BYTES, size - at)) for number, at in enumerate(starts)])
    return volumes.content_of(b"".join(blocks), size)


def read_block(file: int, position: int) -> bytes:
    """A block of a file: shorter at its end."""
    parts, at = [], position * BLOCK_BYTES
    left = BLOCK_BYTES
    while left:
        part = os.pread(file, left, at)
        if not part:
            break
        parts.append(part)
        at, left = at + len(part), left - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
