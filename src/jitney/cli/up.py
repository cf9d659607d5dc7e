"""`jitney up` and `jitney down`."""

from __future__ import annotations

import click

from jitney.cli import terminal


@click.command()
@click.option("--background", is_flag=True, help="Return when it is ready; stop it with `jitney down`.")
@click.option("--port", "http_port", type=click.IntRange(0, 65535), help="Port of the HTTP interface; 0: any free one.")
@click.option("--json", "as_json", is_flag=True, help="With --background: print how to reach it as JSON.")
def up(background: bool, http_port: int | None, as_json: bool) -> int:
    """Run the server of this machine.

    Without it, commands that need a server start one by themselves, which stops when it has had nothing to do
    for a while. A server that was started with `up` runs until it is told to stop. In the foreground its log
    is shown, and Ctrl-C ends it and its containers.

    \b
    Examples:
      jitney up
      jitney up --background --port 0
      JITNEY_HOME=/srv/jitney jitney up
    """
    from jitney.cli.main import OK, UNREACHABLE
    from jitney.compose import processes
    from jitney.compose.config import load
    from jitney.errors import AlreadyExistsError
    from jitney.wire.home import Home

    home = Home.default()
    config = load(home, flags={"http_port": http_port})
    if not background:
        from jitney.compose.server import run

        try:
            run(home, config, background=False, stay=True)
        except AlreadyExistsError as error:
            terminal.jitney_error(error)
            return UNREACHABLE
        return OK
    flags = ["--stay"] if http_port is None else ["--stay", "--http-port", str(http_port)]
    already = processes.running(home)
    pid = already or processes.start_server(home, flags)
    info = home.read_server_info()
    if as_json:
        terminal.write_json(info)
    else:
        at = f", {info.http}" if info and info.http else ""
        print(f"the server {'runs already' if already else 'runs'}: pid {pid}, {home.root}{at}")
    return OK


@click.command()
@click.option("--force", is_flag=True, help="Kill the server if it does not end by itself.")
@click.option("--keep-containers", is_flag=True, help="Leave containers running for the next server to take over.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for its end.")
def down(force: bool, keep_containers: bool, timeout: float) -> int:
    """Stop the server of this machine, and its containers.

    Inputs that run are given up: those of durable calls run again when a server starts next. Nothing to stop
    is no error.

    \b
    Examples:
      jitney down
      jitney down --keep-containers && jitney up     restart without losing warm containers
    """
    from jitney.cli.main import OK, UNREACHABLE
    from jitney.compose import processes
    from jitney.wire.home import Home

    home = Home.default()
    pid = processes.running(home)
    if pid is None:
        print(f"no server runs in {home.root}")
        return OK
    if not _ask(keep_containers):
        terminal.note("the server does not answer: it is told to end by a signal")
        processes.terminate(pid)
    if processes.wait_for_end(home, timeout_ms=int(timeout * 1000), force=force):
        print(f"the server has ended (pid {pid})")
        return OK
    terminal.error(
        f"the server (pid {pid}) has not ended after {timeout:g} s",
        why=f"its log is {home.server_log}",
        fix="`jitney down --force` kills it; containers and durable calls are taken over by the next one",
    )
    return UNREACHABLE


def _ask(keep_containers: bool) -> bool:
    """Ask it over its socket, which lets it answer what it was asked; whether it was there to be asked."""
    from jitney.cli import connection
    from jitney.errors import JitneyError
    from jitney.wire import methods
    from jitney.wire.messages.server import ServerStop

    try:
        connection.ask_running(methods.SERVER_STOP, ServerStop(keep_containers=keep_containers))
    except JitneyError:
        return False
    return True
