"""What was written above a version of a volume, on its way to the server: read, left where the server takes it from,
and sent as one commit.

Files are read while somebody may be writing to them: one that changes meanwhile is left out, and reported as such.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jitney.ports.trees import Changes, Stamp, Trees
from jitney.values.volumes import WORKSPACE, Committed
from jitney.wire.home import Home
from jitney.wire.messages import mounts as mm
from jitney.wire.methods import VOLUME_COMMIT_WRITTEN
from jitney.worker.layouts import Request

PART_CHANGES = 10_000  # of a commit, that one message has
RETRY_S = 0.5
ATTEMPTS_MAX = 240  # of a commit that has to be, while the server is away: two minutes


def is_disk_full(error: OSError) -> bool:
    """Whether there was no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Reading(NamedTuple):
    """What a writable layer has that was not committed. `stamps`: of all in it that is, with this; `missed`: the paths
    of files that could not be read as they were found."""

    puts: tuple[mm.MountedPut, ...]
    removes: tuple[str, ...]
    stamps: dict[str, Stamp]
    missed: tuple[str, ...]


class Author(NamedTuple):
    """Who commits. `message` "": the server has one for a container."""

    container_id: str = ""
    message: str = ""


class Written:
    """See the module. `request` asks the server."""

    def __init__(self, home: Home, trees: Trees, request: Request) -> None:
        self._incoming = home.volumes / WORKSPACE / "incoming"
        self._trees = trees
        self._request = request

    async def read(self, upper: Path, known: Mapping[str, Stamp]) -> Reading | None:
        """What changed since `known`, with the contents of files left for the server; None: nothing."""
        changes = await self._trees.changes(upper, known)
        return None if changes.is_empty else await asyncio.to_thread(self._leave, upper, changes)

    def _leave(self, upper: Path, changes: Changes) -> Reading:
        """Copy the files that changed to where the server takes them from. Blocks."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        stamps = dict(changes.stamps)
        puts: list[mm.MountedPut] = []
        missed = []
        reading = Reading((), tuple(changes.removes), stamps, ())
        try:
            for entry in changes.puts:
                if entry.path not in changes.files:
                    puts.append(mm.MountedPut(entry=entry))
                    continue
                name = secrets.token_hex(16)
                if self._copy(upper, entry.path, self._incoming / name, changes.stamps[entry.path]):
                    puts.append(mm.MountedPut(entry=entry, incoming=name))
                else:
                    stamps.pop(entry.path, None)  # it is being written to: next time
                    missed.append(entry.path)
        except BaseException:
            self.forget(reading._replace(puts=tuple(puts)))
            raise
        return reading._replace(puts=tuple(puts), missed=tuple(missed))

    def _copy(self, upper: Path, path: str, target: Path, stamp: Stamp) -> bool:
        """Copy a file that others may write to; False where it is not, or is no more, as it was when it was found."""
        try:
            descriptor = self._trees.open(upper, path)
        except OSError:
            return False
        with open(descriptor, "rb") as reading:
            return _copy_whole(reading, target, stamp)

    def forget(self, reading: Reading) -> None:
        """It will not be sent: what was left for the server goes."""
        for put in reading.puts:
            if put.incoming:
                (self._incoming / put.incoming).unlink(missing_ok=True)

    async def send(self, author: Author, volume_id: str, base: int, reading: Reading) -> Committed:
        """Commit it. In parts where it is much: the server makes one version of them, with the last."""
        key = secrets.token_hex(16)
        puts, removes = reading.puts, reading.removes
        parts: list[tuple[tuple[mm.MountedPut, ...], tuple[str, ...]]]
        parts = [(puts[at : at + PART_CHANGES], ()) for at in range(0, len(puts), PART_CHANGES)]
        parts += [((), removes[at : at + PART_CHANGES]) for at in range(0, len(removes), PART_CHANGES)]
        if len(puts) + len(removes) <= PART_CHANGES:
            parts = [(puts, removes)]
        for number, (some_puts, some_removes) in enumerate(parts):
            request = mm.MountCommit(
                container_id=author.container_id,
                volume_id=volume_id,
                base=base,
                puts=some_puts,
                removes=some_removes,
                key=key,
                message=author.message,
                part=number,
                more=number < len(parts) - 1,
            )
            committed: Committed = await self._request(VOLUME_COMMIT_WRITTEN, request)
        return committed


def _copy_whole(reading: BinaryIO, target: Path, stamp: Stamp) -> bool:
    """Copy what is open; False, and nothing is left, where it does not look as `stamp` says, before or after."""
    if Stamp.of(os.fstat(reading.fileno())) != stamp:
        return False
    try:
        with open(target, "xb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
            size = writing.tell()
    except OSError:
        target.unlink(missing_ok=True)
        raise
    if Stamp.of(os.fstat(reading.fileno())) == stamp and size == stamp.size:
        return True
    target.unlink()
    return False
