"""What processes use, as /proc tells it; gVisor's tells less than Linux's.

A fork shares what it has not changed, and sharing is told by Linux only (smaps_rollup). Where it is not, a process that
was forked and is still the same program counts for what it has beyond its parent.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from jitney.runner.process import is_process

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")


class Seen(NamedTuple):
    """A tree of processes: how many there are, their memory, and what processor time they and their dead have had."""

    processes: int
    rss_kib: int
    cpu_ms: int


def children(pid: int) -> list[int]:
    """Those of a process, whichever of its threads started them."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    except OSError:
        return found
    return found


def below(pid: int) -> list[int]:
    """Descendants that live, parents first."""
    found = [pid]
    for one in found:  # grows while it is read
        found += [child for child in children(one) if is_alive(child) and is_process(child)]
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether it runs: a process that has ended and waits for its parent does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X")


def look(pid: int) -> Seen:
    """A process and its descendants."""
    tree = [pid, *below(pid)]
    return Seen(len(tree), used_kib(tree), sum(map(_cpu_ms, tree)))


def used_kib(tree: list[int]) -> int:
    """Memory of a tree, parents first: all of the first process, and of the others what is their own."""
    first, *others = tree
    return rss_kib(first) + sum(map(_own_kib, others))


def rss_kib(pid: int) -> int:
    """Resident memory, shared pages counted whole."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE_KIB if len(fields) > 1 else 0


def private_kib(pid: int) -> int:
    """Resident memory that no other process shares; -1 where that is not told."""
    text = _read(f"/proc/{pid}/smaps_rollup")
    lines = [line.split() for line in text.splitlines() if line.startswith((b"Private_Clean:", b"Private_Dirty:"))]
    return sum(int(words[1]) for words in lines) if lines else -1


def _own_kib(pid: int) -> int:
    private = private_kib(pid)
    if private >= 0:
        return private
    fields = _stat(pid)
    own = rss_kib(pid)
    if len(fields) > 1 and _read(f"/proc/{pid}/cmdline") == _read(f"/proc/{int(fields[1])}/cmdline"):
        return max(0, own - rss_kib(int(fields[1])))
    return own


def _cpu_ms(pid: int) -> int:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) * TICK_MS if len(fields) > 14 else 0


def _stat(pid: int) -> list[bytes]:
    """Its fields from the state on."""
    text = _read(f"/proc/{pid}/stat")
    return text[text.rfind(b")") + 2 :].split()  # the name in brackets may hold anything


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
