"""`jitney app`."""

from __future__ import annotations

import click

from jitney.cli import terminal
from jitney.cli.logs import log_options


@click.group()
def app() -> None:
    """List, follow and stop apps.

    APP is the name of a deployed app, or an id (`ap-...`) as `jitney app list` shows it.
    """


@app.command(name="list")
@click.option("--all", "-a", "everything", is_flag=True, help="Stopped ones too.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(everything: bool, limit: int, as_json: bool) -> None:
    """List apps, newest first.

    \b
    Example:
      jitney app list --json | jq -r '.[] | select(.state == "deployed").name'
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.apps import AppList

    request = AppList(include_stopped=everything, limit=limit)
    found = connection.ask(methods.APP_LIST, request, otherwise=lambda: methods.APP_LIST.answer(apps=())).apps
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            a.app_id,
            a.name or "-",
            a.state,
            f"v{a.version}" if a.version else "-",
            a.containers,
            terminal.ago(a.created_at_ms),
        )
        for a in found
    ]
    terminal.table(("id", "name", "state", "version", "containers", "age"), rows, empty="no apps")


@app.command()
@click.argument("app_name", metavar="APP")
def stop(app_name: str) -> None:
    """Stop APP: its containers end, its waiting inputs fail, and a deployed name no longer answers.

    \b
    Example:
      jitney app stop embed
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.apps import AppStop

    stopped = connection.ask(methods.APP_STOP, AppStop(app=app_name))
    print(f"{stopped.app_id} has stopped, {stopped.containers_stopped} containers ended")


@app.command()
@click.argument("app_name", metavar="APP")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def history(app_name: str, as_json: bool) -> None:
    """List the versions of a deployed APP, newest first.

    \b
    Example:
      jitney app history embed
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.apps import AppRef

    found = connection.ask(methods.APP_HISTORY, AppRef(app=app_name)).deployments
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            f"v{d.version}",
            terminal.clock(d.deployed_at_ms)[:19],
            d.tag or "-",
            d.client_version or "-",
            ", ".join(d.functions),
        )
        for d in found
    ]
    terminal.table(("version", "deployed", "tag", "client", "functions"), rows, empty="never deployed")


@app.command()
@click.argument("app_name", metavar="APP")
@click.option("--function", default="", help="Only lines of this function's containers.")
@log_options
def logs(app_name: str, function: str, follow: bool, tail: int | None, since: int, timestamps: bool) -> int:
    """Print what the containers of APP wrote.

    \b
    Examples:
      jitney app logs embed --tail 50
      jitney app logs embed --follow --since 10m --timestamps
    """
    from jitney.cli.logs import show
    from jitney.wire.messages.apps import AppLogs

    request = AppLogs(app=app_name, function=function, follow=follow, since_ms=since, tail=tail)
    return show(request, timestamps=timestamps)
