"""`jitney worker`: hidden, since the server starts it."""

from __future__ import annotations

import click


@click.command(hidden=True)
@click.option(
    "--home", type=click.Path(file_okay=False), help="The server's folder; default: JITNEY_HOME or ~/.jitney."
)
def worker(home: str | None) -> int:
    """Run this machine's worker in the foreground. The server starts one by itself when none is attached."""
    from pathlib import Path

    from jitney.compose.config import load
    from jitney.compose.worker import run
    from jitney.wire.home import Home

    place = Home(Path(home).absolute()) if home else Home.default()
    return run(place, load(place))
