"""Compares what was found with what is expected."""

from __future__ import annotations

from typing import Any, NamedTuple

from jitney.testing.probes.probe import ANY, Probe, Verdict, all_probes


class Row(NamedTuple):
    """One probe in one tier. `is_as_expected` None: it was skipped, which proves nothing."""

    name: str
    tier: str
    expected: str
    found: str
    detail: str
    is_as_expected: bool | None


def compare(reports: list[dict[str, Any]]) -> list[Row]:
    """Every result of every report, in order. A probe that a report lacks is a row too."""
    rows = []
    for one in reports:
        found = {result["name"]: result for result in one["results"]}
        rows += [_row(probe, one["tier"], found.get(probe.name)) for probe in all_probes()]
    return rows


def _row(probe: Probe, tier: str, result: dict[str, str] | None) -> Row:
    expected = probe.expected[tier]
    if result is None:
        return Row(probe.name, tier, words(expected), "missing", "the report does not have it", None)
    verdict = Verdict(result["verdict"])
    as_expected: bool | None = verdict in expected
    if verdict is Verdict.SKIPPED and expected != {Verdict.SKIPPED}:
        as_expected = None
    return Row(probe.name, tier, words(expected), verdict.value, result["detail"], as_expected)


def words(expected: frozenset[Verdict]) -> str:
    """'denied', 'denied or limited', 'any'."""
    return "any" if expected == ANY else " or ".join(sorted(one.value for one in expected))


def differences(rows: list[Row], *, is_strict: bool = False) -> list[Row]:
    """Rows that break a promise; if strict, also those that prove nothing."""
    return [row for row in rows if row.is_as_expected is False or (is_strict and row.is_as_expected is None)]


def lines(rows: list[Row]) -> list[str]:
    """For people."""
    signs = {True: " ", False: "!", None: "?"}
    header = f"  {'probe':40} {'tier':10} {'expected':17} {'found':8} detail"
    body = [
        f"{signs[one.is_as_expected]} {one.name:40} {one.tier:10} {one.expected:17} {one.found:8} {one.detail[:100]}"
        for one in rows
    ]
    wrong, open_ = len(differences(rows)), len([row for row in rows if row.is_as_expected is None])
    return [header, *body, f"{len(rows)} probes, {wrong} differences (!), {open_} that prove nothing here (?)"]
