"""What containers use, for `jitney container stats`: two looks at the counters make a rate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from jitney.cli import terminal
from jitney.values.containers import ContainerRecord, Measured
from jitney.wire.messages.containers import ContainerStats, ContainerStatsAnswer

LOOK_S = 0.5  # between the two looks of a single answer
WATCH_S = 1.0
HOME_AND_CLEAR = "\x1b[H\x1b[J"
HEADINGS = ("id", "function", "cpu", "memory", "peak", "limit", "procs", "read", "written", "disk")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One container; `cpu_percent` is of one core."""

    container: ContainerRecord
    measured: Measured
    cpu_percent: float | None


def rows(before: ContainerStatsAnswer, after: ContainerStatsAnswer) -> list[Row]:
    """The containers of the second look. One that is not in the first has no rate."""
    earlier = {one.container_id: one for one in before.measured}
    return [
        Row(container=container, measured=one, cpu_percent=cpu_percent(earlier.get(one.container_id), one))
        for container, one in zip(after.containers, after.measured, strict=True)
    ]


def cpu_percent(before: Measured | None, after: Measured) -> float | None:
    """The CPU time between two looks, in percent of one core.

    >>> from jitney.values.containers import Usage
    >>> look = lambda at_ms, ms: Measured(container_id="c", at_ms=at_ms, usage=Usage(cpu_ns=ms * 1_000_000))
    >>> cpu_percent(look(0, 0), look(1_000, 500)), cpu_percent(None, look(1, 1))
    (50.0, None)
    """
    if before is None or after.at_ms <= before.at_ms:
        return None
    used_ns = max(after.usage.cpu_ns - before.usage.cpu_ns, 0)  # processes that have ended may count no more
    return round(used_ns / ((after.at_ms - before.at_ms) * 1_000_000) * 100, 1)


def cells(row: Row) -> tuple[object, ...]:
    """A row of the table."""
    usage, limits = row.measured.usage, row.measured.limits
    return (
        row.container.container_id,
        row.container.function_name or "-",
        f"{row.cpu_percent:.0f}%" if row.cpu_percent is not None else "-",
        amount(usage.memory_kib * 1024),
        amount(usage.memory_peak_kib * 1024),
        amount(limits.memory_kib * 1024) if limits.memory_kib is not None else "-",
        usage.processes or "-",
        amount(usage.read_bytes),
        amount(usage.written_bytes),
        amount(usage.disk_kib * 1024),
    )


def amount(count: int) -> str:
    """Bytes in the unit that a person would use; 0 is what is not told.

    >>> [amount(count) for count in (0, 512, 1536, 5 * 1024**2, 3 * 1024**3)]
    ['-', '512 B', '1.5 KiB', '5.0 MiB', '3.0 GiB']
    """
    if not count:
        return "-"
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, iter(("KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"


def show(container_id: str, *, goes_on: bool, as_json: bool) -> int:
    """Print the table, once or until Ctrl-C; the exit code."""
    from jitney.cli import connection
    from jitney.wire import methods

    def look() -> ContainerStatsAnswer:
        request = ContainerStats(container_id=container_id)
        return connection.ask(methods.CONTAINER_STATS, request, otherwise=ContainerStatsAnswer)

    before = look()
    if not before.measured and not goes_on:
        _print([], as_json=as_json)
        return 0
    try:
        _loop(look, before, goes_on=goes_on, as_json=as_json)
    except KeyboardInterrupt:
        return 0 if goes_on else 130  # watching is ended this way: that is no failure
    return 0


def _loop(look: Callable[[], Any], before: ContainerStatsAnswer, *, goes_on: bool, as_json: bool) -> None:
    pause_s = LOOK_S
    while True:
        time.sleep(pause_s)
        after = look()
        found = rows(before, after)
        if goes_on and as_json:
            print(msgspec.json.encode(found).decode(), flush=True)
        else:
            if goes_on and sys.stdout.isatty():
                sys.stdout.write(HOME_AND_CLEAR)
            _print(found, as_json=as_json)
        if not goes_on:
            return
        before, pause_s = after, WATCH_S


def _print(found: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        terminal.write_json(found)
    else:
        terminal.table(HEADINGS, [cells(row) for row in found], empty="no containers")
    sys.stdout.flush()
