"""What people are told of a pull, in lines."""

from __future__ import annotations

from jitney.ports.pulls import OnLine

MB = 1_000_000
STEPS = 10  # lines for the whole of a download


class Progress:
    """Bytes that are here, of a total: a line for each tenth."""

    def __init__(self, total: int, on_line: OnLine) -> None:
        self._total = total
        self._on_line = on_line
        self._count = 0
        self._told = 0

    def add(self, count: int) -> None:
        """So many more; negative where a download starts again."""
        self._count += count
        step = self._count * STEPS // self._total if self._total else 0
        if step > self._told and self._total >= MB:
            self._told = step
            self._on_line(f"downloaded {self._count / MB:,.1f} of {self._total / MB:,.1f} MB")


def careful(on_line: OnLine) -> OnLine:
    """`on_line`, until it raises: a reader that went away is no reason to stop a pull."""
    broken = False

    def tell(line: str) -> None:
        nonlocal broken
        if broken:
            return
        try:
            on_line(line)
        except Exception:
            broken = True

    return tell
