"""From the bytes that a container prints to lines, at a bounded rate. No I/O here.

A container may print a gigabyte a second, without a newline, or not in UTF-8. Three rules keep the machine well:
a line is at most LINE_BYTES_MAX long (more is cut, and each further piece says so with CONTINUATION in front); what is
kept per container is one unfinished line per descriptor; and lines above RATE_BYTES_PER_S (after a burst of
BURST_BYTES) are dropped and counted. Once it drops, it drops until a second's worth of allowance has come back: so
there is one note a second in a flood, and not one a chunk.
"""

from __future__ import annotations

from jitney.values.containers import CONTINUATION, LogLine

LINE_BYTES_MAX = 64 * 1024
RATE_BYTES_PER_S = 8 * 1024 * 1024
BURST_BYTES = 16 * 1024 * 1024
SHARE_PERCENT = {1: 75, 2: 25}  # so that a flood of output does not hide the traceback that ends it
LINE_COST_BYTES = 64  # what a line costs us besides its text: empty lines are not free
NOTE = 0  # the descriptor of lines that are Jitney's own


class LineCutter:
    """Cuts one descriptor's bytes into lines, without their newline.

    >>> cutter = LineCutter()
    >>> cutter.feed(b"one\\ntw"), cutter.feed(b"o\\n"), cutter.flush()
    (['one'], ['two'], [])
    """

    def __init__(self) -> None:
        self._rest = b""
        self._continues = False

    def feed(self, data: bytes) -> list[str]:
        """The lines (and pieces of long lines) that are whole now."""
        has_returns = b"\r" in data
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n")
        lines: list[str] = []
        if end >= 0:
            whole, data = data[:end], data[end + 1 :]
            if len(whole) <= LINE_BYTES_MAX and not self._continues:
                lines = whole.decode("utf-8", "replace").split("\n")  # the fast path: one decode for all
            else:
                for raw in whole.split(b"\n"):
                    lines += self._pieces(raw)
                    self._continues = False
        while len(data) > LINE_BYTES_MAX:
            cut = _boundary(data)
            lines.append(self._piece(data[:cut]))
            data = data[cut:]
        self._rest = data
        return [line.removesuffix("\r") for line in lines] if has_returns else lines

    def skip(self, data: bytes) -> int:
        """Pass over data; the number of lines that ended in it."""
        count = data.count(b"\n")
        if count:
            self._rest, self._continues = data[data.rfind(b"\n") + 1 :], False
        else:
            self._rest, self._continues = b"", True
        return count

    def flush(self) -> list[str]:
        """The line that has no newline yet."""
        rest, self._rest = self._rest, b""
        return [self._piece(rest)] if rest else []

    def _pieces(self, raw: bytes) -> list[str]:
        pieces = []
        while len(raw) > LINE_BYTES_MAX:
            cut = _boundary(raw)
            pieces.append(self._piece(raw[:cut]))
            raw = raw[cut:]
        pieces.append(self._piece(raw))
        return pieces

    def _piece(self, raw: bytes) -> str:
        text = raw.decode("utf-8", "replace")
        if self._continues:
            return CONTINUATION + text
        self._continues = True
        return text


def _boundary(data: bytes) -> int:
    """Where to cut so that no UTF-8 character is torn: at most 3 bytes before the limit."""
    for cut in range(LINE_BYTES_MAX, LINE_BYTES_MAX - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return LINE_BYTES_MAX


class OutputGate:
    """The output of one descriptor of a container, at its share of the rate. Times are seconds, monotonic."""

    def __init__(self, container_id: str, fd: int, now_s: float) -> None:
        self._container_id = container_id
        self._fd = fd
        self._cutter = LineCutter()
        self._rate = RATE_BYTES_PER_S * SHARE_PERCENT[fd] // 100
        self._burst = BURST_BYTES * SHARE_PERCENT[fd] // 100
        self._allowance = float(self._burst)
        self._at_s = now_s
        self._dropped_lines = 0
        self._dropped_bytes = 0
        self._noted = (0, 0)  # what the last note said: counted again when the reader refuses the note
        self.is_dropping = False

    def feed(self, data: bytes, *, at_ms: int, now_s: float) -> list[LogLine]:
        """The lines to deliver for what was read, with a note in front if lines before them were dropped."""
        self._allowance = min(float(self._burst), self._allowance + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self.is_dropping:
            if self._allowance < self._rate:
                self._dropped_lines += self._cutter.skip(data)
                self._dropped_bytes += len(data)
                return []
            self.is_dropping = False
        texts = self._cutter.feed(data)
        self._allowance -= len(data) + LINE_COST_BYTES * len(texts)
        self.is_dropping = self._allowance <= 0  # from the next read on
        if not texts:
            return []
        return [*self._note(at_ms), *self._lines(texts, at_ms)]

    def refused(self, lines: list[LogLine]) -> None:
        """The reader had no room for these lines: they count as dropped."""
        for line in lines:
            more, size = self._noted if line.fd == NOTE else (1, len(line.text) + 1)
            self._dropped_lines += more
            self._dropped_bytes += size

    def finish(self, *, at_ms: int) -> list[LogLine]:
        """The unfinished line, and the last note."""
        return [*self._note(at_ms), *self._lines(self._cutter.flush(), at_ms)]

    def _lines(self, texts: list[str], at_ms: int) -> list[LogLine]:
        name, fd = self._container_id, self._fd
        return [LogLine(at_ms, name, fd, text) for text in texts]

    def _note(self, at_ms: int) -> list[LogLine]:
        if not self._dropped_bytes:
            return []
        lines, size = self._noted = (self._dropped_lines, self._dropped_bytes)
        self._dropped_lines = self._dropped_bytes = 0
        return [LogLine(at_ms, self._container_id, NOTE, dropped_note(self._fd, lines, size))]


def dropped_note(fd: int, lines: int, size: int) -> str:
    """What a reader of the log is told about what is missing."""
    name = "standard error" if fd == 2 else "standard output"
    return f"jitney: {lines:,} lines ({size:,} bytes) of {name} were dropped here: more came than the log takes"
