"""`jitney version`."""

from __future__ import annotations

import platform
import sys

import click

from jitney.cli import terminal


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def version(as_json: bool) -> None:
    """Print the versions in use: Jitney, Python, the system, and the server that runs here.

    \b
    Example:
      jitney version --json
    """
    from importlib.metadata import version as installed

    from jitney.wire.home import Home
    from jitney.wire.messages.link import PROTOCOL

    info = Home.default().read_server_info()
    found = {
        "jitney": installed("jitney"),
        "protocol": str(PROTOCOL),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "server": info.version if info else "",
        "executable": sys.executable,
    }
    if as_json:
        terminal.write_json(found)
        return
    for name, value in found.items():
        print(f"{name:<11} {value or '-'}")
