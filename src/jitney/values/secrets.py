"""Secrets: variables that containers are given, and whose values nobody can read back.

A value is in a message on its way in, and in the start of a container on its way out; between them it is sealed. What
has values in it shows their names only, whoever prints it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from jitney.errors import InvalidError
from jitney.values import ids
from jitney.values.objects import ObjectKind, check_name

KEY_CHARS_MAX = 16_384
VALUE_CHARS_MAX = 32_768
KEYS_MAX = 1_000
SECRET_BYTES_MAX = 1024 * 1024  # of all names and values of a secret, or of a container
SECRETS_MAX = 100  # of one function

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SecretRef(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that a function has: by name, or by the id of one that belongs to the app and has no name."""

    name: str = ""
    secret_id: str = ""
    required_keys: tuple[str, ...] = ()  # that it must have when a container starts

    def __post_init__(self) -> None:
        if bool(self.name) == bool(self.secret_id):
            raise InvalidError("a secret is referred to by its name or by its id")
        if self.name:
            check_name(self.name, ObjectKind.SECRET)
        else:
            ids.check(self.secret_id, ids.SECRET)


def discreet(value: msgspec.Struct) -> str:
    """The repr of something that may have values of secrets in its dictionaries or bytes: it shows how many."""
    shown = []
    for field in value.__struct_fields__:
        found: object = getattr(value, field)
        if isinstance(found, dict):
            found = f"<{len(found)} hidden>"
        elif isinstance(found, bytes):
            found = f"<{len(found)} bytes>"
        shown.append(f"{field}={found}")
    return f"{type(value).__name__}({', '.join(shown)})"


class Discreet(msgspec.Struct, frozen=True):
    """A value whose repr, and with it every log and traceback, has no value of a secret in it."""

    def __repr__(self) -> str:
        return discreet(self)


class SecretRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A secret as listed. Times are Unix ms. One without a name belongs to an app, and goes with it."""

    secret_id: str
    name: str = ""
    app_id: str = ""
    version: int = 1
    keys: tuple[str, ...] = ()  # names of its variables
    created_at_ms: int = 0
    updated_at_ms: int = 0
    used_at_ms: int | None = None


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """A data key, sealed with another key that `key_id` names."""

    key_id: str
    sealed: bytes


class Sealed(Discreet, frozen=True, kw_only=True):
    """The values of one version, sealed with a data key of their own."""

    data_key: Wrapped
    nonce: bytes
    sealed: bytes


class SecretVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version, and since when it is. The values of one that was replaced are gone."""

    version: int
    at_ms: int


class Action(StrEnum):
    """What was done with a secret."""

    CREATED = "created"
    UPDATED = "updated"
    RENAMED = "renamed"  # an entry under each of the two names
    DELETED = "deleted"
    USED = "used"  # a container was started with it
    BUILT = "built"  # a step of an image was given it


class SecretUse(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the audit: when, what, and for whom."""

    at_ms: int
    action: Action
    secret_id: str
    name: str = ""
    version: int = 1
    app_id: str = ""
    function_id: str = ""
    function_name: str = ""
    container_id: str = ""
    other_name: str = ""  # where it was renamed: what it is called now, or was before


def check_key(key: str) -> str:
    """`key`, if a variable can have that name.

    Raises:
        InvalidError: it cannot.
    """
    if len(key) > KEY_CHARS_MAX:
        raise InvalidError(f"the name of a variable of a secret has {len(key):,} characters, over {KEY_CHARS_MAX:,}")
    if not _VARIABLE.fullmatch(key):
        raise InvalidError(
            f"{key[:64]!r} cannot be the name of a variable of a secret",
            hint="use letters, digits and '_', of which a digit is not the first",
        )
    return key


def check_values(values: Mapping[str, str]) -> dict[str, str]:
    """`values`, if a secret may have them. Messages have names in them, and no value.

    Raises:
        InvalidError: a name or a value that cannot be, or too much of them.
    """
    if len(values) > KEYS_MAX:
        raise InvalidError(f"a secret has at most {KEYS_MAX:,} variables, not {len(values):,}")
    size = 0
    for key, value in values.items():
        check_key(key)
        if len(value) > VALUE_CHARS_MAX:
            raise InvalidError(f"the value of {key} has {len(value):,} characters, over {VALUE_CHARS_MAX:,}")
        if "\0" in value:
            raise InvalidError(f"the value of {key} has a NUL in it, which no variable can have")
        try:
            size += len(key) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidError(
                f"the value of {key} is not text that can be encoded", hint="encode it as Base64"
            ) from None
    if size > SECRET_BYTES_MAX:
        raise InvalidError(f"a secret has at most {SECRET_BYTES_MAX:,} bytes, not {size:,}")
    return dict(values)
