"""What goes to the terminal: users' text made safe, tables, JSON, and errors as what, why and what to do
next.

Text from containers may hold anything. Colours (SGR sequences) pass; whatever could move the cursor, set the
title, change modes or overwrite what is already on the screen does not.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from jitney.errors import JitneyError

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(
    r"(?P<sgr>\x1b\[[0-9;:]*m)"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # OSC: titles, links, clipboard
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\|$)"  # DCS, SOS, PM, APC
    r"|\x1b\[[0-?]*[ -/]*(?:[@-~]|$)"  # CSI: cursor, erasing, modes
    r"|\x1b[ -/]*(?:[0-~]|$)"  # short escapes
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # C0 but tab, newline and return; DEL; C1
    r"|[\u202a-\u202e\u2066-\u2069]"  # text that shows in another order than it is in
)


def safe_line(text: str) -> str:
    """One line of a container's output as it may be shown: colours stay, and end with the line.

    A carriage return starts the line over, as a terminal would show it: what is after the last one counts.

    >>> safe_line("50%\\r100%\\x1b[2J")
    '100%'
    """
    text = text.replace("\n", " ").rstrip("\r").rpartition("\r")[2]
    clean = _CONTROL.sub(lambda match: match["sgr"] or "", text)
    codes = _SGR.findall(clean)
    return clean + "\x1b[0m" if codes and codes[-1] not in ("\x1b[0m", "\x1b[m") else clean


def write_json(value: Any) -> None:
    """`value` (Structs included) as indented JSON on standard output."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Rows under headings, in columns; `empty` where there are none. Plain text: it is made to be grepped."""
    cells = [[safe_line(str(cell)) for cell in row] for row in rows]
    if not cells:
        print(empty)
        return
    widths = [max(len(row[i]) for row in [list(headings), *cells]) for i in range(len(headings))]
    for row in [[heading.upper() for heading in headings], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def ago(at_ms: int | None, now_ms: int | None = None) -> str:
    """How long ago a Unix time is, in one unit: '3 min'.

    >>> ago(0, 200_000)
    '3 min'
    """
    if at_ms is None:
        return "-"
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    return span(max(0, now_ms - at_ms))


def span(duration_ms: float) -> str:
    """A duration in the unit that a person would use.

    >>> [span(x) for x in (0.4, 42, 1500, 200_000, 7_300_000, 200_000_000)]
    ['0 ms', '42 ms', '1.5 s', '3 min', '2 h', '2 d']
    """
    if duration_ms < 1_000:
        return f"{duration_ms:.0f} ms"
    for limit, unit, name in ((60_000, 1_000, "s"), (3_600_000, 60_000, "min"), (86_400_000, 3_600_000, "h")):
        if duration_ms < limit:
            return f"{duration_ms / unit:.1f} {name}" if name == "s" else f"{duration_ms // unit:.0f} {name}"
    return f"{duration_ms // 86_400_000:.0f} d"


def amount(size: int) -> str:
    """Bytes in the unit that a person would use.

    >>> [amount(x) for x in (12, 5_000, 3 << 20, 5 << 30, 7 << 40)]
    ['12 B', '4.9 KiB', '3.0 MiB', '5.0 GiB', '7.0 TiB']
    """
    if size < 1024:
        return f"{size} B"
    for power, unit in ((1, "KiB"), (2, "MiB"), (3, "GiB")):
        if size < 1 << (10 * (power + 1)):
            return f"{size / (1 << (10 * power)):.1f} {unit}"
    return f"{size / (1 << 40):,.1f} TiB"


def clock(at_ms: int) -> str:
    """A Unix time as local wall time with ms, for log lines."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) + f".{at_ms % 1000:03d}"


def error(what: str, *, why: str = "", fix: str = "", to: TextIO | None = None) -> None:
    """An error for a person: what happened, why, and what to do next, each on its line."""
    stream = to or sys.stderr
    bold, off = ("\x1b[1;31m", "\x1b[0m") if _colours(stream) else ("", "")
    stream.write(f"{bold}error:{off} {what}\n")
    for label, text in (("why", why), ("next", fix)):
        if text:
            first, *rest = text.splitlines()
            stream.write("".join([f"  {label + ':':<6}{first}\n", *(f"        {line}\n" for line in rest)]))
    stream.flush()


def jitney_error(problem: JitneyError, *, at: str = "") -> None:
    """An error of ours, without a traceback; `at` is the line of the user's that led to it."""
    what, _, why = problem.message.partition("\n")
    lines = [*why.splitlines(), *([f"at {at}"] if at else [])]
    error(safe_line(what) or type(problem).__name__, why="\n".join(map(safe_line, lines)), fix=problem.hint)


def note(text: str) -> None:
    """A line for the person at the terminal, beside the output: on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _colours(stream: TextIO) -> bool:
    import os

    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def parse_since(text: str, now_ms: int) -> int:
    """The Unix ms meant by `10m`, `2h`, `1d`, `30s`, or an ISO 8601 time.

    Raises:
        ValueError: neither.

    >>> parse_since("2m", 200_000)
    80000
    """
    match = re.fullmatch(r"(\d+)\s*(ms|s|m|min|h|d)", text.strip())
    if match:
        unit = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}[match[2]]
        return now_ms - int(match[1]) * unit
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp() * 1000)


def dumps(value: Any) -> str:
    """A value on one line of JSON, for messages."""
    return json.dumps(value, default=str, ensure_ascii=False)
