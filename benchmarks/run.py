"""Us and our peers on the same work, in one table.

Each measurement is a process of its own, in the interpreter that has its libraries; rounds of different
systems are interleaved, so that a slow minute of the machine hits all of them. What counts is the median of
rounds, and the ratio to the peer on the same machine in the same hour.

    python benchmarks/run.py                          everything; writes benchmarks/RESULTS.md
    python benchmarks/run.py --only warm_call,map_100k --rounds 5
    python benchmarks/run.py --smoke                  our side only, small: does every case run?
    python benchmarks/run.py --torch                  also cold starts with torch (2 GiB), for which
                                                      .venv-bench/bin/pip install torch==2.13.0 comes first
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH_PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
RESULTS = HERE / "RESULTS.md"
MEASUREMENT_SECONDS_MAX = 900

US = "jitney"
SCRIPTS = {
    US: HERE / "jitney_bench.py",
    "ray": HERE / "peers" / "ray_bench.py",
    "pools": HERE / "peers" / "pools_bench.py",
}

Field = str  # "value", or a key of "extra"
Measured = dict[tuple[str, str, Field], list[float]]  # (case, system, field) -> one value a round


@dataclass(frozen=True)
class Target:
    """One line of the table: a figure of ours, and what it may be beside a peer's, or alone."""

    case: str
    what: str
    unit: str
    field: Field = "value"
    peer: str | None = None  # None: the limit is absolute
    peer_name: str = ""
    peer_field: Field = "value"
    at_most: float | None = None
    at_least: float | None = None
    needs_torch: bool = False

    def verdict(self, figure: float | None) -> str:
        if self.limit == "-":
            return ""
        if figure is None:
            return "not measured"
        high, low = self.at_most, self.at_least
        return "pass" if (high is None or figure <= high) and (low is None or figure >= low) else "FAIL"

    @property
    def limit(self) -> str:
        if self.at_most is None and self.at_least is None:
            return "-"
        bound = f"<= {self.at_most:.3g}" if self.at_most is not None else f">= {self.at_least:,.4g}"
        return f"{bound}x" if self.peer else f"{bound} {self.unit}"


TARGETS = (
    Target("warm_call", "warm call, 100 B, p50", "ms", peer="ray", peer_name="Ray actor", at_most=0.4),
    Target("warm_call", "warm call, 100 B, p50", "ms", peer="ray", peer_name="Ray task", peer_field="task",
           at_most=0.15),
    Target("warm_call", "warm call, 100 B, p99", "ms", "p99", "ray", "Ray actor", "p99"),
    Target("map_100k", "map of trivial inputs", "/s", peer="ray", peer_name="Ray tasks", at_least=15),
    Target("map_100k", "map of trivial inputs", "/s", peer="pools", peer_name="mp.Pool, chunks of 1",
           at_least=0.7),
    Target("array_64mib", "64 MiB array in and out", "ms", peer="ray", peer_name="Ray actor", at_most=1.5),
    Target("array_64mib", "64 MiB array in and out", "ms", peer="pools", peer_name="ProcessPool",
           at_most=0.1),
    Target("generator", "generator, first item", "ms", "first_item_ms", "ray", "Ray task", "first_item_ms",
           at_most=1),
    Target("generator", "generator, items", "/s", peer="ray", peer_name="Ray task", at_least=5),
    Target("cold_start", "new container to first line", "ms", peer="ray", peer_name="Ray new actor",
           at_most=1 / 40),
    Target("cold_start_torch", "the same with torch", "ms", peer="ray", peer_name="Ray new actor",
           at_most=1 / 80, needs_torch=True),
    Target("scale_100", "0 -> 100 live containers", "s", at_most=1.5),
    Target("scale_100", "0 -> 100 live containers", "s", peer="ray", peer_name="Ray, 20 actors only"),
    Target("nothing_to_first", "nothing -> first result", "s", peer="ray", peer_name="Ray", at_most=1 / 3),
    Target("idle_memory", "idle system, PSS", "MiB", peer="ray", peer_name="Ray", at_most=1 / 3),
    Target("map_1m_memory", "growth over a map of 1,000,000", "MiB", at_most=200),
    Target("spawn_durable", "durable spawns, 256 in flight", "/s", at_least=3000),
)  # fmt: skip


# ------------------------------------------------------------------------------------------ measuring


def measure(system: str, case: str, python: str, arguments: list[str]) -> dict[str, float]:
    """One measurement in a process of its own: its value and extras, or RuntimeError with its last words."""
    command = [python, str(SCRIPTS[system]), "--case", case, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=MEASUREMENT_SECONDS_MAX)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"no result in {MEASUREMENT_SECONDS_MAX} s") from None
        raise
    if process.returncode:
        raise RuntimeError(err.strip()[-2000:] or f"exited with {process.returncode}")
    # Some peers print more, and after the result.
    lines = [line for line in out.splitlines() if line.startswith('{"case"')]
    if not lines:
        raise RuntimeError(f"printed no result: {out.strip()[-500:]!r}")
    answer = json.loads(lines[-1])
    extra = {k: v for k, v in answer["extra"].items() if isinstance(v, int | float)}
    return {"value": answer["value"], **extra}


def systems_for(case: str, *, alone: bool) -> list[str]:
    return [US, *sorted({t.peer for t in TARGETS if t.case == case and t.peer and not alone})]


