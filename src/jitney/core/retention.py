"""Which versions of a volume go: a decision about its history, what is kept, and who uses which."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jitney.values.volumes import Retention, Version

DAY_MS = 24 * 3_600_000


def prunable(versions: Sequence[Version], retention: Retention, used: Collection[int], now_ms: int) -> list[int]:
    """Those of `versions`, a volume's from the newest on, that are neither to be kept nor `used`, oldest first.

    A version counts as old from when the next one came: until then it was what everybody saw. A clock that was set back
    keeps more, never less.

    >>> versions = [Version(version=number, parent=number - 1, at_ms=number * DAY_MS) for number in (4, 3, 2, 1)]
    >>> prunable(versions, Retention(versions=1, days=2), used=(), now_ms=5 * DAY_MS)
    [1]
    """
    found: list[int] = []
    until_ms = now_ms  # so long it was the newest
    for place, one in enumerate(versions):
        is_recent = place < retention.versions or until_ms >= now_ms - retention.days * DAY_MS
        if place and not is_recent and one.version not in used:
            found.append(one.version)
        until_ms = one.at_ms
    return found[::-1]
