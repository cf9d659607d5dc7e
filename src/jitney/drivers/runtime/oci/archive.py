"""Root file systems as tar streams: of folders that are layers of an overlay, merged as the kernel would show them.

What layers hold was written by builds of tenants: nothing in them is followed, and only plain files are opened.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

import msgspec

from jitney.drivers.runtime.oci.render import Entry

CHUNK_BYTES = 1024 * 1024
BLOCK = 512
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Something in a merged root: its path there, and the file that it is."""

    path: str
    source: str
    status: os.stat_result


def merge(layers: Sequence[str]) -> Iterator[Member]:
    """All that is visible of layers, the lowest first; folders before what they hold."""
    yield from _merge_folder("", [*reversed(layers)])


def _merge_folder(path: str, stack: list[str]) -> Iterator[Member]:
    """`stack`: the folders that together are the one at `path`, the highest first."""
    found: dict[str, list[os.DirEntry[str]]] = {}
    closed: set[str] = set()  # names that nothing further down adds to
    for folder in stack:
        for entry in sorted(_entries(folder), key=lambda one: one.name):
            name = entry.name
            if name in closed:
                continue
            if not entry.is_dir(follow_symlinks=False):
                closed.add(name)
                if not found.get(name) and not _is_whiteout(entry):
                    found[name] = [entry]
                continue
            found.setdefault(name, []).append(entry)
            if _is_opaque(entry.path):
                closed.add(name)
    for name, entries in sorted(found.items()):
        top = entries[0]
        where = f"{path}/{name}" if path else name
        yield Member(path=where, source=top.path, status=top.stat(follow_symlinks=False))
        if top.is_dir(follow_symlinks=False):
            yield from _merge_folder(where, [one.path for one in entries])


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_whiteout(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def pack(members: Iterable[Member], extra: Iterable[Entry], *, first_id: int) -> Iterator[bytes]:
    """The tar of a root: its members, then what is added to it. Ids from `first_id` on are those from 0 on."""
    linked: dict[tuple[int, int], str] = {}
    seen: set[str] = set()
    for member in members:
        seen.add(member.path)
        yield from _pack_member(member, linked, first_id)
    for entry in extra:
        if entry.path not in seen:
            yield _pack_entry(entry)
    yield bytes(2 * BLOCK)


def _pack_entry(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    info.type = tarfile.SYMTYPE if entry.link else tarfile.DIRTYPE
    info.linkname = entry.link
    return info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")


def _pack_member(member: Member, linked: dict[tuple[int, int], str], first_id: int) -> Iterator[bytes]:
    status = member.status
    info = tarfile.TarInfo(member.path)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = (one - first_id if one >= first_id else one for one in (status.st_uid, status.st_gid))
    info.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(member.source)
    elif not stat.S_ISREG(status.st_mode):
        return  # devices and sockets are of no use in a container
    elif (first := linked.get((status.st_dev, status.st_ino))) is not None:
        info.type, info.linkname = tarfile.LNKTYPE, first
    else:
        if status.st_nlink > 1:
            linked[status.st_dev, status.st_ino] = member.path
        yield from _pack_file(info, member)
        return
    yield info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")


def _pack_file(info: tarfile.TarInfo, member: Member) -> Iterator[bytes]:
    fd = os.open(member.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        info.size = left = os.fstat(fd).st_size
        yield info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")
        while left:
            chunk = os.read(fd, min(CHUNK_BYTES, left)) or bytes(min(CHUNK_BYTES, left))  # it was cut meanwhile
            left -= len(chunk)
            yield chunk
        yield bytes(-info.size % BLOCK)
    finally:
        os.close(fd)


async def stream(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same, made in a thread, in pieces that are worth a request's while."""
    while piece := await asyncio.to_thread(_gather, chunks):
        yield piece


def _gather(chunks: Iterator[bytes]) -> bytes:
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= CHUNK_BYTES:
            break
    return b"".join(parts)
