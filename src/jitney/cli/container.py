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
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(container_id: str, as_json: bool) -> None:
    """Show one container: what it does or did, and where the time of its start went.

    \b
    Example:
      jitney container show ta-...
    """
    from jitney.cli import connection
    from jitney.core import phases
    from jitney.wire import methods
    from jitney.wire.messages.containers import ContainerRef

    found = connection.ask(methods.CONTAINER_GET, ContainerRef(container_id=container_id))
    if as_json:
        terminal.write_json(found)
        return
    start = f"{terminal.span(phases.total_ms(found.phases_ms))}: {phases.describe(found.phases_ms) or '-'}"
    rows = [
        ("container", found.container_id),
        ("function", found.function_name or "-"),
        ("app", found.app_id),
        ("machine", found.node_id),
        ("phase", found.phase),
        ("pid", found.pid or "-"),
        ("age", terminal.ago(found.created_at_ms)),
        ("start", start),
        *([("note", found.start_note)] if found.start_note else []),
        ("inputs", found.inputs_done),
        ("busy", terminal.span(found.busy_ms)),
        ("end", found.exit.describe() if found.exit else "-"),
    ]
    for name, value in rows:
        print(f"{name:<10} {terminal.safe_line(str(value))}")


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


@container.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--interactive", "-i", is_flag=True, help="Give it the standard input of this command.")
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal; with -i it is joined to this one.")
@click.option("--env", "-e", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable for it.")
@click.option("--workdir", "-w", default="", help="Its folder; default: that of the container.")
@click.argument("container_id")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(
    container_id: str, command: tuple[str, ...], interactive: bool, tty: bool, variables: tuple[str, ...], workdir: str
) -> int:
    """Run a command in a container that lives.

    It has the container's files, variables and limits. The exit code is its own: 127 if there is no such command, 126
    if it cannot be executed, 137 if the container ended meanwhile. It ends with this command, at the latest. With -it,
    Ctrl-C goes inside; without -t, Ctrl-C sends it SIGINT, and a second one ends it.

    \b
    Examples:
      jitney container exec ta-... ps aux
      jitney container exec -it ta-... bash
      tar cf - data | jitney container exec -i ta-... tar xf -
    """
    import os

    from jitney.cli import connection, terminal_session
    from jitney.cli.shell import told
    from jitney.values.exec import ExecSpec

    if interactive and tty and not terminal_session.is_terminal(0):
        raise click.UsageError("-t with -i needs a terminal as standard input, and it is none: leave -t out")
    env = {"TERM": os.environ.get("TERM") or "xterm"} if tty else {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--env {variable!r} is not NAME=VALUE")
        env[name] = value
    spec = ExecSpec(argv=command, env=env, cwd=workdir, tty=terminal_session.size() if tty else None)
    return told(*terminal_session.run(connection.configured(), container_id, spec, forwards=interactive))


@container.command()
@click.argument("container_id", required=False, default="")
@click.option("--watch", "-w", "goes_on", is_flag=True, help="Again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; with --watch a line each time.")
def stats(container_id: str, goes_on: bool, as_json: bool) -> int:
    """Show what containers use: CPU (of one core), memory, processes, bytes from and to disks, files.

    PEAK is the most memory that it had, LIMIT what ends it. "-" stands for what the machine does not tell.

    \b
    Examples:
      jitney container stats
      jitney container stats ta-... --watch
    """
    from jitney.cli.stats import show

    return show(container_id, goes_on=goes_on, as_json=as_json)
