"""What a template prints that was opened ahead of need: kept for the first container that is started from it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jitney.ports.runtime import Output
from jitney.values.containers import LogLine

LINES_MAX = 1_000


class HeldOutput:
    """An `Output` that keeps lines until it is told whose they are."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: list[LogLine] = []
        self._dropped = 0
        self._owner = ""

    def __call__(self, lines: Sequence[LogLine]) -> bool:
        """See ports.runtime."""
        if self._owner:
            return self._output([_of(line, self._owner) for line in lines])
        room = max(LINES_MAX - len(self._lines), 0)
        self._lines += lines[:room]
        self._dropped += len(lines[room:])
        return True

    def give(self, container_id: str) -> None:
        """They, and what comes, belong to this container."""
        self._owner = container_id
        lines, self._lines = self._lines, []
        if self._dropped:
            text = f"jitney: {self._dropped:,} lines that were printed before a container needed it were dropped here"
            lines.append(LogLine(lines[-1].at_ms, container_id, 0, text))
        if lines:
            self._output([_of(line, container_id) for line in lines])


def _of(line: LogLine, container_id: str) -> LogLine:
    return msgspec.structs.replace(line, container_id=container_id)
