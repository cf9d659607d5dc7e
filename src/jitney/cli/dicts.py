"""`jitney dict`."""

from __future__ import annotations

from typing import Any

import click

from jitney.cli import objects, terminal
from jitney.cli.objects import AS_JSON, YES
from jitney.errors import NotFoundError
from jitney.values.objects import ObjectKind


@click.group(name="dict", cls=objects.Group)
def dict_() -> None:
    """Make dicts, look into them, and clear or delete them.

    What they have is shown if it is plain data. Anything else is named: a command runs no code of what it shows.
    """


@dict_.command()
@click.argument("name")
@AS_JSON
def create(name: str, as_json: bool) -> None:
    """Make a dict, if there is none of that name.

    \b
    Example:
      jitney dict create counts
    """
    objects.create(ObjectKind.DICT, name, as_json=as_json)


@dict_.command(name="list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List dicts, newest first.

    \b
    Example:
      jitney dict list --json
    """
    objects.show(ObjectKind.DICT, as_json=as_json)


@dict_.command()
@click.argument("name")
@click.option("--limit", "-n", type=click.IntRange(1), default=100, show_default=True, help="At most this many.")
@AS_JSON
def items(name: str, limit: int, as_json: bool) -> None:
    """Show keys with their values, in the order in which they were first set.

    \b
    Example:
      jitney dict items counts --limit 20
    """
    from jitney.cli import connection, preview
    from jitney.wire import methods
    from jitney.wire.messages.dicts import DictScan

    object_id = objects.opened(ObjectKind.DICT, name).object_id
    found: list[tuple[Any, Any]] = []
    after: int | None = 0
    while after is not None and len(found) < limit:
        page = connection.ask(methods.DICT_SCAN, DictScan(object_id=object_id, after=after, limit=limit - len(found)))
        found += [(preview.key(key), preview.value(value or b"")) for key, value in page.entries]
        after = page.after
    if as_json:
        terminal.write_json([{"key": preview.plain(key), "value": preview.plain(value)} for key, value in found])
        return
    rows = [(preview.line(key), preview.line(value)) for key, value in found]
    terminal.table(("key", "value"), rows, empty="no entries")
    if after is not None:
        terminal.note(f"these are the first {limit:,}: --limit shows more")


@dict_.command()
@click.argument("name")
@click.argument("key")
@click.option("--literal", is_flag=True, help="KEY is Python: 3, or \"('a', 1)\". Otherwise it is a text.")
@AS_JSON
def get(name: str, key: str, literal: bool, as_json: bool) -> None:
    """Show the value of one key.

    \b
    Examples:
      jitney dict get counts page
      jitney dict get counts 3 --literal
    """
    from jitney.cli import connection, preview
    from jitney.client import codec
    from jitney.wire import methods
    from jitney.wire.messages.dicts import DictKey

    wanted = _literal(key) if literal else key
    object_id = objects.opened(ObjectKind.DICT, name).object_id
    answer = connection.ask(methods.DICT_GET, DictKey(object_id=object_id, key=codec.encode_key(wanted)))
    if answer.value is None:
        raise NotFoundError(f"the dict {name!r} has no key {wanted!r}", hint=f"`jitney dict items {name}` shows them")
    value = preview.value(answer.value)
    if as_json:
        terminal.write_json(preview.plain(value))
    else:
        print(terminal.safe_line(value if isinstance(value, str) else repr(value)))


def _literal(text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise click.UsageError(f"{text!r} is no Python literal; a text goes without --literal") from None


@dict_.command()
@click.argument("name")
@YES
@AS_JSON
def clear(name: str, yes: bool, as_json: bool) -> None:
    """Take everything out of a dict.

    \b
    Example:
      jitney dict clear counts --yes
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.dicts import DictRef

    record = objects.opened(ObjectKind.DICT, name)
    objects.confirm(f"take everything out of the dict {name!r}?", yes=yes)
    count = connection.ask(methods.DICT_CLEAR, DictRef(object_id=record.object_id)).number
    objects.gone(count, "entry", "entries", as_json=as_json)


dict_.add_command(objects.rename_command(ObjectKind.DICT, "shared shared-2024"))


@dict_.command()
@click.argument("name")
@objects.ALLOW_MISSING
@YES
def delete(name: str, allow_missing: bool, yes: bool) -> None:
    """Delete a dict, with all that is in it.

    \b
    Example:
      jitney dict delete counts --yes
    """
    objects.delete(ObjectKind.DICT, name, allow_missing=allow_missing, yes=yes)
