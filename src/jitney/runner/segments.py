"""Large values by shared memory: files in a folder of memory that are written, read in place, and used again.

Copying 64 MiB into fresh pages costs five to ten times what copying into pages that exist costs (the kernel clears each
page and takes a fault for it). So segments are not deleted after use but go back to `free/`, and a producer keeps its
mapping of the ones that it wrote.

    SCOPE/free/18-6f3a...            anybody's to take; 18 = 2**18 bytes at most
    SCOPE/used/18-6f3a....9c01d2e4   holds one value. The last part is new each time: no old name finds a new value

A scope is what the values of one piece of code have in common: a container sees the folder of its own scope and no
other, so that nobody's values are within reach of somebody else's code, and no segment is used again across the two.
Names have it in front: SCOPE/18-6f3a....9c01d2e4. The containers behind a wall have other ids than the client: within a
scope everybody may write, and the folder of all scopes is for this user only.

Who may do what is settled by two things that the kernel gives up by itself when a process dies: `flock` and `rename`.

- A producer takes a segment by locking it exclusively and then renaming it from free/ to used/. The lock fails while
  anybody still reads it; the rename fails if somebody else was first.
- A reader opens used/NAME, takes a shared lock, and looks whether the name still leads to the same file. Its mapping is
  private (writes are its own) and keeps the lock: Python's mmap has a duplicate of the descriptor, so the lock lasts
  exactly until the last array that points into the mapping is gone.
- The client puts a segment back (`release`): after the output of an input has come, or once it has locked a result.
- What nobody locks for an hour is taken back by `sweep`, which the server runs; it wipes the folder when it starts and
  no container lives.

Pages are allocated before they are written: a write to a sparse file on a full tmpfs would be a SIGBUS, not an error.
"""

from __future__ import annotations

import _thread
import fcntl
import mmap
import os
import re
import time
from collections.abc import Iterator, Sequence

CLASS_MIN = 18  # 256 KiB
CLASS_MAX = 36  # 64 GiB
MAPPINGS_MAX = 8  # segments that one process keeps mapped for writing
HELD_MAX = 128  # locks (and so descriptors) that one process keeps on what it stored
TRIES_MAX = 32  # segments of others looked at before a new one is made
LOCK_WAIT_S = 5.0  # how long a reader waits for a writer that is about to find that the segment is not its own
SWEEP_AFTER_S = 3_600.0
IDLE_AFTER_S = 300.0  # free segments older than this give their memory back

_NAME = re.compile(r"([A-Za-z0-9-]{1,40})/(\d{2}-[0-9a-f]{12}\.[0-9a-f]{8})")
_SCOPE = re.compile(r"[A-Za-z0-9-]{1,40}")
_MADV_POPULATE_READ = 22  # Linux 5.14: map all pages in one call instead of a fault for each sixteen


class SegmentGone(Exception):
    """The name leads nowhere (any more): the value was taken back, or the name was never one."""


