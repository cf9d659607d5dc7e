"""Logs as text files: `<app id>.log`, and the older half of a long one in `<app id>.old.log`.

When the newer file has half the size that an app may have, it takes the place of the older one. That drops the oldest
lines by one rename: nothing is copied, and a kill at any moment leaves whole files. Writing is by one thread, which
keeps the order; files are opened for each batch, so that ten thousand apps do not take ten thousand descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jitney.drivers.logs.files import segments
from jitney.ports.logs import (
    APP_LOG_BYTES_MAX,
    NOTE,
    PAGE_BYTES_MAX,
    PAGE_LINES_MAX,
    LogPage,
    clip,
    note,
)
from jitney.values import ids
from jitney.values.containers import LogLine

log = logging.getLogger(__name__)

APPS_KNOWN_MAX = 1_000  # whose sizes are kept in memory; others are looked up again
NEW, OLD = ".log", ".old.log"


@dataclass
class _Tail:
    """The end of an app's log, where lines are added."""

    header: segments.Header
    size: int
    lines: int
    dropped: int = 0  # lines that the disk did not take, not noted yet


@dataclass(frozen=True)
class _Query:
    """Which lines are asked for."""

    container_id: str
    function: str
    since_ms: int

    def wants(self, line: LogLine, function: str) -> bool:
        """Whether a line is among them. Notes belong to all."""
        if line.at_ms < self.since_ms:
            return False
        if line.fd == NOTE and not line.container_id:
            return True
        return self.container_id in ("", line.container_id) and self.function in ("", function)


class LogFiles:
    """`ports.logs.LogStore` in a folder. `bytes_max`: of one app."""

    def __init__(self, folder: Path, *, bytes_max: int = APP_LOG_BYTES_MAX) -> None:
        self._folder = folder
        self._half = bytes_max // 2
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._renaming = threading.Lock()  # a reader opens both files of one moment
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="logs")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def append(
        self, app_id: str, lines: Sequence[LogLine], *, functions: Mapping[str, str] | None = None
    ) -> None:
        ids.check(app_id, ids.APP)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, self._append, app_id, list(lines), dict(functions or {}))

    async def read(
        self,
        app_id: str,
        *,
        container_id: str = "",
        function: str = "",
        since_ms: int = 0,
        tail: int | None = None,
        position: int = 0,
        limit: int = PAGE_LINES_MAX,
    ) -> LogPage:
        ids.check(app_id, ids.APP)
        query = _Query(container_id, function, since_ms)
        if tail is not None:
            return await asyncio.to_thread(self._read_tail, app_id, query, min(tail, PAGE_LINES_MAX))
        return await asyncio.to_thread(self._read_on, app_id, query, position, min(limit, PAGE_LINES_MAX))

    async def sweep(self, keep: AbstractSet[str], before_ms: int) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writing, self._sweep, frozenset(keep), before_ms)

    async def close(self) -> None:
        await asyncio.to_thread(self._writing.shutdown)

    # ------------------------------------------------------------------------------------------ writing

    def _append(self, app_id: str, lines: list[LogLine], functions: dict[str, str]) -> None:
        batch: list[bytes] = []
        size = 0
        for line in lines:
            raw = segments.encode(line, clip(line.text), functions.get(line.container_id, ""))
            if batch and size + len(raw) > self._half // 4:
                self._write(app_id, batch, line.at_ms)
                batch, size = [], 0
            batch.append(raw)
            size += len(raw)
        if batch:
            self._write(app_id, batch, lines[-1].at_ms)

    def _write(self, app_id: str, batch: list[bytes], at_ms: int) -> None:
        tail = None
        try:
            tail = self._tail(app_id)
            if tail.dropped:
                text = f"{tail.dropped:,} lines were dropped here: the disk did not take them"
                batch = [segments.encode(note(at_ms, text), f"… {text}", ""), *batch]
            data = b"".join(batch)
            if tail.size + len(data) > self._half and tail.lines:
                tail = self._rotate(app_id, tail)
            self._put(self._path(app_id, NEW), tail, data)
            tail.size += len(data)
            tail.lines += len(batch)
            tail.dropped = 0
        except OSError as error:
            log.warning("log_lines_dropped", extra={"app_id": app_id, "lines": len(batch), "error": str(error)})
            if tail is None:
                tail = self._tails.setdefault(app_id, _Tail(segments.new_header(0, 0), 0, 0))
                tail.size = -1  # to be looked up again
            tail.dropped += len(batch) - (1 if tail.dropped else 0)

    def _put(self, path: Path, tail: _Tail, data: bytes) -> None:
        """Add to the file; what was written in part is taken back."""
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if tail.size == 0:
                _write_at(file, tail.header.line, 0)
                tail.size = tail.header.size
            try:
                _write_at(file, data, tail.size)
            except OSError:
                os.ftruncate(file, tail.size)
                raise
        finally:
            os.close(file)

    def _tail(self, app_id: str) -> _Tail:
        """Where the app's log ends, with what a kill cut off removed."""
        known = self._tails.get(app_id)
        if known is not None and known.size >= 0:
            self._tails.move_to_end(app_id)
            return known
        path, older = self._path(app_id, NEW), self._path(app_id, OLD)
        if path.exists() and path.stat().st_size:
            header, size, lines = segments.whole_size(path)
            os.truncate(path, size)
            tail = _Tail(header, size, lines)
        elif older.exists():  # killed between the rename and the first line after it
            header, size, lines = segments.whole_size(older)
            before = header.bytes_before + size - header.size
            tail = _Tail(segments.new_header(before, header.lines_before + lines), 0, 0)
        else:
            tail = _Tail(segments.new_header(0, 0), 0, 0)
        tail.dropped = known.dropped if known else 0
        self._tails[app_id] = tail
        while len(self._tails) > APPS_KNOWN_MAX:
            self._tails.popitem(last=False)
        return tail

    def _rotate(self, app_id: str, tail: _Tail) -> _Tail:
        """Begin a new file; the one before the last is dropped."""
        with self._renaming:
            os.replace(self._path(app_id, NEW), self._path(app_id, OLD))
        before = tail.header.bytes_before + tail.size - tail.header.size
        fresh = _Tail(segments.new_header(before, tail.header.lines_before + tail.lines), 0, 0, tail.dropped)
        self._tails[app_id] = fresh
        return fresh

    def _sweep(self, keep: frozenset[str], before_ms: int) -> int:
        removed = set()
        for path in self._folder.glob("*.log"):
            app_id = path.name.split(".")[0]
            if not ids.is_id(app_id, ids.APP) or app_id in keep:
                continue
            try:
                if path.stat().st_mtime_ns // 1_000_000 < before_ms:
                    path.unlink()
                    removed.add(app_id)
                    self._tails.pop(app_id, None)
            except OSError:
                continue
        return len(removed)

    def _path(self, app_id: str, suffix: str) -> Path:
        return self._folder / f"{app_id}{suffix}"

    # ------------------------------------------------------------------------------------------ reading

    def _open(self, app_id: str, stack: ExitStack) -> list[tuple[BinaryIO, segments.Header]]:
        """The files of this moment, older first."""
        files = []
        with self._renaming:
            for suffix in (OLD, NEW):
                try:
                    files.append(stack.enter_context(self._path(app_id, suffix).open("rb")))
                except FileNotFoundError:
                    continue
        return [(file, segments.read_header(file)) for file in files]

    def _read_on(self, app_id: str, query: _Query, position: int, limit: int) -> LogPage:
        with ExitStack() as stack:
            files = self._open(app_id, stack)
            page = _Page(position)
            if files and position < files[0][1].bytes_before:
                page.skip_to(files[0][1])
            for raw, end in _lines(files, page.position):
                if page.is_full(limit):
                    return LogPage(page.lines, page.position, True)
                page.take(raw, end, query)
            return LogPage(page.finish(), page.position, False)

    def _read_tail(self, app_id: str, query: _Query, count: int) -> LogPage:
        with ExitStack() as stack:
            files = self._open(app_id, stack)
            found: list[LogLine] = []
            end = 0
            if files:
                file, header = files[-1]
                end = header.bytes_before + _whole_end(file, header) - header.size
            size = 0
            for file, header in reversed(files):
                for raw in segments.backwards(file, header.size):
                    if len(found) >= count or size > PAGE_BYTES_MAX:
                        break
                    decoded = segments.decode(raw)
                    if decoded and query.wants(*decoded):
                        found.append(decoded[0])
                        size += len(raw)
            return LogPage(found[::-1], end, False)


