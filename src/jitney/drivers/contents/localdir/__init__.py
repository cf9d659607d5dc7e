"""Contents as files of one folder.

    <workspace>/files/<aa>/<digest>   a content, whole; the first two digits are the folder's
    <workspace>/incoming/b-<digest>   one that was begun: each block at its place, and holes
    <workspace>/incoming/p-<random>   one that is being written; what a killed server left of these is removed
    <workspace>/incoming/<name>       placed by a client, which asks for it to be adopted

A content is renamed to its name when it is whole and synced. When it was used last is its time of access, which reading
moves forward too; its time of change stays that of its first day, for mounts show it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from jitney.core import volumes
from jitney.drivers.contents.localdir import files
from jitney.drivers.hashing import hash_block, hash_blocks
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.contents import Block, Part, Stored, check_digest, check_incoming, check_workspace
from jitney.values.volumes import BLOCK_BYTES, Content

T = TypeVar("T")

FILE_MODE = 0o444
USED_EVERY_MS = 60_000  # that a content is used is noted no more often
PARTIAL, BEGUN = "p-", "b-"
MANY = 16  # files of one request


class _Begun:
    """A content that is not whole yet."""

    def __init__(self, content: Content, path: Path) -> None:
        self.content = content
        self.path = path
        self.have: set[int] = set()
        self.lock = threading.Lock()  # of `have`, and of the end

    @property
    def is_whole(self) -> bool:
        return len(self.have) == self.content.count


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _OneByOne:
    """Has one thread at a time do what is thousands of short calls of the system: each gives up the interpreter's lock,
    and to pass it on among many threads takes longer than the calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, many: Sized) -> AbstractContextManager[object]:
        return self._lock if len(many) > MANY else nullcontext()