class _Mapped:
    """A segment that this process has mapped for writing."""

    __slots__ = ("allocated", "fd", "mapping", "name", "used_as")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.allocated = 0
        self.mapping: mmap.mmap | None = None
        self.used_as = ""  # its name in used/ while a value of ours is in it

    def close(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
        os.close(self.fd)


def prepare(folder: str) -> None:
    """Make the folder of all scopes, for this user only."""
    os.makedirs(folder, mode=0o700, exist_ok=True)


def prepare_scope(folder: str, scope: str) -> str:
    """Make the folder of a scope, for whoever is let into it: its path."""
    if not _SCOPE.fullmatch(scope):
        raise ValueError(f"{scope!r} cannot name a scope of segments")
    path = os.path.join(folder, scope)
    for name in (path, os.path.join(path, "free"), os.path.join(path, "used")):
        try:
            os.mkdir(name)
            os.chmod(name, 0o777)
        except OSError:
            pass  # it is there; or there is no room, and values go another way
    return path


def is_name(name: str) -> bool:
    """Whether `name` can be that of a segment: hostile text is safe to ask about."""
    return _NAME.fullmatch(name) is not None


def wipe(folder: str) -> None:
    """Remove all segments. Only for when nobody can be reading them."""
    for scope in _scopes(folder):
        for path, _ in _files(scope, "free", "used"):
            _unlink(path)


def sweep(folder: str, now_s: float, *, used_after_s: float = SWEEP_AFTER_S, idle_after_s: float = IDLE_AFTER_S) -> int:
    """Remove used segments that nobody has locked since `used_after_s`, and free ones idle for `idle_after_s`.

    `now_s` is Unix time. Gives how many were removed.
    """
    removed = 0
    for scope in _scopes(folder):
        for where, age_s in (("used", used_after_s), ("free", idle_after_s)):
            for path, status in _files(scope, where):
                if now_s - status.st_ctime >= age_s:
                    removed += _remove_unlocked(path)
    return removed


def _scopes(folder: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def default_budget_bytes() -> int:
    """A quarter of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


class SegmentPool:
    """This process's access to the segments of one scope in `folder`. Safe to use from several threads.

    `keep_locked`: hold a shared lock on what was stored until it is released (a client, whose inputs may wait for
    hours); without it (a container) a stored value is anybody's to read and nobody's to hold.
    """

    def __init__(self, folder: str, scope: str, *, keep_locked: bool = False, budget_bytes: int | None = None) -> None:
        self.scope = scope
        self.folder = prepare_scope(folder, scope)
        self.keep_locked = keep_locked
        self.budget_bytes = default_budget_bytes() if budget_bytes is None else budget_bytes
        self._pid = os.getpid()
        self._lock = _thread.allocate_lock()
        self._mine: dict[str, _Mapped] = {}  # by name in free/, least recently used first
        self._pinned: dict[str, int] = {}

    # ------------------------------------------------------------------ writing

    def store(self, parts: Sequence[bytes | memoryview], size: int) -> str | None:
        """Write `parts`, `size` bytes in all, into a segment: its name, or None where there is no room."""
        self._after_fork()
        with self._lock:
            try:
                segment = self._acquire(max(CLASS_MIN, (size - 1).bit_length()), size)
            except OSError:
                return None
            if segment is None:
                return None
            try:
                _fill(segment, parts)
            except BaseException:  # also Ctrl-C: what is half written must not look like a value
                self._forget(segment)
                _unlink(self._path("used", segment.used_as))
                raise
            held = sum(1 for other in self._mine.values() if other.used_as)
            keep = self.keep_locked and held <= HELD_MAX
            fcntl.flock(segment.fd, fcntl.LOCK_SH if keep else fcntl.LOCK_UN)
            name = f"{self.scope}/{segment.used_as}"
            if not keep:
                segment.used_as = ""
            self._trim(segment)
            return name

    def release(self, name: str) -> None:
        """Nobody new will read this value: its segment may be written again once those who read it let go."""
        used_as = self._own(name)
        if not used_as:
            return
        base = used_as.partition(".")[0]
        with self._lock:
            try:
                os.rename(self._path("used", used_as), self._path("free", base))
            except OSError:
                pass
            segment = self._mine.get(base)
            if segment is not None and segment.used_as == used_as:
                segment.used_as = ""
                fcntl.flock(segment.fd, fcntl.LOCK_UN)

    def _acquire(self, size_class: int, size: int) -> _Mapped | None:
        """A segment of the class, locked exclusively, in used/, mapped and with pages for `size` bytes."""
        if size_class > CLASS_MAX:
            return None
        segment = self._take_mine(size_class) or self._take_free(size_class) or self._create(size_class, size)
        if segment is None:
            return None
        try:
            if segment.allocated < size:
                _allocate(segment.fd, segment.allocated, size)
                segment.allocated = size
            if segment.mapping is None:
                segment.mapping = mmap.mmap(segment.fd, 1 << size_class)
        except OSError:
            self._forget(segment)
            _unlink(self._path("used", segment.used_as))
            raise
        self._mine.pop(segment.name, None)
        self._mine[segment.name] = segment
        return segment

    def _take_mine(self, size_class: int) -> _Mapped | None:
        for segment in list(self._mine.values()):
            if not segment.name.startswith(f"{size_class:02d}-"):
                continue
            # Looked up first: asking for the exclusive lock would give up the shared one on what is still in use.
            path = self._path("free", segment.name)
            try:
                if os.stat(path).st_ino != os.fstat(segment.fd).st_ino:
                    continue
            except OSError:
                continue
            if self._claim(segment):
                return segment
        return None

    def _take_free(self, size_class: int) -> _Mapped | None:
        tries = 0
        for name in os.listdir(self._path("free", "")):
            if not name.startswith(f"{size_class:02d}-") or name in self._mine:
                continue
            tries += 1
            if tries > TRIES_MAX:
                return None
            try:
                segment = _Mapped(name, os.open(self._path("free", name), os.O_RDWR | os.O_CLOEXEC))
            except OSError:
                continue
            status = os.fstat(segment.fd)
            segment.allocated = min(status.st_blocks * 512, status.st_size)
            if status.st_size == 1 << size_class and self._claim(segment):
                return segment
            segment.close()
        return None

    def _claim(self, segment: _Mapped) -> bool:
        try:
            fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # somebody reads it
        used_as = f"{segment.name}.{os.urandom(4).hex()}"
        try:
            os.rename(self._path("free", segment.name), self._path("used", used_as))
        except OSError:
            fcntl.flock(segment.fd, fcntl.LOCK_UN)
            return False  # somebody else was first
        segment.used_as = used_as
        return True

    def _create(self, size_class: int, size: int) -> _Mapped | None:
        if not self._make_room(size):
            return None
        name = f"{size_class:02d}-{os.urandom(6).hex()}"
        used_as = f"{name}.{os.urandom(4).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        segment = _Mapped(name, os.open(self._path("used", used_as), flags, 0o600))
        os.fchmod(segment.fd, 0o666)
        segment.used_as = used_as
        fcntl.flock(segment.fd, fcntl.LOCK_EX)
        os.ftruncate(segment.fd, 1 << size_class)
        return segment

    def _make_room(self, size: int) -> bool:
        """Whether `size` more bytes are within the budget, after giving back free segments if need be."""
        disk = os.statvfs(self.folder)
        over = max(
            sum(status.st_blocks * 512 for _, status in _files(self.folder, "free", "used")) + size - self.budget_bytes,
            size - disk.f_bavail * disk.f_frsize,
        )
        if over <= 0:
            return True
        for path, status in _files(self.folder, "free"):
            segment = self._mine.get(os.path.basename(path))
            if segment is not None:
                self._forget(segment)
            if _remove_unlocked(path):
                over -= status.st_blocks * 512
            if over <= 0:
                return True
        return False

    def _trim(self, newest: _Mapped) -> None:
        """Unmap what was not used for longest; what is kept locked must stay open."""
        spare = [s for s in self._mine.values() if not s.used_as and s is not newest]
        for segment in spare[: max(0, len(self._mine) - MAPPINGS_MAX)]:
            self._forget(segment)

    def _forget(self, segment: _Mapped) -> None:
        self._mine.pop(segment.name, None)
        segment.close()

    def _after_fork(self) -> None:
        """In a forked child: the locks are the parent's. Closing our duplicates leaves them alone."""
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._lock = _thread.allocate_lock()
            self.close()

    # ------------------------------------------------------------------ reading

    def attach(self, name: str, size: int) -> memoryview:
        """The `size` bytes of a value, writable (writes are private). The segment is ours until no view is left.

        Raises:
            SegmentGone: the value was taken back.
        """
        with self._lock:
            fd = self._pinned.pop(name, -1)
        if fd < 0:
            fd = self._open_locked(name)
        try:
            if not 0 < size <= os.fstat(fd).st_size:
                raise SegmentGone(f"segment {name} has not {size:,} bytes")
            mapping = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)  # the mapping has a duplicate, and so the lock
        populate(mapping)
        return memoryview(mapping)

    def pin(self, name: str) -> bool:
        """Open and lock a value now, to be attached later, so that its name can be released at once."""
        with self._lock:
            if name in self._pinned:
                return True
        try:
            fd = self._open_locked(name)
        except SegmentGone:
            return False
        with self._lock:
            self._pinned[name] = fd
        return True

    def unpin(self, name: str) -> None:
        """Let go of a pinned value that nobody will attach."""
        with self._lock:
            fd = self._pinned.pop(name, -1)
        if fd >= 0:
            os.close(fd)

    def _open_locked(self, name: str) -> int:
        used_as = self._own(name)
        if not used_as:
            raise SegmentGone(f"{name[:80]!r} is not the name of a segment here")
        path = self._path("used", used_as)
        deadline = time.monotonic() + LOCK_WAIT_S
        fd = -1
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    locked = True
                except BlockingIOError:
                    locked = False
                # Looked at after locking: before it, a writer could have come in between.
                if os.stat(path).st_ino != os.fstat(fd).st_ino or time.monotonic() > deadline:
                    raise SegmentGone(f"segment {name} has been taken back")
                if locked:
                    return fd
                time.sleep(0.001)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise SegmentGone(f"segment {name}: {error.strerror}") from None
        except SegmentGone:
            os.close(fd)
            raise

    # ------------------------------------------------------------------

    def close(self) -> None:
        """Let go of everything held here; views that were handed out stay valid."""
        with self._lock:
            for segment in list(self._mine.values()):
                self._forget(segment)
            for fd in self._pinned.values():
                os.close(fd)
            self._pinned.clear()

    def _own(self, name: str) -> str:
        """The name without its scope; '' for one that is not of this scope."""
        found = _NAME.fullmatch(name)
        return found[2] if found and found[1] == self.scope else ""

    def _path(self, where: str, name: str) -> str:
        return f"{self.folder}/{where}/{name}"


def populate(mapping: mmap.mmap) -> None:
    """Have the kernel map all pages of a mapping for reading at once, where it can."""
    try:
        mapping.madvise(_MADV_POPULATE_READ)
    except (AttributeError, OSError, ValueError):
        pass  # they come one by one


def _fill(segment: _Mapped, parts: Sequence[bytes | memoryview]) -> None:
    assert segment.mapping is not None
    at = 0
    with memoryview(segment.mapping) as view:
        for part in parts:
            end = at + len(part)
            view[at:end] = part
            at = end


def _allocate(fd: int, start: int, end: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, end - start)
        return
    zeros = bytes(1024 * 1024)
    while start < end:
        start += os.pwrite(fd, zeros[: end - start], start)


def _files(folder: str, *where: str) -> Iterator[tuple[str, os.stat_result]]:
    for name in where:
        try:
            entries = list(os.scandir(os.path.join(folder, name)))
        except OSError:
            continue
        for entry in entries:
            try:
                yield entry.path, entry.stat(follow_symlinks=False)
            except OSError:
                continue


def _remove_unlocked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino != os.fstat(fd).st_ino:
            return False
        os.unlink(path)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
