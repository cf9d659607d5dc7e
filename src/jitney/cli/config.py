"""`jitney config`."""

from __future__ import annotations

import click

from jitney.cli import terminal


@click.group()
def config() -> None:
    """Show and set options.

    An option's value comes from, the later the stronger: its default, `config.toml` in the folder of the
    server, the environment (JITNEY_<OPTION>), a flag.
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON: option -> value and origin.")
def show(as_json: bool) -> int:
    """Show every option, its value, and where the value came from.

    \b
    Example:
      jitney config show --json | jq -r '.["server.http_port"].value'
    """
    from jitney.compose.config import check, fields, read
    from jitney.wire.home import Home

    home = Home.default()
    values, problems = read(home)
    problems += check(values)
    rows = []
    for field in fields():
        key = f"{field.section}.{field.name}"
        rows.append((key, getattr(getattr(values, field.section), field.name), values.origins[key]))
    if as_json:
        terminal.write_json({key: {"value": value, "origin": origin} for key, value, origin in rows})
    else:
        print(f"folder: {home.root}\n")
        terminal.table(("option", "value", "origin"), [(k, terminal.dumps(v), o) for k, v, o in rows], empty="")
    for problem in problems:
        terminal.error(str(problem))
    return 2 if problems else 0


@config.command(name="set")
@click.argument("option")
@click.argument("value")
def set_(option: str, value: str) -> None:
    """Set OPTION to VALUE in config.toml; a running server takes it at its next start.

    \b
    Examples:
      jitney config set http_port 0
      jitney config set worker.index_url https://pypi.org/simple
    """
    from jitney.compose.config import FILE_NAME, check, find, parse, read, set_in_file
    from jitney.errors import InvalidError
    from jitney.wire.home import Home

    home = Home.default()
    field = find(option)
    parsed = parse(field, value)
    config, _ = read(home, environ={}, flags={field.name: parsed})
    for problem in check(config):
        if problem.where == f"--{field.name.replace('_', '-')}":
            raise InvalidError(problem.message)
    path = home.root / FILE_NAME
    set_in_file(path, field.section, field.name, parsed)
    print(f"{field.section}.{field.name} = {terminal.dumps(parsed)} in {path}")
