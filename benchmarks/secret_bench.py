"""Secrets: what looking for values costs the output of a container, and what a start with secrets waits for.

    python benchmarks/secret_bench.py

The output of a container is taken at 8 MiB/s at most, so "load" is what a flood of it costs one CPU. The last line is
the time from asking for the values of five variables until they are known and their use is on the disk.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import string
import tempfile
import time
from pathlib import Path

from jitney.core.redaction import Patterns, Redactor
from jitney.drivers.keys.file import FileKeys
from jitney.drivers.store.sqlite import SqliteStore
from jitney.server.vault import Vault
from jitney.values import ids
from jitney.values.containers import LogLine
from jitney.values.secrets import Action, SecretRef, SecretUse

FLOOD_BYTES_PER_S = 8 * 1024 * 1024
LINES, ROUNDS, OPENS = 1_000, 10, 100
SETS = [(1, 12), (5, 12), (1, 40), (5, 40), (20, 64), (100, 64), (3, 3_000), (1, 32_768)]  # values, their length


def text(length: int) -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=length))


def redaction() -> None:
    words = [text(random.randint(2, 9)) for _ in range(3_000)]
    lines = [LogLine(1, "ta", 1, " ".join(random.choices(words, k=12))) for _ in range(LINES)]
    size = sum(len(line.text) for line in lines)
    print(f"{'values':>14} {'made in':>10} {'throughput':>12} {'load':>8}")
    for count, length in SETS:
        values = [text(length) for _ in range(count)]
        started = time.perf_counter()
        redactor = Redactor(Patterns(values))
        made_ms = (time.perf_counter() - started) * 1e3
        took = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            assert len(redactor.feed(lines)) + len(redactor.release()) == LINES
            took.append(time.perf_counter() - started)
        per_s = size / statistics.median(took)
        what = f"{count} x {length:,}"
        print(f"{what:>14} {made_ms:>7.2f} ms {per_s / 1e6:>7.0f} MB/s {FLOOD_BYTES_PER_S / per_s:>8.1%}")


async def opening(folder: Path) -> None:
    store = SqliteStore(folder / "store.sqlite")
    vault = Vault(
        store=store,
        keys=FileKeys(folder / "secrets.key"),
        entropy=os.urandom,
        wall_ms=lambda: time.time_ns() // 1_000_000,
    )
    values = {f"KEY_{number}": text(40) for number in range(5)}
    await vault.create(ids.make(ids.SECRET, os.urandom(16)), "db", values, overwrite=False)
    took = []
    for number in range(OPENS):
        use = SecretUse(at_ms=0, action=Action.USED, secret_id="", container_id=f"ta-{number}")
        started = time.perf_counter()
        await vault.open([SecretRef(name="db")], {}, use)
        took.append((time.perf_counter() - started) * 1e3)
    took.sort()
    print(f"\nvalues for a start: p50 {took[OPENS // 2]:.2f} ms, p90 {took[OPENS * 9 // 10]:.2f} ms (one fsync)")
    await store.close()


def main() -> None:
    random.seed(1)
    redaction()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(opening(Path(folder)))


if __name__ == "__main__":
    main()