def measure_all(cases: list[str], options: argparse.Namespace) -> tuple[Measured, dict[tuple[str, str], str]]:
    """All rounds of all cases. A system that fails a case is not asked for it again; its words are kept."""
    measured: Measured = defaultdict(list)
    failed: dict[tuple[str, str], str] = {}
    arguments = [f"--{name}" for name in ("smoke", "full") if getattr(options, name)]
    for case in cases:
        for round_number in range(options.rounds):
            systems = systems_for(case, alone=options.smoke)
            # A different one goes first each round: whoever follows a heavy one finds a warmer machine.
            for system in systems[round_number % len(systems) :] + systems[: round_number % len(systems)]:
                if (case, system) in failed:
                    continue
                try:
                    fields = measure(system, case, options.python, arguments)
                except RuntimeError as error:
                    failed[case, system] = str(error)
                    print(
                        f"  {case} round {round_number + 1}: {system} failed: {error}",
                        file=sys.stderr,
                        flush=True,
                    )
                    continue
                for field, value in fields.items():
                    measured[case, system, field].append(value)
                shown = ", ".join(f"{k} {number(v)}" for k, v in fields.items())
                print(f"  {case} round {round_number + 1}: {system}: {shown}", file=sys.stderr, flush=True)
    return measured, failed


# ------------------------------------------------------------------------------------------ the table


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def row(target: Target, measured: Measured) -> list[str]:
    def middle(system: str, field: Field) -> float | None:
        values = measured.get((target.case, system, field))
        return statistics.median(values) if values else None

    ours = middle(US, target.field)
    theirs = middle(target.peer, target.peer_field) if target.peer else None
    figure = ours if not target.peer else (ours / theirs if ours is not None and theirs else None)
    return [
        target.what,
        f"{number(ours)} {target.unit}" if ours is not None else "-",
        target.peer_name or "-",
        f"{number(theirs)} {target.unit}" if theirs is not None else "-",
        f"{figure:.3g}" if figure is not None and target.peer else "-",
        target.limit,
        target.verdict(figure),
    ]


HEADER = ["what", "Jitney", "peer", "the peer's", "ratio", "target", ""]


def table(rows: Iterable[list[str]]) -> str:
    """A Markdown table that also reads well in a terminal."""
    lines = [HEADER, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]

    def render(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([render(HEADER), render(["-" * width for width in widths]), *map(render, lines[1:])])


# ------------------------------------------------------------------------------------------ the report


def machine() -> str:
    model = platform.processor() or platform.machine()
    memory = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
        memory = f", {memory_kib / 2**20:.0f} GiB"
    except OSError:
        pass  # not Linux: the names above do
    return f"{model}, {os.cpu_count()} cores{memory}, {platform.system()} {platform.release()}"


def versions(python: str) -> str:
    code = (
        "import importlib.metadata as m, platform\n"
        "print('Python', platform.python_version())\n"
        "for n in ('jitney', 'ray', 'numpy', 'uvloop', 'msgspec', 'torch'):\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return ", ".join(done.stdout.splitlines())


def report(rows: list[list[str]], options: argparse.Namespace) -> str:
    now = datetime.datetime.now(datetime.UTC)
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `make bench`. Medians of the rounds; `ratio` is ours by the peer's, measured in turn",
            "on one machine. The scripts in this folder say what each case does; `run.py` has the targets.",
            "",
            f"- {now:%Y-%m-%d %H:%M} UTC, {options.rounds} rounds",
            f"- {machine()}",
            f"- {versions(options.python)}",
            "",
            table(rows),
            "",
        ]
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Jitney and its peers on the same work.")
    parser.add_argument("--only", default="", help="cases, separated by commas")
    parser.add_argument("--rounds", type=int, default=None, help="3 unless told; 1 with --smoke")
    parser.add_argument("--smoke", action="store_true", help="our side only, one round of small sizes")
    parser.add_argument("--full", action="store_true", help="sizes that take minutes with some peers")
    parser.add_argument("--torch", action="store_true", help="also the case that needs torch")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.smoke else 3)
    # The smoke run needs no peers, so it needs no environment of its own.
    options.python = sys.executable if options.smoke or not BENCH_PYTHON.exists() else str(BENCH_PYTHON)
    return options


def chosen_cases(options: argparse.Namespace) -> list[str]:
    known = list(dict.fromkeys(t.case for t in TARGETS))
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - set(known):
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    without = {t.case for t in TARGETS if t.needs_torch and not options.torch}
    if options.smoke and not importlib.util.find_spec("numpy"):
        without.add("array_64mib")
    return only or [case for case in known if case not in without]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    cases = chosen_cases(options)
    with tempfile.TemporaryDirectory(prefix="jitney-bench-", ignore_cleanup_errors=True) as home:
        os.environ["JITNEY_BENCH_HOME"] = home  # one for all rounds, so that images are built once
        measured, failed = measure_all(cases, options)
    if options.smoke:
        ran = len(cases) - len(failed)
        print(f"benchmarks: {ran} ran, {len(failed)} failed: {', '.join(case for case, _ in failed) or '-'}")
        return 1 if failed else 0
    rows = [row(target, measured) for target in TARGETS if target.case in cases]
    print(table(rows))
    if not options.only:
        RESULTS.write_text(report(rows, options))
    missed = any(cells[-1] not in {"pass", ""} for cells in rows)
    return 1 if failed or (options.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
