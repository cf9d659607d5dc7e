"""`jitney container`."""

from __future__ import annotations

import click

from jitney.cli import terminal
from jitney.cli.logs import log_options


@click.group()
def container() -> None:
    """List and stop containers, and read their logs."""


@container.command(name="list")
@click.option("--app", "app_name", default="", help="Only those of this app (name or id).")
@click.option("--all", "-a", "everything", is_flag=True, help="Ended ones too.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(app_name: str, everything: bool, limit: int, as_json: bool) -> None:
    """List containers, newest first.

    \b
    Example:
      jitney container list --app embed
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.containers import ContainerList

    request = ContainerList(app=app_name, include_ended=everything, limit=limit)
    nothing = methods.CONTAINER_LIST.answer(containers=())
    found = connection.ask(methods.CONTAINER_LIST, request, otherwise=lambda: nothing).containers
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            c.container_id, c.function_name or "-", c.phase, c.pid or "-", c.inputs_done,
            terminal.span(c.busy_ms), terminal.ago(c.created_at_ms), c.exit.describe() if c.exit else "-",
        )
        for c in found
    ]  # fmt: skip
    headings = ("id", "function", "phase", "pid", "inputs", "busy", "age", "end")
    terminal.table(headings, rows, empty="no containers")


@container.command()
@click.argument("container_id")
@click.option("--graceful", is_flag=True, help="Let it finish the inputs that it works on.")
def stop(container_id: str, graceful: bool) -> None:
    """Stop one container. Inputs that it works on run again elsewhere; this uses up no retry.

    \b
    Example:
      jitney container stop ta-... --graceful
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.containers import ContainerStop

    connection.ask(methods.CONTAINER_STOP, ContainerStop(container_id=container_id, graceful=graceful))
    print(f"{container_id} is stopping")


@container.command()
@click.argument("container_id")
@log_options
def logs(container_id: str, follow: bool, tail: int | None, since: int, timestamps: bool) -> int:
    """Print what one container wrote.

    \b
    Example:
      jitney container logs ta-... --tail 20
    """
    from jitney.cli.logs import show
    from jitney.wire.messages.apps import AppLogs

    request = AppLogs(container_id=container_id, follow=follow, since_ms=since, tail=tail)
    return show(request, timestamps=timestamps)