class _Page:
    """A page that is being read."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.lines: list[LogLine] = []
        self._size = 0
        self._damaged = 0
        self._missing = 0

    def skip_to(self, header: segments.Header) -> None:
        """Go on with what is left of a log whose beginning was dropped."""
        self.position = header.bytes_before
        self._missing = header.lines_before

    def is_full(self, limit: int) -> bool:
        return len(self.lines) >= limit or self._size > PAGE_BYTES_MAX

    def take(self, raw: bytes, end: int, query: _Query) -> None:
        """Look at a line."""
        self.position = end
        decoded = segments.decode(raw)
        if decoded is None:
            self._damaged += 1
            return
        self._say(decoded[0].at_ms)
        if query.wants(*decoded):
            self.lines.append(decoded[0])
            self._size += len(raw)

    def finish(self) -> list[LogLine]:
        """The lines, with what is to be said at their end."""
        self._say(self.lines[-1].at_ms if self.lines else 0)
        return self.lines

    def _say(self, at_ms: int) -> None:
        if self._missing:
            self.lines.append(note(at_ms, f"{self._missing:,} older lines were dropped: the log of an app is bounded"))
            self._missing = 0
        if self._damaged:
            self.lines.append(note(at_ms, f"{self._damaged:,} damaged lines were left out"))
            self._damaged = 0


def _lines(files: list[tuple[BinaryIO, segments.Header]], position: int) -> Iterator[tuple[bytes, int]]:
    """(line, position after it) of whole lines from a position on."""
    for file, header in files:
        at = header.bytes_before
        skip = max(0, position - at)
        file.seek(header.size + skip)
        at += skip
        for raw in file:
            if not raw.endswith(b"\n"):
                break  # it is being written, or was cut off
            at += len(raw)
            yield raw, at


def _whole_end(file: BinaryIO, header: segments.Header) -> int:
    """Where the last whole line of a file ends."""
    size = at = file.seek(0, os.SEEK_END)
    while at > header.size:
        begin = max(header.size, at - segments.BLOCK_BYTES)
        file.seek(begin)
        block = file.read(at - begin)
        if b"\n" in block:
            return min(size, begin + block.rindex(b"\n") + 1)
        at = begin
    return header.size


def _write_at(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, at)
        view, at = view[count:], at + count
