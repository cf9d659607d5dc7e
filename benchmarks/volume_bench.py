"""Volumes: transfers against `cp`, a commit of one file among many, a folder of small files.

    python benchmarks/volume_bench.py [--folder DIR] [--gib 5] [--rounds 3] [--files 100000]

Everything is done by the SDK, with a server of its own in DIR, and on one disk. An upload is acknowledged when it is
synced, so it is compared with `cp` and a sync of the copy, and shown beside `cp` alone, which leaves its copy in
memory: what a disk cannot take in that time, no upload can beat. Each round does all of them in turn, each with what it
reads in memory and nothing else of ours, and ratios are of one round each. `by the link`: as a client does that does
not see the server's folder. `CPU`: processor seconds of client and server, which say more than times where others work
too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

GIB = 1 << 30
WAYS = ("upload", "download")
SMALL_FILES = 10_000
SMALL_BYTES = 4_000
LARGE_BYTES = 1 << 20
CLOCK_HZ = os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_s() -> float:
    """Of this process, its children, and the server, so far."""
    from jitney.wire.home import Home

    used = os.times()
    info = Home.default().read_server_info()
    ticks = Path(f"/proc/{info.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] if info else []
    return used.user + used.system + used.children_user + used.children_system + sum(map(int, ticks)) / CLOCK_HZ


def settle() -> None:
    """What others have left in memory goes to the disk first."""
    os.sync()


def only_in_memory(read: Path, folder: Path) -> None:
    """Have the kernel forget what files of ours hold, but for one."""
    for path in folder.rglob("*"):
        if path != read and path.is_file() and path.stat().st_size > LARGE_BYTES:
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
    with read.open("rb", buffering=0) as file:
        while file.read(LARGE_BYTES):
            pass


def make_file(path: Path, size: int) -> None:
    """A file of which no two blocks are alike."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(size >> 20):
            file.write(number.to_bytes(8, "big") + block[8:])


def copy(source: Path, target: Path, *, sync: bool) -> None:
    subprocess.run(["cp", str(source), str(target)], check=True)
    if sync:
        subprocess.run(["sync", str(target)], check=True)


def transfers(folder: Path, size: int, rounds: int, *, is_at_hand: bool) -> None:
    import jitney
    from jitney.client import volume_download as files
    from jitney.client import volume_files
    from jitney.client.portal import PORTAL

    source, copied, back = folder / "source", folder / "copied", folder / "back"
    make_file(source, size)
    volume = jitney.Volume.from_name("transfers", create_if_missing=True)
    if not is_at_hand:
        volume_files.incoming_of = lambda folder: None
    took: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}

    def upload() -> None:
        with volume.batch_upload(force=True) as batch:
            batch.put_file(source, "/file")

    def download() -> None:  # what `jitney volume get` does
        async def get() -> None:
            await files.download(await volume._transfer_place(), "file", None, back, force=True)

        PORTAL.call(get())

    def download_by_link() -> None:
        with back.open("wb") as file:
            volume.read_file_into_fileobj("/file", file)

    for number in range(rounds):
        with source.open("r+b") as file:  # another content each time, in every block
            for at in range(0, size, 1 << 20):
                file.seek(at + 8)
                file.write(number.to_bytes(8, "big"))
        ways = {
            "cp": lambda: copy(source, copied, sync=False),
            "cp and sync": lambda: copy(source, copied, sync=True),
            "upload": upload,
            "download": download if is_at_hand else download_by_link,
        }
        for name, way in ways.items():
            copied.unlink(missing_ok=True)
            back.unlink(missing_ok=True)
            settle()
            contents = (folder / "home").glob("**/files/*/*")
            only_in_memory(
                source if name != "download" else max(contents, key=lambda path: path.stat().st_mtime), folder
            )
            before = cpu_s()
            took.setdefault(name, []).append(timed(way))
            used.setdefault(name, []).append(cpu_s() - before)
        assert back.stat().st_size == size
    subprocess.run(["cmp", str(source), str(back)], check=True)
    for path in (source, copied, back):
        path.unlink(missing_ok=True)
    middle = {name: statistics.median(seconds) for name, seconds in took.items()}
    where = "the folder at hand" if is_at_hand else "by the link"
    for name, seconds in middle.items():
        print(f"{size / GIB:g} GiB, {where}: {name:12} {seconds:6.2f} s  {size / seconds / 1e6:6,.0f} MB/s"
              f"  CPU {statistics.median(used[name]):5.2f} s")  # fmt: skip
    for way in WAYS:
        others = {name: statistics.median(ratios(took[name], took[way])) for name in middle if name not in WAYS}
        print(f"  {way:8} " + ", ".join(f"{ratio:.2f}x of {name}" for name, ratio in others.items()))


