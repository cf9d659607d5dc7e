"""Logs in lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import msgspec

from jitney.ports.logs import APP_LOG_BYTES_MAX, NOTE, PAGE_LINES_MAX, LogPage, clip, note
from jitney.values import ids
from jitney.values.containers import LogLine


@dataclass
class _Log:
    first: int = 0  # lines that were dropped before
    lines: list[tuple[LogLine, str]] = field(default_factory=list)
    size: int = 0


class MemoryLogs:
    """`ports.logs.LogStore` that forgets all at its end; a position counts lines."""

    def __init__(self, *, bytes_max: int = APP_LOG_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._logs: dict[str, _Log] = {}

    async def append(
        self, app_id: str, lines: Sequence[LogLine], *, functions: Mapping[str, str] | None = None
    ) -> None:
        log = self._logs.setdefault(ids.check(app_id, ids.APP), _Log())
        for line in lines:
            clipped = msgspec.structs.replace(line, text=clip(line.text))
            log.lines.append((clipped, (functions or {}).get(line.container_id, "")))
            log.size += len(clipped.text) + 64
        if log.size > self._bytes_max:
            half = len(log.lines) // 2
            log.first += half
            log.lines = log.lines[half:]
            log.size = sum(len(line.text) + 64 for line, _ in log.lines)

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
        log = self._logs.get(ids.check(app_id, ids.APP), _Log())
        begin = max(0, position - log.first)
        wanted = [
            (at, line)
            for at, (line, of) in enumerate(log.lines[begin:], log.first + begin)
            if line.at_ms >= since_ms
            and (
                (line.fd == NOTE and not line.container_id)
                or (container_id in ("", line.container_id) and function in ("", of))
            )
        ]
        end = log.first + len(log.lines)
        if tail is not None:
            return LogPage([line for _, line in wanted[max(0, len(wanted) - tail) :]], end, False)
        lines = [line for _, line in wanted[:limit]]
        if position < log.first:
            lines.insert(0, note(log.lines[0][0].at_ms if log.lines else 0, f"{log.first:,} older lines were dropped"))
        more = len(wanted) > limit
        return LogPage(lines, wanted[limit][0] if more else end, more)

    async def sweep(self, keep: AbstractSet[str], before_ms: int) -> int:
        gone = [a for a, log in self._logs.items() if a not in keep and log.lines[-1][0].at_ms < before_ms]
        for app_id in gone:
            del self._logs[app_id]
        return len(gone)

    async def close(self) -> None:
        pass
