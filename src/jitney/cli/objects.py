"""What the commands of all kinds of objects have in common: create, list, delete, and asking before a loss."""

from __future__ import annotations

import sys
from typing import Any

import click

from jitney.cli import terminal
from jitney.values.objects import ObjectKind, ObjectRecord

YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


def create(kind: ObjectKind, name: str) -> None:
    """Make an object of that name, or say that there is one."""
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectOpen

    record = connection.ask(methods.OBJECT_OPEN, ObjectOpen(kind=kind, name=name, create_if_missing=True))
    print(f"{record.object_id}  {name}")


def show(kind: ObjectKind, *, as_json: bool) -> None:
    """List the objects of a kind."""
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectList

    nothing = methods.OBJECT_LIST.answer(objects=())
    found = connection.ask(methods.OBJECT_LIST, ObjectList(kind=kind), otherwise=lambda: nothing).objects
    if as_json:
        terminal.write_json(found)
        return
    rows = [(record.name, record.object_id, terminal.ago(record.created_at_ms)) for record in found]
    terminal.table(("name", "id", "age"), rows, empty=f"no {kind}s")


def opened(kind: ObjectKind, name: str) -> ObjectRecord:
    """The object of that name.

    Raises:
        NotFoundError: there is none.
    """
    from jitney.cli import connection
    from jitney.core.objects import missing
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectOpen

    def nothing() -> Any:
        raise missing(kind, name, (), remedy=f"`jitney {kind} create {name}` makes it")

    return connection.ask(methods.OBJECT_OPEN, ObjectOpen(kind=kind, name=name), otherwise=nothing)


def delete(kind: ObjectKind, name: str, *, yes: bool) -> None:
    """End an object, with all that is in it."""
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectDelete

    record = opened(kind, name)
    confirm(f"delete the {kind} {name!r} and all that is in it?", yes=yes)
    connection.ask(methods.OBJECT_DELETE, ObjectDelete(kind=kind, object_id=record.object_id))
    print(f"{name} is deleted")


def confirm(question: str, *, yes: bool) -> None:
    """Have a person say yes; a program must have said so already.

    Raises:
        UsageError: nobody is there to ask. Abort: they said no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: give --yes")
    click.confirm(question, abort=True)