def ratios(one: list[float], other: list[float]) -> list[float]:
    """Of each round by itself: what else goes on changes from one to the next."""
    return [a / b for a, b in zip(one, other, strict=True)]


def small_files(folder: Path, rounds: int) -> None:
    import jitney

    took, copied = [], []
    for number in range(rounds):
        source = folder / f"small-{number}"
        for one in range(SMALL_FILES):
            path = source / f"{one % 100:02d}" / f"{one}.txt"
            if one < 100:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(SMALL_BYTES))
        settle()
        volume = jitney.Volume.from_name(f"small-{number}", create_if_missing=True)

        def put(volume=volume, source=source) -> None:
            with volume.batch_upload() as batch:
                batch.put_directory(source, "/")

        took.append(timed(put))
        settle()
        target = folder / f"copy-{number}"  # nothing is removed before the end: ext4 goes slowly where it was
        copied.append(
            timed(lambda source=source, target=target: subprocess.run(["cp", "-r", source, target], check=True))
        )
    print(f"put_directory of {SMALL_FILES:,} files of {SMALL_BYTES:,} bytes: {statistics.median(took):.2f} s "
          f"(cp -r, not synced: {statistics.median(copied):.2f} s)")  # fmt: skip


def one_of_many(files: int, rounds: int) -> None:
    import io

    import jitney
    from jitney.client.portal import PORTAL
    from jitney.core.volumes import whole
    from jitney.values.volumes import Entry
    from jitney.wire.messages.volumes import VolumeCommit
    from jitney.wire.methods import VOLUME_COMMIT

    volume = jitney.Volume.from_name("many", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"x"), "first")
    content = whole(b"x")

    def entry(number: int) -> Entry:
        return Entry(path=f"{number // 1_000}/{number}.bin", size=1, digest=content.digest, blocks=content.blocks)

    async def fill() -> None:
        place = await volume._place()
        puts = tuple(entry(number) for number in range(files))
        for start in range(0, files, 50_000):
            part = puts[start : start + 50_000]
            await place.ask(VOLUME_COMMIT, VolumeCommit(volume_id=place.volume_id, puts=part))

    filled = timed(lambda: PORTAL.call(fill()))
    took = []
    for number in range(rounds):

        def change(number=number) -> None:
            with volume.batch_upload(force=True) as batch:
                batch.put_file(io.BytesIO(b"%d" % number), f"/{number % 100}/{number % 100 * 1000}.bin")

        took.append(timed(change))
    listed = timed(lambda: volume.listdir("/7"))
    print(f"{files:,} entries committed in {filled:.2f} s; then one file put and committed, p50 "
          f"{statistics.median(took) * 1000:.1f} ms, max {max(took) * 1000:.1f} ms; "
          f"a folder of 1,000 listed in {listed * 1000:.1f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--link-gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=100_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="volume-bench-", dir=options.folder))
    os.environ["JITNEY_HOME"] = str(folder / "home")
    try:
        one_of_many(options.files, 21)
        small_files(folder, options.rounds)
        if options.gib:
            transfers(folder, round(options.gib * 1024) << 20, options.rounds, is_at_hand=True)
        if options.link_gib:
            transfers(folder, round(options.link_gib * 1024) << 20, options.rounds, is_at_hand=False)
    finally:
        subprocess.run([sys.executable, "-m", "jitney", "down"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
