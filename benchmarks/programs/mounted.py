"""Prints, of a volume with so many files and one of so many MiB (the arguments): [ms to the first line without it, and
with it, MB/s of a read in the mount, and beside it, µs of a random 4 KiB read in it, and beside it, ms of a commit of
one file].
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jitney

app = jitney.App("mounted")
volume = jitney.Volume.from_name("bench", create_if_missing=True)
SMALL = {"cpu": 0.01, "memory": 64, "single_use_containers": True}
SETTLE_S = 0.1
READS = 5_000


@app.function(**SMALL)
def plain():
    return time.time()


@app.function(volumes={"/data": volume}, **SMALL)
def mounted():
    return time.time()


def sequential(path):
    started = time.perf_counter()
    size = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            size += len(piece)
    return size / (time.perf_counter() - started) / 1e6


def scattered(path):
    blocks = os.path.getsize(path) // 4096
    chosen = random.Random(1).choices(range(blocks), k=READS)
    with open(path, "rb", buffering=0) as file:
        started = time.perf_counter()
        for block in chosen:
            os.pread(file.fileno(), 4096, block * 4096)
    return (time.perf_counter() - started) / READS * 1e6


def come_from_the_disk(path):
    """What a file holds lies in memory as reading laid it there, and not as whoever wrote it did: in larger pieces."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


@app.function(volumes={"/data": volume}, timeout=600)
def read():
    figures = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        beside = os.path.join(folder, "large")
        with open("/data/large", "rb") as source, open(beside, "wb") as target:
            while piece := source.read(1 << 20):
                target.write(piece)
        for path in ("/data/large", beside):
            come_from_the_disk(path)
        for measure in (sequential, scattered):
            measure("/data/large"), measure(beside)
            pairs = [(measure("/data/large"), measure(beside)) for _ in range(5)]
            figures += [statistics.median(one) for one in zip(*pairs, strict=True)]
    return figures


@app.function(volumes={"/data": volume}, timeout=600)
def commit():
    took = []
    for number in range(5):
        Path("/data/changed").write_text(str(number))
        started = time.perf_counter()
        volume.commit()
        took.append((time.perf_counter() - started) * 1e3)
    return statistics.median(took)


def starts(function):
    took = []
    for _ in range(15):
        time.sleep(SETTLE_S)
        asked = time.time()
        took.append((function.remote() - asked) * 1e3)
    return statistics.median(took[2:])


def fill(count, large_mib):
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            path = Path(folder, f"d{number // 1000}", f"f{number}")
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(number))
        with open(Path(folder, "large"), "wb") as file:
            file.writelines(os.urandom(1 << 20) for _ in range(large_mib))
        with volume.batch_upload(force=True) as batch:
            batch.put_directory(folder, "/")


if __name__ == "__main__":
    with app.run():
        fill(int(sys.argv[1]), int(sys.argv[2]))
        mounted.remote()
        print(json.dumps([starts(plain), starts(mounted), *read.remote(), commit.remote()]))
