"""Files of this machine on their way to a volume: found, read, hashed, copied. Blocking: on threads of their own."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, Self, TypeVar

from jitney.core import volumes
from jitney.errors import InvalidError
from jitney.values.volumes import BLOCK_BYTES, DIR_MODE, FILE_MODE, MODE_MAX, Content, Entry, Kind

T = TypeVar("T")

THREADS_MAX = 4
PIECE_BYTES = 128 * 1024  # larger ones need more of memory in one piece, which takes long to find

Buffer = bytes | memoryview
Told = Callable[[int], None]  # so many bytes more are done


class Wanted(NamedTuple):
    """Something to put. `source` is None for folders, links, and files whose content is known already."""

    entry: Entry  # of a file without its content
    source: str | None = None
    size: int = 0


# ------------------------------------------------------------------------------------------------ what there is


def look_at(local: Path, path: str, mode: int | None) -> Wanted:
    """One file; a link to one is followed, for it was named.

    Raises:
        InvalidError: it is no file, or cannot be read.
    """
    try:
        found = local.stat()
    except OSError as error:
        raise InvalidError(f"{local} cannot be put: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidError(f"{local} is not a file", hint="put_directory puts folders")
    return _file(local, path, found, mode)


def _file(local: str | Path, path: str, found: os.stat_result, mode: int | None = None) -> Wanted:
    permissions = (found.st_mode if mode is None else mode) & MODE_MAX
    entry = Entry(path=volumes.check_path(path), mode=permissions, mtime_ns=max(0, found.st_mtime_ns))
    return Wanted(entry, str(local), found.st_size)


def walk(local: Path, path: str, *, recursive: bool) -> Iterator[Wanted]:
    """A folder: folders before what is in them. Links stay links; sockets, pipes and devices are passed over.

    Raises:
        InvalidError: it is no folder, something cannot be read, or has a name that no volume holds.
    """
    try:
        found = local.stat()
    except OSError as error:
        raise InvalidError(f"{local} cannot be put: {error.strerror or error}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidError(f"{local} is not a folder", hint="put_file puts files")
    if path:
        yield Wanted(Entry(path=volumes.check_path(path), kind=Kind.DIR, mode=found.st_mode & MODE_MAX))
    yield from _walk(str(local), path, recursive)


def _walk(folder: str, below: str, recursive: bool) -> Iterator[Wanted]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for one in found:
            path = f"{below}/{one.name}" if below else one.name
            seen = one.stat(follow_symlinks=False)
            if stat.S_ISREG(seen.st_mode):
                yield _file(one.path, path, seen)
            elif stat.S_ISLNK(seen.st_mode):
                entry = Entry(path=path, kind=Kind.SYMLINK, target=os.readlink(one.path), mode=MODE_MAX)
                yield Wanted(volumes.check_entry(entry))
            elif stat.S_ISDIR(seen.st_mode) and recursive:
                mode = seen.st_mode & MODE_MAX
                yield Wanted(volumes.check_entry(Entry(path=path, kind=Kind.DIR, mode=mode or DIR_MODE)))
                yield from _walk(one.path, path, recursive)
    except OSError as error:
        raise InvalidError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from None


def spool(source: IO[bytes], path: str, target: Path, *, mode: int | None, now_ns: int) -> Wanted:
    """What a file object holds, from where it stands, in a file of ours.

    Raises:
        InvalidError: it gives text.
    """
    size = 0
    with target.open("xb") as file:
        while data := source.read(BLOCK_BYTES):
            if not isinstance(data, bytes | bytearray | memoryview):
                raise InvalidError(f"the file object for {path!r} gives text, not bytes", hint="open it with 'rb'")
            size += file.write(data)
    permissions = (FILE_MODE if mode is None else mode) & MODE_MAX
    return Wanted(Entry(path=volumes.check_path(path), mode=permissions, mtime_ns=now_ns), str(target), size)


# ------------------------------------------------------------------------------------------------ contents


class Whole(NamedTuple):
    """A small file as it was read."""

    wanted: Wanted
    data: bytes
    content: Content


def read_wholes(batch: list[Wanted]) -> list[Whole]:
    """Small files, with their contents."""
    found = []
    for wanted in batch:
        assert wanted.source is not None
        try:
            data = _read(wanted.source, wanted.size)
        except OSError as error:
            raise _unreadable(wanted.source, error) from None
        if len(data) > BLOCK_BYTES:
            raise changed(wanted.source)
        found.append(Whole(wanted, data, volumes.whole(data)))
    return found


def _read(source: str, size: int) -> bytes:
    """All of a file that had that size: three calls of the system, where `open` makes nine."""
    file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(file, size + 1)
        while len(data) != size and len(data) <= BLOCK_BYTES and (more := os.read(file, BLOCK_BYTES)):
            data += more
        return data
    finally:
        os.close(file)


def hash_file(source: str, told: Told) -> Content:
    """The content of a large file.

    Raises:
        InvalidError: it cannot be read, or changes meanwhile.
    """
    try:
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(source, error) from None
    try:
        before = os.fstat(file)

        def digest(position: int) -> bytes:
            found, size = volumes.block_hash(), 0
            for _, piece in pieces(file, position, before.st_size):
                found.update(piece)
                size += len(piece)
            told(size)
            return found.digest()

        blocks = b"".join(on_threads(digest, count_of(before.st_size)))
        after = os.fstat(file)
    finally:
        os.close(file)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise changed(source)
    return volumes.content_of(blocks, before.st_size)


_buffers = threading.local()


def _buffer(name: str, size: int) -> memoryview:
    """Memory of this thread, for the next use of that name."""
    found: memoryview | None = getattr(_buffers, name, None)
    if found is None:
        found = memoryview(bytearray(size))
        setattr(_buffers, name, found)
    return found


def read_block(file: int, position: int) -> memoryview:
    """A block of an open file, until this thread reads another: fresh memory costs as much as the reading."""
    view, done = _buffer("block", BLOCK_BYTES), 0
    while done < BLOCK_BYTES and (count := os.preadv(file, [view[done:]], position * BLOCK_BYTES + done)):
        done += count
    return view[:done]


def make(path: Path, size: int) -> None:
    """A new file, with room for so much."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        reserve(file, size)
    finally:
        os.close(file)


