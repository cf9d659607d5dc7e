"""Run as a process by the tests beside this: writes into a store and prints what was acknowledged, until it is killed.

    python writing_child.py STORE FIRST_NUMBER [BYTES]

A line `s N` is an acknowledged spawn, `f N` an acknowledged result. With BYTES, no file may grow beyond that many
bytes once 20 spawns are acknowledged, as on a disk that fails; then it prints how that ended.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path

from jitney.drivers.store.sqlite import SqliteStore
from jitney.errors import JitneyError
from jitney.ports.store import Result
from jitney.values import ids
from jitney.values.calls import CallKind, CallRecord, InputRecord, Output

SUBMITTERS = 24


def name(number):
    return ids.make(ids.CALL, number.to_bytes(16, "big"))


def say(line):
    os.write(1, line.encode() + b"\n")


def payload(number):
    return b"%d." % number * 50


async def write(store, numbers, *, results):
    for number in numbers:
        call = CallRecord(call_id=name(number), function_id="fu-1", kind=CallKind.SPAWN, created_at_ms=1)
        await store.calls.spawn(call, [InputRecord(call.call_id, 0, payload(number))])
        say(f"s {number}")
        if results and number % 2:
            assert await store.calls.finish([Result(call.call_id, Output(0, 1, payload(number)), 2)]) == [True]
            say(f"f {number}")


async def main(path, first, limit):
    # A ballast of 4 MiB makes checkpoints frequent: kills fall into them too. Without one the log grows to the limit.
    store = SqliteStore(path, ballast_bytes=0 if limit else 4 * 1024 * 1024)
    if not limit:
        await asyncio.gather(
            *(write(store, range(first + i, 1 << 60, SUBMITTERS), results=True) for i in range(SUBMITTERS))
        )
    await write(store, range(first, first + 20), results=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        await write(store, range(first + 20, 1 << 60), results=False)
    except JitneyError as error:
        say(f"ended {error.code} {store.healthy()} {bool(store.problem())}")
    try:
        await store.calls.finish([Result(name(first), Output(0, 1, b""), 1)])
    except JitneyError as error:
        say(f"refused {error.code}")
    assert await store.calls.get(name(first)) is not None
    say("read")


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
