"""Jitney on the same work as its peers: `python jitney_bench.py --case warm_call` prints one line of JSON.

Containers import this file, so what only the measuring side needs is imported when it measures.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jitney

if TYPE_CHECKING:
    from measure import Bench, Result

SMALL = {"cpu": 0.01, "memory": 64}  # what a trivial function asks for, so that 100 fit on any machine

app = jitney.App("bench")
arrays = jitney.App("bench-arrays")
with_numpy = jitney.Image.debian_slim().uv_pip_install("numpy")


@app.function(max_containers=1, **SMALL)
def echo(value):
    return value


@app.function(max_containers=2, **SMALL)
def each(value):
    return value


@app.function(max_containers=1, **SMALL)
def count(items):
    yield from range(items)


@app.function(single_use_containers=True, **SMALL)
def born():
    return time.time()


@app.function(max_containers=100, **SMALL)
def linger(seconds):
    start = time.time()
    time.sleep(seconds)
    return start, time.time()


@arrays.function(image=with_numpy, max_containers=1)
def echo_array(array):
    return array


def warm_call(bench: Bench) -> Result:
    payload, times = b"x" * 100, bench.size(5000, 100)
    with app.run():
        return bench.latency(bench.times_ms(lambda: echo.remote(payload), times=times, warm=times // 10))


def map_100k(bench: Bench) -> Result:
    from measure import rate

    inputs = bench.size(100_000, 2_000)
    with app.run():
        list(each.map(range(1000)))
        per_second = rate(inputs, lambda: _drain(each.map(range(inputs)), inputs))
    return bench.result(per_second, "inputs/s", n=inputs)


def _drain(items, expected: int) -> None:
    found = sum(1 for _ in items)
    assert found == expected, f"{found} results of {expected}"


def array_64mib(bench: Bench) -> Result:
    import numpy as np

    from measure import ARRAY_BYTES

    array = np.ones(ARRAY_BYTES // 8)

    def call():
        array[0] += 1
        back = echo_array.remote(array)
        assert back[0] == array[0]
        assert back[-1] == 1

    with arrays.run():
        return bench.latency(bench.times_ms(call, times=bench.size(15, 3), warm=3))


def generator(bench: Bench) -> Result:
    import statistics

    from measure import rate

    items = bench.size(20_000, 500)
    with app.run():
        took = bench.times_ms(lambda: next(count.remote_gen(1)), times=bench.size(100, 5), warm=5)
        per_second = rate(items, lambda: _drain(count.remote_gen(items), items))
    return bench.result(per_second, "items/s", first_item_ms=statistics.median(took))


def cold_start(bench: Bench) -> Result:
    """Every call gets a new container; the pool's template is warm after the first."""
    from measure import SETTLE_S

    took = []
    with app.run():
        for i in range(bench.size(41, 4)):
            time.sleep(SETTLE_S)
            asked = time.time()
            at = born.remote()
            if i:
                took.append((at - asked) * 1e3)
    return bench.latency(took)


def cold_start_torch(bench: Bench) -> Result:
    """In a script of its own, whose containers import torch."""
    import json
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).with_name("jitney_torch.py")
    command = [sys.executable, str(script), "--case", bench.case, *(["--smoke"] if bench.smoke else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def scale_100(bench: Bench) -> Result:
    """From no container to 100, all alive at one moment: the last starts before the first ends."""
    containers, seconds = bench.size(100, 10), bench.size(6, 3)
    with app.run():
        born.remote()  # the server is up; the pool of `linger` has nothing yet
        asked = time.time()
        spans = list(linger.map([seconds] * containers))
    last = max(start for start, _ in spans)
    assert last < min(end for _, end in spans), "not all were alive at one moment"
    return bench.result(last - asked, "s", alive=containers)


def nothing_to_first(bench: Bench) -> Result:
    """No server, no template: a fresh process starts everything. Its image was built by a run before."""
    import sys

    from measure import seconds_to_first_result

    command = [sys.executable, __file__, "--first"]
    seconds_to_first_result(command)
    down()
    return bench.result(seconds_to_first_result(command), "s")


def idle_memory(bench: Bench) -> Result:
    from measure import system_pss_mib

    with app.run():
        echo.remote(1)
        time.sleep(bench.size(10, 2))
        return bench.result(system_pss_mib(), "MiB")


def map_1m_memory(bench: Bench) -> Result:
    """How much client, server and containers grow together, at most, while a million inputs go through."""
    import threading

    from measure import system_pss_mib

    inputs, done = bench.size(1_000_000, 20_000), threading.Event()
    peak = 0.0

    def watch():
        nonlocal peak
        while not done.wait(0.5):
            peak = max(peak, system_pss_mib(with_self=True))

    with app.run():
        list(each.map(range(1000)))
        before = peak = system_pss_mib(with_self=True)
        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        try:
            _drain(each.map(range(inputs)), inputs)
        finally:
            done.set()
            watcher.join()
        took = time.perf_counter() - start
    return bench.result(peak - before, "MiB", before=before, inputs_per_s=inputs / took, n=inputs)


def spawn_durable(bench: Bench) -> Result:
    """Each spawn is answered after its call is on disk; 256 are in flight."""
    import asyncio

    from measure import rate

    calls, in_flight = bench.size(20_000, 500), 256

    async def spawn_all():
        left = iter(range(calls))

        async def one_after_another():
            for i in left:
                await each.spawn.aio(i)

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))

    with app.run():
        assert each.spawn(1).get() == 1
        return bench.result(rate(calls, lambda: asyncio.run(spawn_all())), "spawns/s", n=calls)


def down() -> None:
    """End the server of this benchmark's folder, and with it everything it started."""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "jitney", "down"], check=False, stdout=subprocess.DEVNULL, timeout=60)


def first() -> None:
    from measure import FIRST

    with app.run():
        echo.remote(1)
        print(FIRST, flush=True)


def in_a_home_of_its_own(cases) -> None:
    """Run the case that the command line names against a server of its own, which ends with it."""
    import os
    import tempfile

    from measure import main

    with tempfile.TemporaryDirectory(prefix="jitney-bench-", ignore_cleanup_errors=True) as home:
        # run.py names one folder for all its rounds, so that images are built once.
        os.environ["JITNEY_HOME"] = os.environ.get("JITNEY_BENCH_HOME", home)
        try:
            main(cases)
        finally:
            down()


CASES = {
    f.__name__: f
    for f in (
        warm_call, map_100k, array_64mib, generator, cold_start, cold_start_torch, scale_100,
        nothing_to_first, idle_memory, map_1m_memory, spawn_durable,
    )
}  # fmt: skip

if __name__ == "__main__":
    import sys

    first() if sys.argv[1:] == ["--first"] else in_a_home_of_its_own(CASES)