def write_block(path: Path, position: int, data: memoryview) -> None:
    """Write a block at its place of a file. By its name: nobody can have closed it, and opened another, meanwhile."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(file, data[done : done + PIECE_BYTES], position * BLOCK_BYTES + done)
    finally:
        os.close(file)


def changed(source: str) -> InvalidError:
    """What is said of a file that does not hold still."""
    return InvalidError(f"{source} changes while it is read", hint="put it when nobody writes to it")


def _unreadable(source: str, error: OSError) -> InvalidError:
    return InvalidError(f"{source} cannot be read: {error.strerror or error}")


# ------------------------------------------------------------------------------------------------ the folder at hand


def incoming_of(folder: str) -> Path | None:
    """`incoming` of the contents' folder, if this process can put files there: same machine, same user."""
    if not folder:
        return None
    path = Path(folder) / "incoming"
    try:
        found = path.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return path if mine and os.access(path, os.W_OK | os.X_OK) else None


def new_name() -> str:
    """A name for a file in `incoming`."""
    return secrets.token_hex(16)


def place(source: str, target: Path, told: Told) -> int:
    """Copy a file into `incoming`: how many bytes. Shared with the original, where the file system can.

    Raises:
        InvalidError: it cannot be read. StorageFullError: there is no room for a copy.
    """
    try:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(source, error) from None
    try:
        size = os.fstat(reading).st_size
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if clone(reading, writing):
                told(size)
            elif copy(reading, writing, size, told, is_to_last=True) < size:
                raise changed(source)
            return size
        finally:
            os.close(writing)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise no_room(target, error) from None
    finally:
        os.close(reading)


_libc = ctypes.CDLL(None, use_errno=True)


