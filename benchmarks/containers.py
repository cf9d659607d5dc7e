"""Containers behind walls: how fast they start, what they cost, what they leave.

    python benchmarks/containers.py                       every case; prints a table
    python benchmarks/containers.py --only warm_ratio,leaks --rounds 5
    python benchmarks/containers.py --smoke               small: does every case run?
    python benchmarks/containers.py --torch 2.13.0        also with torch, of this version: an image of 1 GiB or more

Each case runs against a server of its own, in a folder of its own, with the runtime that the machine can do best (or
JITNEY_RUNTIME). Beside it, where it is installed: `podman run` of the same files. Cold starts beside Ray are in run.py,
which uses the same runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
MS, S, MIB = "ms", "s", "MiB"
Row = tuple[str, str, str, str]  # what, figure, limit, verdict


class Bench:
    """A folder of its own, and how to run programs against it."""

    def __init__(self, *, smoke: bool, rounds: int, torch: str = "") -> None:
        self.smoke = smoke
        self.torch = f"torch=={torch}" if torch else ""
        self.rounds = 1 if smoke else rounds
        self.home = tempfile.mkdtemp(prefix="jitney-bench-")
        self.environment = {**os.environ, "JITNEY_HOME": self.home, "JITNEY_HTTP_PORT": "0", "NO_COLOR": "1"}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users have caches of bytecode

    def run(self, program: str, *arguments: str, **environment: str) -> list[float]:
        """The figures that a program prints: a list of numbers, as its last line."""
        command = [sys.executable, str(PROGRAMS / program), *arguments]
        done = subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")
        figures: list[float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def jitney(self, *arguments: str) -> str:
        """A command, and what it printed."""
        command = [sys.executable, "-m", "jitney", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=300)
        return done.stdout

    def down(self) -> None:
        """End the server of this folder."""
        self.jitney("down")

    def close(self) -> None:
        """Leave nothing."""
        self.down()
        shutil.rmtree(self.home, ignore_errors=True)


def row(what: str, figure: float, unit: str, most: float | None = None) -> Row:
    """A line of the table."""
    limit = f"<= {most:g} {unit}" if most is not None else "-"
    verdict = "" if most is None else ("pass" if figure <= most else "FAIL")
    return what, f"{figure:,.2f} {unit}", limit, verdict


def start_warm(bench: Bench) -> list[Row]:
    """Submit to first user line, with the template warm; each call gets a container of its own."""
    count = "4" if bench.smoke else "41"
    took = bench.run("starts.py", count)
    rows = [row("submit to first line, template warm, trivial", statistics.median(took), MS, 15.0)]
    took = bench.run("starts.py", count, "spare")
    rows.append(row("submit to first line, container kept ready", statistics.median(took), MS, 5.0))
    if bench.torch:
        took = bench.run("starts.py", count, bench.torch)
        rows.append(row("submit to first line, template warm, torch imported", statistics.median(took), MS, 25.0))
    return rows


def first_start(bench: Bench) -> list[Row]:
    """Without a template: the first start of an image that is built, and podman's of the machine's own files."""
    bench.run("starts.py", "1")
    took = []
    for _ in range(bench.rounds):
        bench.jitney("container", "list")
        took += bench.run("first.py", JITNEY_TEMPLATE_IDLE_MS="0")
        bench.down()
    ours = statistics.median(took)
    rows = [row("first start of a cached image, no template", ours, S, 0.6)]
    peer = podman_run_s(bench.rounds)
    if peer is not None:
        rows.append(row(f"  as part of `podman run` of the same files, {peer[1]}", ours / peer[0], "x", 0.5))
    return rows


def podman_run_s(rounds: int) -> tuple[float, str] | None:
    """(seconds of `podman run` of Python on the machine's own files, with which network): none if it can make none."""
    if shutil.which("podman") is None or os.geteuid() != 0:
        return None
    with tempfile.TemporaryDirectory() as root:
        for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "run", "var/tmp"):
            Path(root, name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            Path(root, name).symlink_to(f"usr/{name}")
        for network, chosen in (("with a network", []), ("without a network", ["--network", "none"])):
            took = [_podman_run_s(root, chosen) for _ in range(rounds + 1)]
            if all(took):
                return statistics.median(took[1:]), network
    return None


def _podman_run_s(root: str, network: list[str]) -> float:
    """Seconds; 0 where it fails."""
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []  # crun refuses hybrid control groups
    limits = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=30000:30000"]
    command = [
        "podman", *runtime, "--cgroup-manager", "cgroupfs", "run", "--rm", *network, *limits,
        "--volume", "/usr:/usr:ro", "--rootfs", root, "/usr/bin/python3", "-c", "pass",
    ]  # fmt: skip
    started = time.perf_counter()
    failed = subprocess.run(command, capture_output=True, check=False).returncode
    return 0.0 if failed else time.perf_counter() - started


def scale(bench: Bench) -> list[Row]:
    """From nothing to 100 living containers, and what one that is idle adds."""
    count = 10 if bench.smoke else 100
    seconds, pss_mib = bench.run("scale.py", str(count))
    rows = [
        row(f"0 to {count} live containers", seconds, S, 2.0),
        row("memory that an idle container adds (PSS)", pss_mib, MIB, 3.0),
    ]
    if bench.torch:
        _, pss_mib = bench.run("scale.py", "10" if bench.smoke else "40", bench.torch)
        rows.append(row("memory that an idle container with torch adds (PSS)", pss_mib, MIB, 12.0))
    return rows


def snapshot(bench: Bench) -> list[Row]:
    """A class whose @enter(snap=True) takes two seconds: starts after the first."""
    took = bench.run("snapshots.py", "3" if bench.smoke else "9")
    return [row("start from a 2 s snapshot", statistics.median(took), MS, 60.0)]


def warm_ratio(bench: Bench) -> list[Row]:
    """A warm call through the wall, and without one; rounds interleaved."""
    found: dict[str, list[float]] = {"process": [], "auto": []}
    for _ in range(bench.rounds):
        for runtime, figures in found.items():
            figures += bench.run("warm.py", "200" if bench.smoke else "5000", JITNEY_RUNTIME=runtime)
            bench.down()
    walled, plain = (statistics.median(found[name]) for name in ("auto", "process"))
    return [row("warm call through the wall", walled, MS), row("  as part of one without", walled / plain, "x", 1.1)]


def images(bench: Bench) -> list[Row]:
    """Three packages from a warm cache, and nothing changed."""
    bench.run("images.py", "0")  # fills the cache
    built, same = [], []
    for number in range(1, bench.rounds + 1):
        first, second = bench.run("images.py", str(number))
        built.append(first)
        same.append(second)
    return [
        row("image of 3 packages, cache warm", statistics.median(built) / 1e3, S, 1.5),
        row("image, nothing changed", statistics.median(same), MS, 20.0),
    ]


def edit(bench: Bench) -> list[Row]:
    """Change one file and `jitney run` it: seconds to the first line of user code."""
    folder = Path(bench.home, "edit")
    folder.mkdir(exist_ok=True)
    took = []
    for number in range(bench.rounds + 2):
        script = folder / "edited.py"
        script.write_text((PROGRAMS / "edited.py").read_text().replace("VERSION", str(number)))
        started = time.time()
        printed = bench.jitney("run", str(script))
        at = next(float(line.split()[1]) for line in printed.splitlines() if line.startswith("AT "))
        took.append(at - started)
    return [row("edit one file and run it again, to its first line", statistics.median(took[2:]), S, 0.5)]


def leaks(bench: Bench) -> list[Row]:
    """Start and end containers one after another: what the machine has more of afterwards."""
    count = 20 if bench.smoke else 1000
    grown = bench.run("leaks.py", str(count))
    names = ("mounts", "control groups", "namespaces", "processes", "descriptors of the worker", "folders")
    return [row(f"{count} containers: {name} left", n, "", 0) for name, n in zip(names, grown, strict=True)]


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    case.__name__: case for case in (start_warm, first_start, scale, snapshot, warm_ratio, images, edit, leaks)
}


def main() -> int:
    """Print the table; the exit code says whether a limit was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--torch", default="", metavar="VERSION")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(CASES)
    rows: list[Row] = []
    for name in chosen:
        bench = Bench(smoke=options.smoke, rounds=options.rounds, torch=options.torch)
        try:
            rows += CASES[name](bench)
        except Exception as error:
            rows.append((name, "failed", "-", str(error)[:300]))
        finally:
            bench.close()
        print(f"... {name}", file=sys.stderr)
    print("| work | measured | must be | |\n|---|---|---|---|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    failed = any(cells[3] not in ("", "pass") for cells in rows)
    return 1 if (failed and not options.smoke) or any(cells[1] == "failed" for cells in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
