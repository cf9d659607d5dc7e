"""`jitney deploy`."""

from __future__ import annotations

import click

from jitney.cli import terminal


@click.command()
@click.argument("program", metavar="FILE[::APP]")
@click.option("--module", "-m", is_flag=True, help="FILE is the dotted name of a module.")
@click.option("--name", default="", help="Name of the deployment; default: that of the app.")
@click.option("--tag", default="", help="A word for this version, a commit for example; `jitney app history` shows it.")
@click.option("--stream-logs", is_flag=True, help="Then follow the logs, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print app_id, name, version, changed and functions as JSON.")
def deploy(program: str, module: bool, name: str, tag: str, stream_logs: bool, as_json: bool) -> int:
    """Give an app a name that outlives this command.

    Its functions can then be called from any program by `jitney.Function.from_name(APP, FUNCTION)`. Deploying the
    same name again makes a new version: containers of the old one finish what they work on. Deploying exactly what
    runs already changes nothing.

    \b
    Examples:
      jitney deploy embed.py
      jitney deploy embed.py --name embed-test --tag "$(git rev-parse --short HEAD)"
    """
    from jitney.cli import starting

    starting.begin()
    from jitney.cli import interrupts, logs
    from jitney.cli import progress as displays
    from jitney.cli.loading import load, split_reference
    from jitney.cli.program import only_app
    from jitney.client import output
    from jitney.wire.messages.apps import AppLogs

    place, wanted = split_reference(program)
    app = only_app(load(place, as_module=module), wanted, place)
    display = displays.choose(quiet=as_json, phases=None)
    with interrupts.stopping("stopping"), output.use(display):
        try:
            done = app.deploy(name=name or None, tag=tag)
        finally:
            display.close()
    if as_json:
        terminal.write_json(done._asdict())
    else:
        how = "" if done.changed else " (nothing has changed)"
        print(f"deployed {done.name} as version {done.version}{how}: {', '.join(done.functions)}")
    return logs.show(AppLogs(app=done.app_id, follow=True)) if stream_logs else 0