def begin_writing(file: int, offset: int, length: int) -> None:
    """Have the system begin to put this on the disk: then less is left to do when it is synced."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(file, ctypes.c_longlong(offset), ctypes.c_longlong(length), 2)  # SYNC_FILE_RANGE_WRITE


def reserve(file: int, size: int) -> None:
    """Have the file system find room for so much at once, where it can: it takes a fifth less of time than in pieces.

    Raises:
        OSError: there is no room.
    """
    if not size or not hasattr(_libc, "fallocate"):
        return  # that of Python would write a byte into each page
    code = ctypes.get_errno() if _libc.fallocate(file, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) else 0
    if code in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(code, os.strerror(code))


def clone(reading: int, writing: int) -> bool:
    """Have one open file share all of another: whether the file system can."""
    import fcntl

    try:
        fcntl.ioctl(writing, 0x40049409, reading)  # FICLONE
    except OSError:
        return False
    return True


def copy(reading: int, writing: int, size: int, told: Told, *, is_to_last: bool) -> int:
    """Copy so much of an open file to an empty one: how many bytes there were.

    In pieces of our own: what the kernel copies by itself (`copy_file_range`) lies in memory page by page, and is read
    from there more slowly ever after. `is_to_last`: it is going to be synced, so its writing begins at once.
    """
    reserve(writing, size)
    with Flusher(writing if is_to_last else None) as flusher:

        def one(position: int) -> int:
            count = copy_block(reading, writing, position, size)
            told(count)
            flusher.begin(position * BLOCK_BYTES, count)
            return count

        return sum(on_threads(one, count_of(size)))


def copy_checked(reading: int, writing: int, size: int, told: Told) -> Content:
    """The same; what was copied is told by its content."""
    reserve(writing, size)

    def one(position: int) -> bytes:
        found = volumes.block_hash()
        told(copy_block(reading, writing, position, size, found.update))
        return found.digest()

    return volumes.content_of(b"".join(on_threads(one, count_of(size))), size)


def write_all(target: IO[bytes], data: memoryview) -> None:
    """Write to a file object, in pieces as above."""
    for at in range(0, len(data), PIECE_BYTES):
        target.write(data[at : at + PIECE_BYTES])


def count_of(size: int) -> int:
    """How many blocks so many bytes are."""
    return (size + BLOCK_BYTES - 1) // BLOCK_BYTES


def on_threads(work: Callable[[int], T], count: int) -> list[T]:
    """Do `work` for 0, 1, ... on some threads: what it gave, in order."""
    threads = min(THREADS_MAX, os.cpu_count() or 1, count)
    if threads < 2:
        return [work(number) for number in range(count)]
    with ThreadPoolExecutor(threads, thread_name_prefix="jitney-files") as pool:
        try:
            return list(pool.map(work, range(count)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def copy_block(
    reading: int, writing: int, position: int, size: int, seen: Callable[[memoryview], None] | None = None
) -> int:
    """Copy one block of an open file to its place in another: how many bytes there were. `seen` is called with all."""
    total = 0
    for at, piece in pieces(reading, position, size):
        if seen:
            seen(piece)
        done = 0
        while done < len(piece):
            done += os.pwrite(writing, piece[done:], at + done)
        total += done
    return total


def pieces(file: int, position: int, size: int) -> Iterator[tuple[int, memoryview]]:
    """A block of an open file of that size, piece by piece, each until the next: (offset in the file, piece).

    So what has just been read is still in the processor's cache when something is done with it.
    """
    piece = _buffer("piece", PIECE_BYTES)
    at, end = position * BLOCK_BYTES, min(size, (position + 1) * BLOCK_BYTES)
    while at < end and (count := os.preadv(file, [piece[: end - at]], at)):
        yield at, piece[:count]
        at += count


class Flusher:
    """Has the system begin to put what was written on the disk: on a thread of its own, for it waits for busy disks."""

    def __init__(self, file: int | None) -> None:
        self._file = file
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="jitney-flush")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)  # who syncs the file does the rest

    def begin(self, offset: int, length: int) -> None:
        """Of this part."""
        if self._file is not None:
            self._pool.submit(begin_writing, self._file, offset, length)


def no_room(path: Path, error: OSError) -> Exception:
    """What is said of a disk that takes no more."""
    from jitney.errors import StorageError, StorageFullError

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return StorageFullError(f"the disk of {path.parent} is full ({free:,} bytes are free)", hint="free some space")
    return StorageError(f"{path}: {error.strerror or error}", hint="check the disk and the folder's permissions")
