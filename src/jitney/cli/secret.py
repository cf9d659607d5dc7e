"""`jitney secret`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jitney.cli import objects, terminal

if TYPE_CHECKING:
    from jitney.values.secrets import SecretRecord

KEPT = "the values that were there before are gone; containers that run keep them"


@click.group()
def secret() -> None:
    """Make, list and delete secrets: variables for containers that nobody can read back.

    A function that has `secrets=[jitney.Secret.from_name(NAME)]` finds them in its environment.
    """


def _given(command: click.decorators.FC) -> click.decorators.FC:
    """Where values come from."""
    for option in (
        click.option("--from-env", "from_env", multiple=True, metavar="KEY", help="Take KEY from this environment."),
        click.option(
            "--from-dotenv", metavar="FILE", help="Take what is in FILE, lines of KEY=VALUE; - is standard input."
        ),
        click.option(
            "--from-json", metavar="FILE", help="Take what is in FILE, an object of texts; - is standard input."
        ),
        click.argument("pairs", nargs=-1, metavar="[KEY=VALUE | KEY]..."),
        click.argument("name"),
    ):
        command = option(command)
    return command


@secret.command()
@_given
@click.option("--force", is_flag=True, help="Replace one that has the name: all of its values.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def create(name: str, force: bool, as_json: bool, **given: Any) -> None:
    """Make the secret NAME.

    What stands on a command line can be read by other programs while it runs, and is in the history of your shell. KEY
    without a value is asked for; where standard input is no terminal, it is the value of the one such KEY.

    \b
    Examples:
      jitney secret create database USER=app PASSWORD
      pass show hub | jitney secret create huggingface HF_TOKEN
      jitney secret create prod --from-dotenv .env --force
      jitney secret create aws --from-env AWS_ACCESS_KEY_ID --from-env AWS_SECRET_ACCESS_KEY
    """
    from jitney.cli import connection
    from jitney.values import ids
    from jitney.values.secrets import check_values
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretCreate

    values = check_values(_values(**given))
    secret_id = ids.make(ids.SECRET, os.urandom(ids.ENTROPY_BYTES))
    request = SecretCreate(secret_id=secret_id, name=name, values=values, overwrite=force)
    made = connection.ask(methods.SECRET_CREATE, request)
    _say(made, as_json=as_json)
    if made.version > 1:
        terminal.note(KEPT)


@secret.command()
@_given
@click.option("--unset", multiple=True, metavar="KEY", help="Take KEY away.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def update(name: str, unset: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Set some values of the secret NAME, and leave its others.

    \b
    Examples:
      jitney secret update database PASSWORD
      jitney secret update database --unset OLD_PASSWORD
    """
    from jitney.cli import connection
    from jitney.values.secrets import check_values
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretUpdate

    values = check_values(_values(**given, or_nothing=bool(unset)))
    request = SecretUpdate(name=name, values={**values, **dict.fromkeys(unset)})
    made = connection.ask(methods.SECRET_UPDATE, request)
    _say(made, as_json=as_json)


