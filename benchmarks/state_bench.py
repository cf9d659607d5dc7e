"""How fast `Dict` and `Queue` are, beside Redis through redis-py on the same machine in the same minute.

    python benchmarks/state_bench.py [--seconds 2] [--rounds 3]

One client: p50 of get, put, put and get of a queue; and of a hand-over: from the call of put in one process until an
item is in the hands of a getter in another that waited for it, beside a warm call. Then puts a second of 64 clients (4
processes of 16 threads).

Redis is measured where `redis-server` is installed, and redis-py here or in .venv-bench: with no log at all, and with
`appendfsync always`, which promises what Jitney promises. Values are strings of 100 characters, pickled on both sides.
Ratios are ours by theirs. Rounds are interleaved; the medians of rounds are shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BENCH_PYTHON = Path(__file__).resolve().parents[1] / ".venv-bench" / "bin" / "python"
VALUE = "v" * 100
PROCESSES, THREADS = 4, 16
WARM_S = 0.3
SETTLE_S = 2.0  # a server that has just started still imports its HTTP library
HANDOVERS_PAUSE_S = 0.002  # so that the getter waits when the item comes
NAMES = ("get", "put", "put+get", "hand-over", "puts/s, 64 clients")

Step = Callable[[int], object]


class JitneyClient:
    """Our side. The server is that of JITNEY_HOME."""

    def __init__(self, place: str) -> None:
        import jitney

        os.environ["JITNEY_HOME"] = place
        os.environ["JITNEY_HTTP_PORT"] = "0"
        self.dict = jitney.Dict.from_name("bench", create_if_missing=True)
        self.queue = jitney.Queue.from_name("bench", create_if_missing=True)

    def get(self, n: int) -> object:
        return self.dict["k"]

    def put(self, n: int) -> object:
        self.dict["k"] = VALUE
        return None

    def push(self, item: Any) -> object:
        return self.queue.put(item)

    def pop(self) -> Any:
        return self.queue.get()

    def put_of(self, client: int) -> Step:
        key = f"k{client}"
        return lambda n: self.dict.put(key, VALUE)


class RedisClient:
    """The peer: `place` is the server's socket."""

    def __init__(self, place: str) -> None:
        import redis

        self.redis = redis.Redis(unix_socket_path=place)

    def get(self, n: int) -> object:
        return pickle.loads(self.redis.get("k"))

    def put(self, n: int) -> object:
        return self.redis.set("k", pickle.dumps(VALUE))

    def push(self, item: Any) -> object:
        return self.redis.rpush("q", pickle.dumps(item))

    def pop(self) -> Any:
        return pickle.loads(self.redis.blpop(["q"])[1])

    def put_of(self, client: int) -> Step:
        key = f"k{client}"
        return lambda n: self.redis.set(key, pickle.dumps(VALUE))


CLIENTS = {"jitney": JitneyClient, "redis": RedisClient}


def p50_us(step: Step, seconds: float) -> float:
    """The median time of a step, in microseconds."""
    for limit in (WARM_S, seconds):
        took: list[float] = []
        end = time.perf_counter() + limit
        while (start := time.perf_counter()) < end:
            step(len(took))
            took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e6


def take(kind: str, place: str, results: Any) -> None:
    """The getter of hand-overs, in a process of its own: how long each took, until a 0 comes."""
    client, took = CLIENTS[kind](place), []
    results.put("ready")
    while started := client.pop():
        took.append(time.monotonic() - started)
    results.put(statistics.median(took) * 1e6)


