"""Run the probes where this is started, or compare what was found with what is expected.

python -m jitney.testing.probes run --json --tier namespaces < targets.json
python -m jitney.testing.probes table namespaces.json process.json
python -m jitney.testing.probes list
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from jitney.testing.probes import run, table, targets
from jitney.testing.probes.probe import TIERS, all_probes


def main(arguments: list[str]) -> int:
    """Exit code 1: something is not as expected."""
    parser = argparse.ArgumentParser(prog="python -m jitney.testing.probes", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the probes in this process's surroundings")
    running.add_argument("--json", action="store_true", help="print what `table` reads")
    running.add_argument("--tier", choices=TIERS, default="process", help="what this container is said to be")
    running.add_argument("--only", action="append", default=[], metavar="PREFIX", help="only probes with such names")
    running.add_argument("--targets", default="", metavar="FILE", help="what is known of the outside; - is stdin")
    tabling = commands.add_parser("table", help="compare results with what is expected")
    tabling.add_argument("results", nargs="+", metavar="RESULTS", help="files that `run --json` has printed")
    tabling.add_argument("--strict", action="store_true", help="what was skipped is a difference too")
    commands.add_parser("list", help="every probe, and what is expected of each tier")
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        return _run(chosen)
    if chosen.command == "table":
        reports = [json.loads(Path(path).read_text()) for path in chosen.results]
        return _table(table.compare(reports), is_strict=chosen.strict)
    for one in all_probes():
        _say(f"{one.name:45} {one.tries}")
        _say(" " * 46 + ", ".join(f"{tier}: {table.words(one.expected[tier])}" for tier in TIERS))
    return 0


def _run(chosen: argparse.Namespace) -> int:
    text = sys.stdin.read() if chosen.targets == "-" else Path(chosen.targets).read_text() if chosen.targets else "{}"
    found = run.run(chosen.tier, targets.from_json(text), chosen.only)
    report = run.report(chosen.tier, found)
    if chosen.json:
        _say(json.dumps(report, indent=1))
        return 0
    return _table([row for row in table.compare([report]) if row.found != "missing"], is_strict=False)


def _table(rows: list[table.Row], *, is_strict: bool) -> int:
    for line in table.lines(rows):
        _say(line)
    return 1 if table.differences(rows, is_strict=is_strict) else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