class LocalContents:
    """`ports.contents.Contents` in a folder of the local disk."""

    def __init__(self, folder: Path, *, now_ms: Callable[[], int] = _now_ms) -> None:
        self._folder = folder
        self._now_ms = now_ms
        self._lock = threading.Lock()  # of the times of use, and of removals, which look at them
        self._one_by_one = _OneByOne()
        self._begun: dict[Stored, _Begun] = {}
        self._beginning = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob(f"*/incoming/{PARTIAL}*"):  # by a server that was killed
            left.unlink(missing_ok=True)

    def folder(self, workspace: str) -> Path:
        path = self._folder / check_workspace(workspace)
        (path / "incoming").mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def path(self, one: Stored) -> str:
        """Where a content is when it is whole. Texts where there are many: a Path costs more than the disk."""
        return f"{self._folder}/{one.workspace}/files/{one.digest[:2]}/{one.digest}"

    async def _off_loop(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise files.explain(error, self._folder) from None

    # ------------------------------------------------------------------------------------------- asking

    async def absent(self, workspace: str, digests: Sequence[str]) -> list[str]:
        check_workspace(workspace)
        asked = [Stored(workspace, check_digest(digest)) for digest in dict.fromkeys(digests)]

        def work() -> list[str]:
            with self._one_by_one(asked):
                return [one.digest for one in asked if not self._use(one)]

        return await self._off_loop(work)

    def _use(self, one: Stored) -> bool:
        """Note that a content is used: whether it is there."""
        path, now_ms = self.path(one), self._now_ms()
        with self._lock:
            try:
                found = os.stat(path)
                if abs(now_ms - _used_ms(found)) > USED_EVERY_MS:
                    os.utime(path, ns=(now_ms * 1_000_000, found.st_mtime_ns))
            except FileNotFoundError:
                return False
        return True

    async def read(self, workspace: str, digest: str, offset: int, length: int) -> bytes:
        one = Stored(check_workspace(workspace), check_digest(digest))
        if offset < 0 or length < 0:
            raise InvalidError("offset and length must not be below zero")

        def work() -> bytes:
            try:
                file = os.open(self.path(one), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise _not_here(digest) from None
            try:
                return files.read(file, offset, length)
            finally:
                os.close(file)

        return await self._off_loop(work)

    # ------------------------------------------------------------------------------------------- block by block

    async def begin(self, workspace: str, content: Content, known: Mapping[bytes, Block]) -> list[int]:
        one = Stored(check_workspace(workspace), check_digest(volumes.check_content(content).digest))
        return await self._off_loop(lambda: self._begin(one, content, known))

    def _begin(self, one: Stored, content: Content, known: Mapping[bytes, Block]) -> list[int]:
        if self._use(one):
            return []
        with self._beginning:
            begun = self._begun.get(one)
            if begun is None:
                begun = self._begun[one] = self._resume(one, content)
        with begun.lock:
            if not begun.path.exists():  # swept, or just made whole
                if self._use(one):
                    return []
                begun.have.clear()
                _make_holes(begun.path, content.size)
            self._copy_known(one, begun, known)
            if begun.is_whole:
                self._finish(one, begun)
                return []
            return [index for index in range(content.count) if index not in begun.have]

    def _resume(self, one: Stored, content: Content) -> _Begun:
        """What an earlier server, or nobody, began: blocks that are right are kept."""
        begun = _Begun(content, self.folder(one.workspace) / "incoming" / f"{BEGUN}{one.digest}")
        _make_holes(begun.path, content.size)
        file = os.open(begun.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            there = sorted(index for index in files.blocks_with_data(file, content.size) if index < content.count)
            digests = hash_blocks(file, [(index, content.length(index)) for index in there])
        finally:
            os.close(file)
        found = zip(there, digests, strict=True)
        begun.have = {index for index, digest in found if digest == content.block(index)}
        return begun

    def _copy_known(self, one: Stored, begun: _Begun, known: Mapping[bytes, Block]) -> None:
        content = begun.content
        wanted = [index for index in range(content.count) if index not in begun.have and content.block(index) in known]
        if not wanted:
            return
        target = os.open(begun.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for index in wanted:
                at, length = known[content.block(index)], content.length(index)
                with suppress(FileNotFoundError):
                    source = os.open(self.path(Stored(one.workspace, at.digest)), os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        offset = index * BLOCK_BYTES
                        files.copy_block(source, at.position * BLOCK_BYTES, target, offset, length)
                    finally:
                        os.close(source)
                    if hash_block(target, index, length) == content.block(index):  # it may be damaged
                        begun.have.add(index)
        finally:
            os.close(target)

    async def put(self, workspace: str, parts: Sequence[Part]) -> None:
        check_workspace(workspace)
        for part in parts:
            check_digest(part.digest)
        await self._off_loop(lambda: self._put(workspace, parts))

    def _put(self, workspace: str, parts: Sequence[Part]) -> None:
        wholes: dict[Stored, bytes | memoryview] = {}
        for part in parts:
            one = Stored(workspace, part.digest)
            is_whole = part.position == 0 and len(part.data) <= BLOCK_BYTES
            if is_whole and volumes.whole(part.data).digest == part.digest:
                wholes[one] = part.data
            else:
                self._put_block(one, part)
        self._put_wholes(workspace, wholes)

    def _put_block(self, one: Stored, part: Part) -> None:
        begun = self._begun.get(one)
        if begun is None:
            if self._use(one):
                return
            raise NotFoundError(f"the content {one.digest[:16]}… was not begun here", hint="begin it again")
        content, index = begun.content, part.position
        if not 0 <= index < content.count or volumes.block_digest(part.data) != content.block(index):
            raise InvalidError(f"what was sent is not block {index} of the content {one.digest[:16]}…")
        try:
            file = os.open(begun.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if self._use(one):
                return
            raise NotFoundError(f"the content {one.digest[:16]}… was begun too long ago", hint="begin again") from None
        try:
            files.write_at(file, index * BLOCK_BYTES, part.data)
        finally:
            os.close(file)
        with begun.lock:
            begun.have.add(index)
            if begun.is_whole and begun.path.exists():
                self._finish(one, begun)

    def _finish(self, one: Stored, begun: _Begun) -> None:
        begun.path.chmod(FILE_MODE)
        files.sync_files([str(begun.path)])
        self._name([(str(begun.path), one)])
        self._begun.pop(one, None)

    def _put_wholes(self, workspace: str, wholes: Mapping[Stored, bytes | memoryview]) -> None:
        """Each written, then all synced, then each named: a name never stands for less than all of it."""
        prefix = f"{self.folder(workspace)}/incoming/{PARTIAL}{secrets.token_hex(12)}"
        written: list[tuple[str, Stored]] = []
        try:
            with self._one_by_one(wholes):
                for one, data in wholes.items():
                    if not self._use(one):
                        written.append((f"{prefix}-{len(written)}", one))
                        _write_new(written[-1][0], data)
            files.sync_files([path for path, _ in written])
            self._name(written)
            written.clear()
        finally:
            for path, _ in written:
                with suppress(OSError):
                    os.unlink(path)

    def _name(self, written: Sequence[tuple[str, Stored]]) -> None:
        """Give synced files the names of what they hold, and return when the names are on the disk."""
        folders: set[str] = set()
        now_ns = self._now_ms() * 1_000_000
        with self._one_by_one(written):
            for path, one in written:
                target = self.path(one)
                folder = target.rpartition("/")[0]
                if folder not in folders and not os.path.isdir(folder):
                    os.makedirs(folder, exist_ok=True, mode=0o700)
                    folders.add(os.path.dirname(folder))
                folders.add(folder)
                os.utime(path, ns=(now_ns, now_ns))
                with self._lock:
                    os.replace(path, target)
        files.sync_folders(folders)

    # ------------------------------------------------------------------------------------------- adopting

    async def adopt(self, workspace: str, name: str, size: int) -> Content:
        path = self.folder(workspace) / "incoming" / check_incoming(name)
        return await self._off_loop(lambda: self._adopt(workspace, path, size))

    def _adopt(self, workspace: str, path: Path, size: int) -> Content:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError(f"no incoming file {path.name}", hint="place it again") from None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise InvalidError(f"the incoming file {path.name} is a link", hint="place a copy") from None
        try:
            before = os.fstat(file)
            _check_own(before, size)
            os.fchmod(file, FILE_MODE)
            count = (size + BLOCK_BYTES - 1) // BLOCK_BYTES
            lengths = [(index, min(BLOCK_BYTES, size - index * BLOCK_BYTES)) for index in range(count)]
            with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:  # while it is hashed
                synced = pool.submit(os.fsync, file)
                content = volumes.content_of(b"".join(hash_blocks(file, lengths)), size)
                synced.result()
            after = os.fstat(file)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise InvalidError("the incoming file was changed while it was read", hint="place it again, then ask")
        finally:
            os.close(file)
        one = Stored(workspace, content.digest)
        if self._use(one):
            path.unlink(missing_ok=True)
        else:
            self._name([(str(path), one)])
        return content

    # ------------------------------------------------------------------------------------------- collecting

    async def old(self, before_ms: int, *, after: Stored | None = None, limit: int = 1_000) -> list[Stored]:
        return await self._off_loop(lambda: self._old(before_ms, after, limit))

    def _old(self, before_ms: int, after: Stored | None, limit: int) -> list[Stored]:
        found: list[Stored] = []
        for workspace in _names(self._folder):
            for prefix in _names(self._folder / workspace / "files"):
                if after is not None and (workspace, prefix) < (after.workspace, after.digest[:2]):
                    continue
                for digest in _names(self._folder / workspace / "files" / prefix):
                    one = Stored(workspace, digest)
                    with suppress(FileNotFoundError):
                        if (after is None or one > after) and _is_old(os.stat(self.path(one)), before_ms):
                            found.append(one)
                    if len(found) >= limit:
                        return found
        return found

    async def remove(self, workspace: str, digests: Sequence[str], before_ms: int) -> list[str]:
        check_workspace(workspace)
        asked = [Stored(workspace, check_digest(digest)) for digest in digests]
        return await self._off_loop(lambda: [one.digest for one in asked if self._remove(one, before_ms)])

    def _remove(self, one: Stored, before_ms: int) -> bool:
        path = self.path(one)
        with self._lock:
            try:
                if not _is_old(os.stat(path), before_ms):
                    return False
                os.unlink(path)
            except FileNotFoundError:
                pass
        return True

    async def sweep(self, before_ms: int) -> int:
        return await self._off_loop(lambda: self._sweep(before_ms))

    def _sweep(self, before_ms: int) -> int:
        dropped = 0
        for workspace in _names(self._folder):
            for name in _names(self._folder / workspace / "incoming"):
                path = self._folder / workspace / "incoming" / name
                begun = self._begun.get(Stored(workspace, name.removeprefix(BEGUN)))
                with begun.lock if begun else threading.Lock(), suppress(FileNotFoundError):
                    if path.stat().st_mtime_ns // 1_000_000 < before_ms:
                        path.unlink()
                        dropped += 1
                        self._begun.pop(Stored(workspace, name.removeprefix(BEGUN)), None)
        return dropped


def _is_old(found: os.stat_result, before_ms: int) -> bool:
    """Whether it was not used since; what was used may not have been noted for a while."""
    return _used_ms(found) + USED_EVERY_MS < before_ms


def _used_ms(found: os.stat_result) -> int:
    return max(found.st_atime_ns, found.st_mtime_ns) // 1_000_000


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _make_holes(path: Path, size: int) -> None:
    """A file of that size, with what it has already."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(file, size)
    finally:
        os.close(file)


def _write_new(path: str, data: bytes | memoryview) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        files.write_at(file, 0, data)
        os.fchmod(file, FILE_MODE)
    finally:
        os.close(file)


def _check_own(found: os.stat_result, size: int) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        raise InvalidError("an incoming file is a plain one of the server's user, with one name", hint="place a copy")
    if found.st_size != size:
        raise InvalidError(f"the incoming file has {found.st_size:,} bytes, and {size:,} were said", hint="place again")


def _not_here(digest: str) -> NotFoundError:
    return NotFoundError(f"the content {digest[:16]}… is not on this server", hint="put the file again")