def handover_us(client: Any, kind: str, place: str, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    getter = context.Process(target=take, args=(kind, place, results))
    getter.start()
    results.get()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(HANDOVERS_PAUSE_S)
        client.push(time.monotonic())
    client.push(0)
    found: float = results.get()
    getter.join()
    return found


def load(kind: str, place: str, number: int, seconds: float, barrier: Any, results: Any) -> None:
    """Some of the clients that put as fast as they can."""
    client = CLIENTS[kind](place)
    counts = [0] * THREADS
    steps = [client.put_of(number * THREADS + thread) for thread in range(THREADS)]

    def work(thread: int) -> None:
        steps[thread](0)
        barrier.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            steps[thread](0)
            counts[thread] += 1

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    results.put(sum(counts))


def puts_a_second(kind: str, place: str, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES * THREADS), context.Queue()
    arguments = [(kind, place, number, seconds, barrier, results) for number in range(PROCESSES)]
    workers = [context.Process(target=load, args=one) for one in arguments]
    for worker in workers:
        worker.start()
    total = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total / seconds


def measure(kind: str, place: str, seconds: float) -> dict[str, float]:
    """One round of everything."""
    client = CLIENTS[kind](place)
    client.put(0)

    def put_and_get(n: int) -> None:
        client.push(n)
        assert client.pop() == n

    return {
        "get": p50_us(client.get, seconds),
        "put": p50_us(client.put, seconds),
        "put+get": p50_us(put_and_get, seconds),
        "hand-over": handover_us(client, kind, place, seconds),
        "puts/s, 64 clients": puts_a_second(kind, place, seconds),
    }


def warm_call_us(place: str, seconds: float) -> float:
    """A warm call, as `warm_call` of jitney_bench has it."""
    from jitney_bench import app, echo

    os.environ["JITNEY_HOME"] = place
    with app.run():
        return p50_us(lambda n: echo.remote(b"x" * 100), seconds)


@contextmanager
def redis_server(folder: Path, name: str, *, fsync: bool) -> Iterator[str]:
    """A Redis of our own; gives its socket."""
    place = folder / name
    place.mkdir()
    log = ["--appendonly", "yes", "--appendfsync", "always"] if fsync else ["--appendonly", "no"]
    socket = place / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(place), *log]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield str(socket)
        finally:
            process.terminate()


def redis_python() -> str | None:
    """The interpreter that has redis-py."""
    if not shutil.which("redis-server"):
        return None
    if importlib.util.find_spec("redis"):
        return sys.executable
    probe = [str(BENCH_PYTHON), "-c", "import redis"]
    has_it = BENCH_PYTHON.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return str(BENCH_PYTHON) if has_it else None


def one_round(python: str, kind: str, place: str, seconds: float) -> dict[str, float]:
    """A round, in a process of its own."""
    command = [python, __file__, "--measure", kind, place, "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(rounds: dict[str, list[dict[str, float]]], warm_us: float) -> None:
    medians = {
        system: {name: statistics.median(one[name] for one in found) for name in NAMES}
        for system, found in rounds.items()
    }
    peers = [system for system in medians if system != "jitney"]
    heads = ["what", "jitney", *(f"{peer}{part}" for peer in peers for part in ("", " ratio"))]
    print("".join(head.rjust(28 if at == 0 else 20) for at, head in enumerate(heads)))
    for name in NAMES:
        unit = "/s" if "/s" in name else "us"
        ours = medians["jitney"][name]
        cells = [f"{ours:,.0f} {unit}"]
        for peer in peers:
            cells += [f"{medians[peer][name]:,.0f} {unit}", f"{ours / medians[peer][name]:.2f}"]
        print(name.rjust(28) + "".join(cell.rjust(20) for cell in cells))
    print(f"{'warm call':>28}{f'{warm_us:,.0f} us':>20}")
    print(f"{'hand-over by warm call':>28}{medians['jitney']['hand-over'] / warm_us:>20.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "PLACE"), help="one round (of this script)")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.seconds)))
        return
    python = redis_python()
    if python is None:
        print("no redis-server, or no redis-py here or in .venv-bench: only our side is measured")
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder) / "home")
        JitneyClient(home).put(0)  # starts the server
        time.sleep(SETTLE_S)
        rounds: dict[str, list[dict[str, float]]] = {"jitney": []}
        warm: list[float] = []
        for number in range(options.rounds):
            rounds["jitney"].append(one_round(sys.executable, "jitney", home, options.seconds))
            warm.append(warm_call_us(home, options.seconds))
            for name, fsync in (("redis", False), ("redis fsync", True)) if python else ():
                with redis_server(Path(folder), f"{number}{fsync}", fsync=fsync) as place:
                    rounds.setdefault(name, []).append(one_round(str(python), "redis", place, options.seconds))
        subprocess.run([sys.executable, "-m", "jitney", "down"], env={**os.environ, "JITNEY_HOME": home}, check=False)
        show(rounds, statistics.median(warm))


if __name__ == "__main__":
    main()
