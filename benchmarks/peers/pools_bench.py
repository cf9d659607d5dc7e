"""The standard library's process pools on the same work: a floor with no platform around it.

`value` is the faster or usual one of the two pools (each case says which), and `extra` has the other.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import (
    ARRAY_BYTES,
    FIRST,
    SETTLE_S,
    Bench,
    Result,
    main,
    rate,
    seconds_to_first_result,
    system_pss_mib,
)

FORKSERVER = multiprocessing.get_context("forkserver")


def executor(workers: int = 2) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=FORKSERVER)


def echo(value):
    return value


def born(_):
    return time.time()


def linger(seconds):
    start = time.time()
    time.sleep(seconds)
    return start, time.time()


def warm_call(bench: Bench) -> Result:
    """mp.Pool; the executor is in `extra`."""
    payload, times = b"x" * 100, bench.size(2000, 100)
    with FORKSERVER.Pool(1) as pool:
        took = bench.times_ms(lambda: pool.apply(echo, (payload,)), times=times, warm=times // 10)
    with executor(1) as pool:
        other = bench.times_ms(lambda: pool.submit(echo, payload).result(), times=times, warm=times // 10)
    return bench.latency(took, executor=statistics.median(other))


def map_100k(bench: Bench) -> Result:
    """mp.Pool, imap with chunks of one: each input is a message, as on a platform that can retry each."""
    inputs = bench.size(100_000, 2_000)
    with FORKSERVER.Pool(2) as pool:
        list(pool.imap(echo, range(1000)))
        by_pool = rate(inputs, lambda: sum(1 for _ in pool.imap(echo, range(inputs), chunksize=1)))
    fewer = inputs // 5
    with executor() as pool:
        list(pool.map(echo, range(1000)))
        by_executor = rate(fewer, lambda: sum(1 for _ in pool.map(echo, range(fewer), chunksize=1)))
    return bench.result(by_pool, "inputs/s", executor=by_executor, n=inputs)


def array_64mib(bench: Bench) -> Result:
    """The executor."""
    import numpy as np

    array = np.ones(ARRAY_BYTES // 8)
    with executor(1) as pool:

        def call():
            array[0] += 1
            back = pool.submit(echo, array).result()
            assert back[0] == array[0]
            assert back[-1] == 1

        return bench.latency(bench.times_ms(call, times=bench.size(5, 2), warm=1))


def cold_start(bench: Bench) -> Result:
    """A new executor each time; the fork server stays warm."""
    took = []
    for i in range(bench.size(11, 3)):
        time.sleep(SETTLE_S)
        asked = time.time()
        with executor(1) as pool:
            at = pool.submit(born, None).result()
        if i:
            took.append((at - asked) * 1e3)
    return bench.latency(took)


def scale_100(bench: Bench) -> Result:
    """The executor with 100 workers, all alive at one moment."""
    workers, seconds = bench.size(100, 10), bench.size(20, 3)
    asked = time.time()
    with executor(workers) as pool:
        spans = list(pool.map(linger, [seconds] * workers))
    last = max(start for start, _ in spans)
    assert last < min(end for _, end in spans), "not all were alive at one moment"
    return bench.result(last - asked, "s", alive=workers)


def nothing_to_first(bench: Bench) -> Result:
    return bench.result(seconds_to_first_result([sys.executable, __file__, "--first"]), "s")


def idle_memory(bench: Bench) -> Result:
    with executor() as pool:
        list(pool.map(echo, range(100)))
        time.sleep(bench.size(3, 1))
        return bench.result(system_pss_mib(), "MiB")


def first() -> None:
    with executor(1) as pool:
        pool.submit(echo, 1).result()
        print(FIRST, flush=True)


CASES = {
    f.__name__: f for f in (warm_call, map_100k, array_64mib, cold_start, scale_100, nothing_to_first, idle_memory)
}

if __name__ == "__main__":
    first() if sys.argv[1:] == ["--first"] else main(CASES)
