"""What every benchmark script shares: its command line, its one line of JSON, and how memory is counted.

A script is a table of cases, `{"warm_call": function}`. A case takes a `Bench` and returns what
`bench.result` gives.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
ARRAY_BYTES = 64 * MIB

# Processes that carry this variable, and their children, are the system under test.
MARK = "JITNEY_BENCH_MARK"

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """The size of this run, and the arithmetic of its results."""

    case: str
    smoke: bool = False
    full: bool = False

    def size(self, normal: int, smoke: int) -> int:
        return smoke if self.smoke else normal

    def result(self, value: float, unit: str, **extra: Any) -> Result:
        return {"case": self.case, "value": value, "unit": unit, "extra": extra}

    def times_ms(self, call: Callable[[], object], *, times: int, warm: int) -> list[float]:
        """How long each call took, sorted."""
        for _ in range(warm):
            call()
        took = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            took.append((time.perf_counter() - start) * 1e3)
        return sorted(took)

    def latency(self, took_ms: list[float], **extra: Any) -> Result:
        return self.result(statistics.median(took_ms), "ms", p99=percentile(took_ms, 0.99), n=len(took_ms), **extra)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def rate(count: int, work: Callable[[], object]) -> float:
    """Things per second when `work` does `count` of them."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


SETTLE_S = 0.1  # between two cold starts, on every side: the end of the one is no part of the next
FIRST = "first result"


def seconds_to_first_result(command: list[str]) -> float:
    """Wall time from starting a fresh process to its line `FIRST`. Then it ends by itself."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        took = next((time.perf_counter() - start for line in process.stdout if line.strip() == FIRST), None)
        process.stdout.read()
    if process.returncode or took is None:
        raise RuntimeError(f"{command} gave no result and exited with {process.returncode}")
    return took


def mark_children() -> str:
    """From here on, what this process starts is recognised as the system under test, however it detaches."""
    return os.environ.setdefault(MARK, f"{os.getpid()}-{time.time_ns()}")


def system_pss_mib(*, with_self: bool = False) -> float:
    """Memory of every process of the marked system, shared pages counted once between them."""
    pids = set(_system_pids())
    pids = pids | {os.getpid()} if with_self else pids - {os.getpid()}
    return sum(_pss_kib(pid) for pid in pids) / 1024


def _system_pids() -> Iterator[int]:
    """Marked processes and all that descend from them or us: titles overwrite environments."""
    mark = f"{MARK}={mark_children()}".encode()
    parents: dict[int, int] = {}
    found = {os.getpid()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if mark in (entry / "environ").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue  # it has just ended, or is not ours
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    yield from found


def _pss_kib(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def main(cases: dict[str, Callable[[Bench], Result]]) -> None:
    """Run the case that the command line names, and print its result as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True, choices=sorted(cases))
    parser.add_argument("--smoke", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--full", action="store_true", help="sizes that take minutes with some peers")
    options = parser.parse_args()
    mark_children()
    result = cases[options.case](Bench(options.case, options.smoke, options.full))
    sys.stdout.flush()
    print(json.dumps(result), flush=True)
