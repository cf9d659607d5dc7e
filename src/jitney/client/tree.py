"""Files of this machine that are to be shipped: found, measured, read. Nothing is ever kept in memory as a whole.

Links. A symbolic link is followed as long as it stays in the folder that was named: what it leads to is shipped under
the link's name. One that leads out is refused, as it may be a mistake that ships a home folder; one that leads nowhere
is skipped, as editors leave such.

Changes. A file's digest holds for the size, time and inode that it had; a file that changes while it is read is read
once more, and then refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jitney.client.ignore import FilePatternMatcher, Ignore
from jitney.errors import InvalidError

FILES_MAX = 25_000
TOTAL_BYTES_MAX = 512 * 1024 * 1024
FILE_BYTES_MAX = 48 * 1024 * 1024  # a file goes in one message, and a frame has 64 MiB at most
LOOK_AT_MAX = 10 * FILES_MAX  # to name the largest folders without walking a whole disk
DIGESTS_KEPT = 2 * FILES_MAX
FOLDERS_SHOWN = 3
UNSETTLED_NS = 100_000_000  # a file this young may change again without its time showing it: clocks of disks are coarse
NOT_MEANT = "leave it out by ignore=[...], or copy what it leads to"


class LocalFile(NamedTuple):
    """A file as it was seen. `path` has no links in it."""

    path: Path
    size: int
    mtime_ns: int
    inode: int
    is_executable: bool


def look_at(path: Path) -> LocalFile:
    """One file.

    Raises:
        InvalidError: it is not there, or not a file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise InvalidError(f"{path} cannot be shipped: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidError(f"{path} is not a file", hint="use add_local_dir for folders")
    return _local(path.resolve(), found)


def walk(root: Path, ignore: Ignore) -> Iterator[tuple[str, LocalFile]]:
    """(relative POSIX path, file) of all files below `root` that `ignore` (given relative paths) does not name.

    Sorted within each folder: the same tree always comes in the same order.

    Raises:
        InvalidError: `root` is not a folder, a link leads out of it, or something cannot be read.
    """
    real = root.resolve()
    if not real.is_dir():
        raise InvalidError(f"{root} is not a folder", hint="" if real.exists() else "it does not exist")
    prune = ignore.can_prune if isinstance(ignore, FilePatternMatcher) else False
    yield from _walk(real, real, "", ignore, prune, (real,))


def _walk(
    root: Path, folder: Path, prefix: str, ignore: Ignore, prune: bool, above: tuple[Path, ...]
) -> Iterator[tuple[str, LocalFile]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidError(f"{folder} cannot be read: {error.strerror or error}", hint=NOT_MEANT) from None
    for entry in found:
        relative = prefix + entry.name
        is_ignored = ignore(Path(relative))
        if is_ignored and (prune or not entry.is_dir()):
            continue
        path = Path(entry.path)
        if entry.is_symlink():
            target = _target(root, path)
            if target is None:
                continue
            path = target
        try:
            seen = path.stat()
        except FileNotFoundError:
            continue  # gone since the folder was read
        except OSError as error:
            raise InvalidError(f"{path} cannot be read: {error.strerror or error}", hint=NOT_MEANT) from None
        if stat.S_ISDIR(seen.st_mode):
            if path not in above:  # a link to a folder above would never end
                yield from _walk(root, path, relative + "/", ignore, prune, (*above, path))
        elif stat.S_ISREG(seen.st_mode) and not is_ignored:  # sockets, pipes and devices have no content to ship
            yield relative, _local(path, seen)


def _target(root: Path, link: Path) -> Path | None:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):
        return None  # a link to itself
    if not target.is_relative_to(root):
        if not target.exists():
            return None
        raise InvalidError(f"the link {link} leads out of {root}, to {target}", hint=NOT_MEANT)
    return target if target.exists() else None


def _local(path: Path, found: os.stat_result) -> LocalFile:
    return LocalFile(path, found.st_size, found.st_mtime_ns, found.st_ino, bool(found.st_mode & 0o111))


def check_limits(files: Iterable[tuple[str, LocalFile]]) -> dict[str, LocalFile]:
    """The files by remote path; the later of two that have the same path counts.

    Raises:
        InvalidError: too many, or too large; the message names the largest folders.
    """
    found: dict[str, LocalFile] = {}
    for remote, file in files:
        found[remote] = file
        if file.size > FILE_BYTES_MAX:
            raise InvalidError(
                f"{file.path} has {_mib(file.size)}, and a shipped file may have {_mib(FILE_BYTES_MAX)}",
                hint="read it where it is: containers of this runtime see the machine's files",
            )
        if len(found) > LOOK_AT_MAX:
            break
    total = sum(file.size for file in found.values())
    if len(found) <= FILES_MAX and total <= TOTAL_BYTES_MAX:
        return found
    folders: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for remote, file in found.items():
        top = "/".join(remote.split("/")[:2]) if "/" in remote else "."
        folders[top] += file.size
        counts[top] += 1
    ranked = (folders if total > TOTAL_BYTES_MAX else counts).most_common(FOLDERS_SHOWN)
    largest = ", ".join(f"{name} ({counts[name]:,} files, {_mib(folders[name])})" for name, _ in ranked)
    many = "over " if len(found) > LOOK_AT_MAX else ""
    raise InvalidError(
        f"{many}{len(found):,} files of {_mib(total)} are too much to ship (the limits are {FILES_MAX:,} files "
        f"and {_mib(TOTAL_BYTES_MAX)})",
        hint=f"the largest are {largest}; leave them out by ignore=[...]",
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


_digests: OrderedDict[tuple[Path, int, int, int], str] = OrderedDict()


def digest(file: LocalFile) -> tuple[LocalFile, str]:
    """The sha256 (hex) of a file, with the file as it was then: seen before and unchanged, it is not read again.

    Raises:
        InvalidError: it vanished, or kept changing while it was read.
    """
    for _ in range(2):
        key = (file.path, file.size, file.mtime_ns, file.inode)
        known = _digests.pop(key, None)
        if known is not None:
            _digests[key] = known  # the one used last is dropped last
            return file, known
        computed, now = _read_digest(file)
        if now == file:
            if time.time_ns() - file.mtime_ns > UNSETTLED_NS:
                _digests[key] = computed
                while len(_digests) > DIGESTS_KEPT:
                    _digests.popitem(last=False)
            return file, computed
        file = now
    raise _changed(file)


def _read_digest(file: LocalFile) -> tuple[str, LocalFile]:
    try:
        with file.path.open("rb") as stream:
            computed = hashlib.file_digest(stream, "sha256").hexdigest()
            return computed, _local(file.path, os.fstat(stream.fileno()))
    except OSError as error:
        raise InvalidError(f"{file.path} cannot be read: {error.strerror or error}", hint=NOT_MEANT) from None


def content(file: LocalFile, expected: str) -> bytes:
    """The bytes that have the digest `expected`.

    Raises:
        InvalidError: the file has others by now, also when read a second time.
    """
    for _ in range(2):
        try:
            data = file.path.read_bytes()
        except OSError as error:
            raise InvalidError(f"{file.path} cannot be read: {error.strerror or error}", hint=NOT_MEANT) from None
        if hashlib.sha256(data).hexdigest() == expected:
            return data
    raise _changed(file)


def _changed(file: LocalFile) -> InvalidError:
    return InvalidError(f"{file.path} changed while it was read", hint="run again, or leave it out by ignore=[...]")
