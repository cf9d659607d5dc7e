"""Ray on the same work: `python ray_bench.py --case warm_call` prints one line of JSON."""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

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


def start() -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


@ray.remote
def echo(value):
    return value


@ray.remote
class Echo:
    def echo(self, value):
        return value


@ray.remote(num_cpus=0)
class Born:
    """Says when the first line of user code ran."""

    def __init__(self):
        self.at = time.time()

    def born(self):
        return self.at


@ray.remote(num_cpus=0)
class BornWithTorch:
    def __init__(self):
        import torch  # noqa: F401  what a module-level import costs in a new actor

        self.at = time.time()

    def born(self):
        return self.at


@ray.remote
def count(items):
    for item in range(items):  # noqa: UP028  Ray wants a real generator: `yield from range` fails there
        yield item


def warm_call(bench: Bench) -> Result:
    start()
    payload, actor = b"x" * 100, Echo.remote()
    times = bench.size(2000, 100)
    took = bench.times_ms(lambda: ray.get(actor.echo.remote(payload)), times=times, warm=times // 10)
    task = bench.times_ms(lambda: ray.get(echo.remote(payload)), times=times // 2, warm=times // 10)
    return bench.latency(took, task=statistics.median(task), task_p99=task[int(len(task) * 0.99)])


def map_100k(bench: Bench) -> Result:
    start()
    inputs = bench.size(5000, 500)
    actors = [Echo.remote() for _ in range(2)]
    ray.get([echo.remote(i) for i in range(200)] + [a.echo.remote(0) for a in actors])
    tasks = rate(inputs, lambda: ray.get([echo.remote(i) for i in range(inputs)]))
    by_actors = rate(inputs, lambda: ray.get([actors[i % 2].echo.remote(i) for i in range(inputs)]))
    return bench.result(tasks, "inputs/s", two_actors=by_actors, n=inputs)


def array_64mib(bench: Bench) -> Result:
    import numpy as np

    start()
    array, actor = np.ones(ARRAY_BYTES // 8), Echo.remote()

    def call():
        array[0] += 1
        back = ray.get(actor.echo.remote(array))
        assert back[0] == array[0]
        assert back[-1] == 1

    return bench.latency(bench.times_ms(call, times=bench.size(15, 3), warm=3))


def generator(bench: Bench) -> Result:
    start()
    stream = count.options(num_returns="streaming")

    def first():
        ray.get(next(stream.remote(1)))

    first_ms = statistics.median(bench.times_ms(first, times=bench.size(30, 5), warm=5))
    items = bench.size(20_000, 500)

    def drain():
        assert sum(1 for ref in stream.remote(items) if ray.get(ref) is not None) == items

    return bench.result(rate(items, drain), "items/s", first_item_ms=first_ms)


def _cold(bench: Bench, kind) -> Result:
    start()
    took = []
    for i in range(bench.size(6, 2)):
        time.sleep(SETTLE_S)
        asked = time.time()
        actor = kind.remote()
        born = ray.get(actor.born.remote())
        ray.kill(actor)
        if i:  # the first one also starts what every later one finds running
            took.append((born - asked) * 1e3)
    return bench.latency(took)


def cold_start(bench: Bench) -> Result:
    return _cold(bench, Born)


def cold_start_torch(bench: Bench) -> Result:
    return _cold(bench, BornWithTorch)


def scale_100(bench: Bench) -> Result:
    """20 actors unless --full: 100 take Ray more than a minute on two cores."""
    start()
    actors_count = 100 if bench.full else bench.size(20, 4)
    asked = time.time()
    actors = [Born.remote() for _ in range(actors_count)]
    alive = max(ray.get([actor.born.remote() for actor in actors])) - asked
    return bench.result(alive, "s", alive=actors_count)


def nothing_to_first(bench: Bench) -> Result:
    return bench.result(seconds_to_first_result([sys.executable, __file__, "--first"]), "s")


def idle_memory(bench: Bench) -> Result:
    start()
    ray.get(echo.remote(1))
    time.sleep(bench.size(10, 2))
    return bench.result(system_pss_mib(), "MiB")


def first() -> None:
    start()
    ray.get(echo.remote(1))
    print(FIRST, flush=True)


CASES = {
    f.__name__: f
    for f in (
        warm_call, map_100k, array_64mib, generator, cold_start, cold_start_torch,
        scale_100, nothing_to_first, idle_memory,
    )
}  # fmt: skip

if __name__ == "__main__":
    first() if sys.argv[1:] == ["--first"] else main(CASES)
