"""What the commands of all kinds of objects have in common: create, list, delete, and asking before a loss."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import click

from jitney.cli import terminal
from jitney.core.objects import CREATE_IF_MISSING
from jitney.errors import JitneyError, NotFoundError
from jitney.values.objects import ObjectKind, ObjectRecord

YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
ALLOW_MISSING = click.option("--allow-missing", is_flag=True, help="It is no error if there is none.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


class Group(click.Group):
    """Commands about objects of a kind: what the server says in words of Python, a command says in its own."""

    WORDS: ClassVar[dict[str, str]] = {
        CREATE_IF_MISSING: "`jitney {group} create NAME` makes one",
        "recursive=True": "--recursive",
        "force=True": "--force",
    }

    def invoke(self, ctx: click.Context) -> Any:
        """As `click.Group`."""
        try:
            return super().invoke(ctx)
        except JitneyError as error:
            for python, command in self.WORDS.items():
                error.hint = error.hint.replace(python, command.format(group=self.name))
            raise


def create(kind: ObjectKind, name: str, *, as_json: bool) -> None:
    """Make an object of that name, or say that there is one."""
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectOpen

    record = connection.ask(methods.OBJECT_OPEN, ObjectOpen(kind=kind, name=name, create_if_missing=True))
    if as_json:
        terminal.write_json(record)
    else:
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


def rename_command(kind: ObjectKind, example: str) -> click.Command:
    """`jitney KIND rename OLD NEW`; `example`: two names."""

    @click.command("rename", short_help=f"Give a {kind} another name.")
    @click.argument("old_name")
    @click.argument("new_name")
    @YES
    @AS_JSON
    def command(old_name: str, new_name: str, yes: bool, as_json: bool) -> None:
        _rename(kind, old_name, new_name, yes=yes, as_json=as_json)

    command.help = (
        f"Give a {kind} another name. It stays the same {kind}: what uses it now notices nothing.\n\n"
        f"\b\nExample:\n  jitney {kind} rename {example}"
    )
    return command


def _rename(kind: ObjectKind, old_name: str, new_name: str, *, yes: bool, as_json: bool) -> None:
    """Give an object another name."""
    from jitney.cli import connection
    from jitney.values.objects import check_name
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectRename

    check_name(new_name, kind)
    record = opened(kind, old_name)
    confirm(
        f"rename the {kind} {old_name!r} to {new_name!r}? Code that names it {old_name!r} will not find it", yes=yes
    )
    request = ObjectRename(kind=kind, object_id=record.object_id, new_name=new_name)
    renamed = connection.ask(methods.OBJECT_RENAME, request)
    if as_json:
        terminal.write_json(renamed)
    else:
        print(f"{old_name} is {new_name} now")


def delete(kind: ObjectKind, name: str, *, allow_missing: bool, yes: bool) -> None:
    """End an object, with all that is in it."""
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.objects import ObjectDelete

    try:
        record = opened(kind, name)
    except NotFoundError:
        if not allow_missing:
            raise
        return
    confirm(f"delete the {kind} {name!r} and all that is in it?", yes=yes)
    connection.ask(methods.OBJECT_DELETE, ObjectDelete(kind=kind, object_id=record.object_id))
    print(f"{name} is deleted")


def gone(count: int, one: str, many: str, *, as_json: bool) -> None:
    """Say how many are gone."""
    if as_json:
        terminal.write_json({"count": count})
    else:
        print(f"1 {one} is gone" if count == 1 else f"{count:,} {many} are gone")


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
