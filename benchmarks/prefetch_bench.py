"""What prefetching saves: the first read of a file of a volume, with a cold page cache and after `prefetch`.

    python benchmarks/prefetch_bench.py [--mib 1024] [--folder DIR]

The page cache is emptied of the file itself (`posix_fadvise`), so no root is needed; DIR has to be on a real disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from jitney.worker.prefetch import prefetch, wanted

CHUNK_BYTES = 1 << 20


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        layer = Path(folder)
        path = layer / "model.safetensors"
        write(path, options.mib)
        forget(path)
        cold = read(path)
        forget(path)
        began = time.perf_counter()
        told = prefetch(wanted([layer], ["*.safetensors"]), options.mib << 20)
        asked = time.perf_counter() - began
        after = read(path)
        warm = read(path)
    print(f"{told >> 20:,} MiB")
    for name, seconds in (("cold", cold), ("the call to prefetch", asked), ("after it", after), ("warm", warm)):
        print(f"{name:22} {seconds:8.3f} s")
    return 0


def write(path: Path, mib: int) -> None:
    """A file on the disk."""
    block = os.urandom(CHUNK_BYTES)
    with open(path, "wb") as file:
        file.writelines(block for _ in range(mib))
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Have the kernel drop what it has of the file."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> float:
    """Seconds that reading all of it takes."""
    began = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(CHUNK_BYTES):
            pass
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