@secret.command(name="list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(limit: int, as_json: bool) -> None:
    """List secrets, newest first. Values are not shown, here or anywhere.

    \b
    Example:
      jitney secret list
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretList

    nothing = methods.SECRET_LIST.answer(secrets=())
    found = connection.ask(methods.SECRET_LIST, SecretList(limit=limit), otherwise=lambda: nothing).secrets
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            one.name,
            f"v{one.version}",
            terminal.ago(one.updated_at_ms),
            terminal.ago(one.used_at_ms),
            ", ".join(one.keys),
        )
        for one in found
    ]
    terminal.table(("name", "version", "changed", "used", "keys"), rows, empty="no secrets")


@secret.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(name: str, as_json: bool) -> None:
    """Show what can be known of the secret NAME: its keys, its versions, when it was used.

    \b
    Example:
      jitney secret info database
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretName

    found = connection.ask(methods.SECRET_INFO, SecretName(name=name))
    if as_json:
        terminal.write_json(found)
        return
    one = found.secret
    rows = [
        ("name", one.name),
        ("id", one.secret_id),
        ("keys", ", ".join(one.keys) or "-"),
        ("created", terminal.clock(one.created_at_ms)[:19]),
        ("used", terminal.clock(one.used_at_ms)[:19] if one.used_at_ms is not None else "never"),
        *((f"version {version.version}", terminal.clock(version.at_ms)[:19]) for version in found.versions),
    ]
    for label, value in rows:
        print(f"{label:<12} {terminal.safe_line(str(value))}")


@secret.command()
@click.argument("old_name")
@click.argument("new_name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rename(old_name: str, new_name: str, yes: bool, as_json: bool) -> None:
    """Give the secret OLD_NAME another name. Functions that name it by the old one do not start any more.

    \b
    Example:
      jitney secret rename database database-2024
    """
    from jitney.cli import connection
    from jitney.values.objects import ObjectKind, check_name
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretName, SecretRename

    check_name(new_name, ObjectKind.SECRET)
    found = connection.ask(methods.SECRET_INFO, SecretName(name=old_name)).secret
    objects.confirm(
        f"rename the secret {old_name!r} to {new_name!r}? Functions that name it {old_name!r} will not start", yes=yes
    )
    made = connection.ask(methods.SECRET_RENAME, SecretRename(secret_id=found.secret_id, new_name=new_name))
    if as_json:
        terminal.write_json(made)
    else:
        print(f"{old_name} is {made.name} now, version {made.version}")


@secret.command()
@click.argument("name")
@click.option("--allow-missing", is_flag=True, help="It is no error if there is none.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(name: str, allow_missing: bool, yes: bool) -> None:
    """Delete the secret NAME. Containers that run keep what they have; new ones that want it do not start.

    \b
    Example:
      jitney secret delete database
    """
    from jitney.cli import connection
    from jitney.errors import NotFoundError
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretName

    objects.confirm(f"delete the secret {name!r}? Its values cannot be brought back", yes=yes)
    try:
        connection.ask(methods.SECRET_DELETE, SecretName(name=name))
    except NotFoundError:
        if not allow_missing:
            raise
    else:
        print(f"{name} is deleted")


@secret.command()
@click.argument("name", required=False, default="")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def audit(name: str, limit: int, as_json: bool) -> None:
    """Show what was done with the secret NAME (with all, if there is no NAME), newest first.

    Each start of a container that was given it is an entry, as is each change.

    \b
    Example:
      jitney secret audit database
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretAudit

    found = connection.ask(methods.SECRET_AUDIT, SecretAudit(name=name, limit=limit)).entries
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            terminal.clock(one.at_ms)[:19],
            f"{one.action} ({one.other_name})" if one.other_name else one.action,
            one.name or one.secret_id,
            f"v{one.version}",
            one.function_name or "-",
            one.app_id or "-",
            one.container_id or "-",
        )
        for one in found
    ]
    terminal.table(("when", "what", "secret", "version", "function", "app", "container"), rows, empty="nothing")


@secret.command(name="rotate-key")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rotate_key(as_json: bool) -> None:
    """Make a new key for the secrets of the server, and encrypt their own keys with it again.

    Values stay as they are, and containers notice nothing. The old key goes when nothing needs it any more. Make a copy
    of the key file (`secrets.key` in the server's folder) afterwards.

    \b
    Example:
      jitney secret rotate-key
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.secrets import SecretRotate

    done = connection.ask(methods.SECRET_ROTATE_KEY, SecretRotate())
    if as_json:
        terminal.write_json(done)
        return
    secrets = "1 secret" if done.rewrapped == 1 else f"{done.rewrapped:,} secrets"
    keys = "1 old key" if done.retired == 1 else f"{done.retired:,} old keys"
    print(f"the key is now {done.key_id}, for {secrets}; {keys} removed")


def _say(made: SecretRecord, *, as_json: bool) -> None:
    if as_json:
        terminal.write_json(made)
    else:
        print(f"{made.name}: version {made.version}, with {', '.join(made.keys) or 'nothing in it'}")


def _values(
    pairs: tuple[str, ...],
    from_dotenv: str | None,
    from_json: str | None,
    from_env: tuple[str, ...],
    *,
    or_nothing: bool = False,
) -> dict[str, str]:
    """The variables that were named, wherever their values are. Later ones win."""
    from jitney.core import dotenv

    if from_dotenv == from_json == "-":
        raise click.UsageError("standard input can be one file: --from-dotenv or --from-json")

    values: dict[str, str] = {}
    asked = [pair for pair in pairs if "=" not in pair]
    if from_dotenv is not None:
        values.update(dotenv.parse(_read(from_dotenv), from_dotenv))
    if from_json is not None:
        values.update(_json(_read(from_json), from_json))
    for key in from_env:
        if key not in os.environ:
            raise click.UsageError(f"--from-env {key}: the environment has no such variable")
        values[key] = os.environ[key]
    values.update(_ask(asked, is_stdin_taken="-" in (from_dotenv, from_json)))
    values.update((key, value) for key, _, value in (pair.partition("=") for pair in pairs if "=" in pair))
    if not values and not or_nothing:
        raise click.UsageError("no values: give KEY=VALUE, KEY, --from-dotenv, --from-json or --from-env")
    return values


def _ask(keys: list[str], *, is_stdin_taken: bool) -> dict[str, str]:
    """Values that are not on the command line."""
    from jitney.values.secrets import check_key

    for key in keys:
        check_key(key)
    if not keys:
        return {}
    if not is_stdin_taken and sys.stdin.isatty():
        return {key: click.prompt(key, hide_input=True, default="", show_default=False, err=True) for key in keys}
    if is_stdin_taken or len(keys) > 1:
        raise click.UsageError(f"{', '.join(keys)}: standard input can be one value, of one KEY")
    return {keys[0]: sys.stdin.read().removesuffix("\n")}


def _json(text: str, place: str) -> dict[str, str]:
    """The variables of an object. The message has no value in it."""
    import msgspec

    from jitney.errors import InvalidError

    try:
        found = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError):
        raise InvalidError(f"{place} is no JSON object of texts", hint='write {"KEY": "value"}') from None
    return found


def _read(place: str) -> str:
    from jitney.errors import InvalidError, NotFoundError

    try:
        return sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {place}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{place} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
