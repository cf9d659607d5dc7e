"""How fast the SQLite store acknowledges: fsynced writes a second, and how long one waits.

    python benchmarks/store_bench.py [--folder DIR] [--seconds 2] [--busy]

`spawn`: one new call with one input of 512 bytes, as `f.spawn(x)` makes. `finish`: its result. `--busy` has the event
loop relay messages all the while between eight pairs of sockets, as a server under load does: then the writer's
thread has to fight for the interpreter's lock, which is what its large statements are for. The first line is the
floor: appending the same bytes to a file with one fdatasync each.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import uvloop

from jitney.drivers.store.sqlite import SqliteStore
from jitney.ports.store import Result
from jitney.values import ids
from jitney.values.calls import CallKind, CallRecord, InputRecord, Output
from measure import percentile

PAYLOAD = os.urandom(512)
SUBMITTERS = (1, 16, 64, 256, 1024)

Step = Callable[[], Awaitable[None]]


def fsync_floor(folder: Path, seconds: float) -> list[float]:
    """Seconds that each append and fdatasync took."""
    took, file = [], os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        os.write(file, PAYLOAD)
        os.fdatasync(file)
        took.append(time.perf_counter() - start)
    os.close(file)
    return took


async def drive(step: Step, submitters: int, seconds: float) -> tuple[float, list[float]]:
    """(a second, seconds that each took) with so many tasks that each wait for the last step before the next."""
    took: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def submit() -> None:
        while (start := time.perf_counter()) < end:
            await step()
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(submit() for _ in range(submitters)))
    return len(took) / (time.perf_counter() - begin), took


class Echo(asyncio.Protocol):
    """Sends back what comes, after as much work as reading a small frame takes."""

    count = 0
    transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        Echo.count += 1
        sum(range(200))
        self.transport.write(data)


async def keep_busy(pairs: int) -> None:
    """Messages that never stop."""
    loop = asyncio.get_running_loop()
    for _ in range(pairs):
        left, right = socket.socketpair()
        transport, _ = await loop.create_connection(Echo, sock=left)
        await loop.create_connection(Echo, sock=right)
        transport.write(PAYLOAD[:100])


def new_call() -> tuple[CallRecord, list[InputRecord]]:
    call_id = ids.make(ids.CALL, secrets.token_bytes(16))
    call = CallRecord(
        call_id=call_id, function_id="fu-x", app_id="ap-x", kind=CallKind.SPAWN, created_at_ms=time.time_ns() // 10**6
    )
    return call, [InputRecord(call_id, 0, PAYLOAD)]


def row(name: str, submitters: object, rate: float, took: list[float]) -> None:
    p50, p99 = percentile(took, 0.5) * 1e3, percentile(took, 0.99) * 1e3
    print(f"{name:<16} {submitters!s:>10} {rate:>10,.0f} {p50:>9.2f} {p99:>9.2f}")


async def measure(folder: Path, seconds: float, busy: bool) -> None:
    print(f"{'what':<16} {'submitters':>10} {'a second':>10} {'p50 ms':>9} {'p99 ms':>9}")
    floor = fsync_floor(folder, seconds)
    row("append+fdatasync", 1, len(floor) / seconds, floor)
    if busy:
        await keep_busy(8)
    store = SqliteStore(folder / "store.sqlite")
    spawned: list[str] = []

    async def spawn() -> None:
        call, inputs = new_call()
        await store.calls.spawn(call, inputs)
        spawned.append(call.call_id)

    async def finish() -> None:
        if spawned:
            await store.calls.finish([Result(spawned.pop(), Output(0, 1, PAYLOAD), 1)])
        else:
            await spawn()

    for name, step in (("spawn", spawn), ("finish", finish)):
        for submitters in SUBMITTERS:
            row(name, submitters, *await drive(step, submitters, seconds))
    start = time.perf_counter()
    found, after = 0, None
    while (page := await store.calls.pending(after)).inputs:
        found, after = found + len(page.inputs), page.after
    print(f"pending: {found:,} inputs read in {time.perf_counter() - start:.2f} s")
    await store.close()
    start = time.perf_counter()
    size = (folder / "store.sqlite").stat().st_size
    await SqliteStore(folder / "store.sqlite").close()
    print(f"opened again, checked and closed: {size / 1e6:.0f} MB in {time.perf_counter() - start:.2f} s")
    if busy:
        print(f"messages relayed meanwhile: {Echo.count:,}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        uvloop.run(measure(Path(folder), options.seconds, options.busy))


if __name__ == "__main__":
    main()
