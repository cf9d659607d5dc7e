"""Pulling and unpacking an image, against `skopeo copy` and `umoci unpack`, from the same registry.

    python benchmarks/pull_bench.py localhost:5000/name:tag [--rounds 5]

Each round starts with empty folders. Ours ends when what was unpacked is on the disk (syncfs); theirs does not ask.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from jitney.drivers.pulls.oci import OciPuller


def ours(reference: str, folder: Path) -> None:
    asyncio.run(OciPuller(folder / "store").pull(reference, on_line=lambda line: None))


def theirs(reference: str, folder: Path) -> None:
    copy = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", f"docker://{reference}"]
    subprocess.run([*copy, f"oci:{folder}/image:x"], check=True, capture_output=True)
    unpack = ["umoci", "raw", "unpack", "--image", f"{folder}/image:x", str(folder / "root")]
    subprocess.run(unpack, check=True, capture_output=True)


def measure(way, reference: str) -> float:
    folder = Path(tempfile.mkdtemp(prefix="pull-bench-"))
    try:
        started = time.perf_counter()
        way(reference, folder)
        return time.perf_counter() - started
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways = {"jitney": ours, "skopeo and umoci": theirs}
    took = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            took[name].append(measure(way, options.reference))
    for name, seconds in took.items():
        print(f"{name:20} median {statistics.median(seconds):6.2f} s   best {min(seconds):6.2f} s")


if __name__ == "__main__":
    main()
