"""Reports on their way to the server: kept in order until acknowledged, merged into batches, bounded. No I/O here.

Log lines are refused beyond LOG_BYTES_MAX (the runtime counts what is refused, and says so in the log itself); other
reports are few, as each container has two, or are bounded by whoever reads them (the output of commands), and are never
refused. One batch is under way at a time: that keeps the
order, and while the server takes one, the next grows, so that batches become larger just when that is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from jitney.values.containers import LogLine
from jitney.wire.messages.workers import BuildLine, ContainerLogs, ExecOutput, WorkerReport

LOG_BYTES_MAX = 16 * 1024 * 1024
BATCH_LINES_MAX = 1_024
BATCH_BYTES_MAX = 4 * 1024 * 1024
BATCH_REPORTS_MAX = 256
ENTRIES_MAX = 100_000
LINE_BYTES = 150  # what a line costs in memory besides its text


class Outbox:
    """See the module."""

    def __init__(self, log_bytes_max: int = LOG_BYTES_MAX) -> None:
        self._log_bytes_max = log_bytes_max
        self._entries: deque[WorkerReport | LogLine] = deque()
        self._sent: list[WorkerReport | LogLine] = []
        self.log_bytes = 0
        self._urgent = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self._sent)

    @property
    def waits(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._entries)

    @property
    def has_urgent(self) -> bool:
        """Whether something other than log lines waits to be taken."""
        return self._urgent > 0

    @property
    def lines_waiting(self) -> int:
        """Entries that wait: lines, but for a few."""
        return len(self._entries)

    def add(self, report: WorkerReport) -> None:
        """Any report but log lines. A line of a build is dropped when very much waits: its error has the last ones."""
        if isinstance(report, BuildLine) and report.line and len(self._entries) >= ENTRIES_MAX:
            return
        self._entries.append(report)
        self._urgent += 1

    def add_lines(self, lines: Sequence[LogLine]) -> bool:
        """Log lines: all or none are taken. Notes of what was dropped (descriptor 0) always are, as they are few."""
        size = sum(map(_cost, lines))
        if self.log_bytes + size > self._log_bytes_max and any(line.fd for line in lines):
            return False
        self.log_bytes += size
        self._entries.extend(lines)
        return True

    def take(self) -> tuple[WorkerReport, ...]:
        """The next batch; () if nothing waits, or one is under way."""
        if self._sent or not self._entries:
            return ()
        batch: list[WorkerReport] = []
        lines: list[LogLine] = []
        size = count = 0
        entries, sent = self._entries, self._sent
        while entries and count < BATCH_LINES_MAX and size < BATCH_BYTES_MAX and len(batch) < BATCH_REPORTS_MAX:
            entry = entries.popleft()
            sent.append(entry)
            if isinstance(entry, LogLine):
                lines.append(entry)
                size += _cost(entry)
                count += 1
                continue
            self._urgent -= 1
            if isinstance(entry, ExecOutput):
                size += len(entry.data)
            if lines:
                batch.append(ContainerLogs(lines=tuple(lines)))
                lines = []
            batch.append(entry)
        if lines:
            batch.append(ContainerLogs(lines=tuple(lines)))
        return tuple(batch)

    def acknowledged(self) -> None:
        """The server has the batch."""
        for entry in self._sent:
            if isinstance(entry, LogLine):
                self.log_bytes -= _cost(entry)
        self._sent = []

    def give_back(self) -> None:
        """The batch may not have arrived: it is the next one again."""
        if self._sent:
            self._entries.extendleft(reversed(self._sent))
            self._urgent += sum(not isinstance(entry, LogLine) for entry in self._sent)
            self._sent = []


def _cost(line: LogLine) -> int:
    return len(line.text) + LINE_BYTES
