"""`jitney doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jitney.cli import terminal

if TYPE_CHECKING:
    from jitney.compose.findings import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON: id, severity, what, why, fix.")
@click.option("--strict", is_flag=True, help="Count warnings as failures.")
def doctor(as_json: bool, strict: bool) -> int:
    """Check what this machine can and cannot do.

    Looks at Python, the server's folder and token, the server itself, disk, store, uv, shared memory, the
    runtime's tier, limits, the clock and leftovers. It starts nothing and changes nothing.

    \b
    Exit code 0: nothing keeps Jitney from working; 1: something does.

    \b
    Examples:
      jitney doctor
      jitney doctor --json | jq '.[] | select(.severity != "ok")'
    """
    from jitney.compose import checks
    from jitney.compose.config import check, read
    from jitney.wire.home import Home

    home = Home.default()
    config, problems = read(home)
    findings = checks.run(home, config, problems + check(config))
    if as_json:
        terminal.write_json(findings)
    else:
        _show(findings)
    bad = {"error", "warning"} if strict else {"error"}
    return 1 if any(finding.severity in bad for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    marks = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "error": ("FAIL", "red")}
    for finding in findings:
        mark, colour = marks[finding.severity]
        click.echo(f"{click.style(f'{mark:<5}', fg=colour)} {finding.id:<12} {finding.what}")
        if finding.severity == "ok" and finding.id not in ("tiers", "runtime"):
            continue
        for line in finding.why.splitlines():
            click.echo(f"{'':<18} {line}")
        if finding.fix:
            click.echo(f"{'':<18} -> {finding.fix}")
    count = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    click.echo(f"\n{len(findings)} checks, {count} failed, {warnings} warnings")
