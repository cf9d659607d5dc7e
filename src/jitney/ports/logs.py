"""What containers wrote, by app.

The contract, for every driver:

 1. `append` keeps lines in the order given, and a read sees every append that gave before it began. Lines survive the
    end of the process; those of its last moments may be lost with the power. A line that was cut off is left out.
 2. `append` never fails for the sake of a log: lines that the disk does not take are dropped and counted, and a line
    with descriptor 0 says how many as soon as there is room.
 3. The log of an app is kept to a size. Beyond it the older half is dropped, and reading from the beginning starts
    with a line with descriptor 0 that says how many are missing.
 4. A line is kept to `LINE_BYTES_MAX` bytes of UTF-8; what is cut off it is said at its end.
 5. Reading is by pages of bounded size. `position` is opaque, and goes on where a page ended, also across dropping
    and across restarts; one that was dropped meanwhile goes on with what is left.
 6. Text is kept as it is, with line breaks inside it; terminals are to be protected by whoever prints it.
 7. An app id that is none is refused with InvalidError before a file is touched. An app without a log has no lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import msgspec

from jitney.values.containers import LogLine

APP_LOG_BYTES_MAX = 64 * 1024 * 1024
LINE_BYTES_MAX = 64 * 1024
PAGE_BYTES_MAX = 4 * 1024 * 1024
PAGE_LINES_MAX = 10_000
NOTE = 0  # descriptor of lines that are not the container's


class LogPage(msgspec.Struct, frozen=True):
    """Lines, where to go on, and whether there is more already."""

    lines: list[LogLine]
    position: int
    more: bool


class LogStore(Protocol):
    """Logs by app."""

    async def append(
        self, app_id: str, lines: Sequence[LogLine], *, functions: Mapping[str, str] | None = None
    ) -> None:
        """Keep lines. `functions`: the name of each container's function, by container id."""

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
        """Lines from `position` (0: the beginning) on, in order: of one container, of one function, since a time.

        With `tail` instead the last so many of those lines, at most `PAGE_LINES_MAX`; the page ends at the end.
        """

    async def sweep(self, keep: AbstractSet[str], before_ms: int) -> int:
        """Remove the logs of apps not in `keep` that got no line since: how many."""

    async def close(self) -> None:
        """End what waits."""


def clip(text: str) -> str:
    """`text` within the limit of a line."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= LINE_BYTES_MAX:
        return data.decode()
    kept = data[: LINE_BYTES_MAX - 64].decode("utf-8", "ignore")
    return f"{kept}… ({len(data) - len(kept.encode()):,} more bytes)"


def note(at_ms: int, text: str) -> LogLine:
    """A line of ours."""
    return LogLine(at_ms, "", NOTE, f"… {text}")
