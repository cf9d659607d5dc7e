"""Decisions about secrets: which values a container gets, and what is wrong with what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from jitney.core.objects import missing, near
from jitney.errors import InvalidError, NotFoundError
from jitney.values.objects import ObjectKind
from jitney.values.secrets import SECRET_BYTES_MAX, SecretRecord, SecretRef, check_values

REMEDY = "`jitney secret create NAME KEY=VALUE` makes one, `jitney secret list` shows those that are there"
STAND_IN = "="  # begins the name of a stand-in: no variable has it


def no_secret(ref: SecretRef, known: Iterable[str]) -> NotFoundError:
    """The error for a reference to a secret that is not there."""
    if ref.name:
        return missing(ObjectKind.SECRET, ref.name, known, REMEDY)
    return NotFoundError(f"no secret {ref.secret_id!r} belongs to this app", hint="run or deploy the app again")


def check_required(ref: SecretRef, record: SecretRecord) -> None:
    """Whether a secret has the variables that the reference says it must.

    Raises:
        NotFoundError: one is not there; near names of those that are.
    """
    absent = [key for key in ref.required_keys if key not in record.keys]
    if not absent:
        return
    hint = near(absent[0], record.keys) or f"it has {', '.join(sorted(record.keys)) or 'none'};"
    many = "keys" if len(absent) > 1 else "key"
    raise NotFoundError(
        f"secret {record.name or record.secret_id!r} does not have the required {many} {', '.join(absent)}",
        hint=f"{hint} `jitney secret create {record.name or 'NAME'} KEY=VALUE --force` replaces it",
    )


def merged(parts: Sequence[Mapping[str, str]], env: Mapping[str, str]) -> dict[str, str]:
    """What a container is given of its secrets: later ones win, and `env` of its function wins over all.

    Raises:
        InvalidError: it is too much.
    """
    found: dict[str, str] = {}
    for part in parts:
        found.update(part)
    found = {key: value for key, value in found.items() if key not in env}
    size = sum(len(key) + len(value.encode()) for key, value in found.items())
    if size > SECRET_BYTES_MAX:
        raise InvalidError(f"the secrets of a container have at most {SECRET_BYTES_MAX:,} bytes, not {size:,}")
    return found


def changed(values: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Values with some set, and those that are None taken away.

    Raises:
        InvalidError: what results cannot be.
    """
    found = {**values, **{key: value for key, value in changes.items() if value is not None}}
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
    return check_values(found)


# ------------------------------------------------------------------------------------------------ builds
# The steps of an image have values in them. Those of a secret with a name are not known where the image is declared, so
# there is a stand-in, which the server replaces before a build.


def stand_in(ref: SecretRef) -> dict[str, str]:
    """A variable that stands for all of a secret."""
    return {f"{STAND_IN}{ref.name}": msgspec.json.encode(ref).decode()}


def references(variables: Mapping[str, str]) -> list[SecretRef]:
    """The secrets that variables of a step stand for.

    Raises:
        InvalidError: a stand-in that is none.
    """
    texts = [text for name, text in variables.items() if name.startswith(STAND_IN)]
    try:
        return [msgspec.json.decode(text, type=SecretRef) for text in texts]
    except msgspec.MsgspecError:
        raise InvalidError("a secret of a step of the image is not understood") from None


def filled(variables: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Variables of a step with the values of secrets, by name, in place of stand-ins. Later ones win.

    A secret that was not found leaves nothing: what is only planned needs no values.
    """
    result: dict[str, str] = {}
    for name, value in variables.items():
        if name.startswith(STAND_IN):
            result.update(found.get(name[len(STAND_IN) :], {}))
        else:
            result[name] = value
    return result
