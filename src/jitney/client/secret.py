"""`Secret`: variables for containers that only the server keeps, and gives to nobody else.

A secret with a name is made once (`jitney secret create`, or `Secret.objects.create`) and referred to. One without a
name comes from this machine, travels with the app that uses it, and is gone with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jitney.client import session as sessions
from jitney.client.dual import dual
from jitney.core import dotenv
from jitney.core import secrets as core
from jitney.core.objects import near
from jitney.errors import AlreadyExistsError, InvalidError, NotFoundError, SerializationError, UnsupportedError
from jitney.runner import state
from jitney.values import ids
from jitney.values.objects import ObjectKind, check_name
from jitney.values.secrets import SecretRecord, SecretRef, check_key, check_values
from jitney.wire.messages.secrets import SecretCreate, SecretList, SecretName, SecretRename, SecretUpdate
from jitney.wire.methods import SECRET_CREATE, SECRET_DELETE, SECRET_INFO, SECRET_LIST, SECRET_RENAME, SECRET_UPDATE

DOTENV = ".env"
PAGE = 1_000


class SecretInfo(NamedTuple):
    """What can be known of a secret: no value is."""

    name: str
    keys: tuple[str, ...]
    version: int
    created_at: datetime
    updated_at: datetime
    used_at: datetime | None  # when a container was last started with it


Secrets = list["Secret"]


class SecretObjects:
    """The secrets of the server: `Secret.objects`."""

    @dual
    async def create(self, name: str, env_dict: Mapping[str, str], *, allow_existing: bool = False) -> None:
        """Make a secret with a name.

        Args:
            name: 1 to 64 letters, digits, '.', '_' and '-'.
            env_dict: its variables.
            allow_existing: leave one that has the name as it is, instead of raising.

        Raises:
            AlreadyExistsError: there is one already.
            InvalidError: a name or a value that cannot be.
        """
        request = SecretCreate(secret_id=_new_id(), name=_checked(name), values=_variables_of(env_dict))
        try:
            await sessions.current().request(SECRET_CREATE, request)
        except AlreadyExistsError:
            if not allow_existing:
                raise

    @dual
    async def rename(self, old_name: str, new_name: str) -> None:
        """Give a secret another name; its values stay. Functions that name it by the old name do not start any more.

        Raises:
            NotFoundError: there is none of that name.
            AlreadyExistsError: there is one of the new name.
            SecretUnreadableError: it cannot be opened.
        """
        _checked(new_name)
        session = sessions.current()
        found = await session.request(SECRET_INFO, SecretName(name=_checked(old_name)))
        await session.request(SECRET_RENAME, SecretRename(secret_id=found.secret.secret_id, new_name=new_name))

    @dual
    async def list(self, *, max_objects: int | None = None, created_before: datetime | None = None) -> Secrets:
        """Secrets that have a name, newest first.

        Args:
            max_objects: at most so many.
            created_before: only those that were made before.
        """
        before_ms = None if created_before is None else int(created_before.timestamp() * 1000)
        limit = PAGE if max_objects is None else max(1, min(max_objects, PAGE))
        request = SecretList(created_before_ms=before_ms, limit=limit)
        found = (await sessions.current().request(SECRET_LIST, request)).secrets
        return [Secret.from_name(record.name) for record in found]

    @dual
    async def delete(self, name: str, *, allow_missing: bool = False) -> None:
        """Remove a secret. Containers that were started with it keep what they have.

        Args:
            name: of the secret.
            allow_missing: do nothing if there is none.

        Raises:
            NotFoundError: there is none.
        """
        try:
            await sessions.current().request(SECRET_DELETE, SecretName(name=_checked(name)))
        except NotFoundError:
            if not allow_missing:
                raise


class Secret:
    """Variables that containers find in their environment, and whose values nobody can read back.

    Make one by `from_name`, `from_dict`, `from_dotenv` or `from_local_environ`, and give it to a function, a class or a
    step of an image: `secrets=[...]`.

    >>> Secret.from_dict({"TOKEN": "x"})
    Secret(keys=['TOKEN'])
    """

    objects = SecretObjects()

    def __init__(
        self,
        *,
        name: str = "",
        required_keys: Sequence[str] = (),
        load: Callable[[], dict[str, str]] | None = None,
        what: str = "",
    ) -> None:
        self._name = name
        self._required_keys = tuple(required_keys)
        self._load = load
        self._what = what
        self._id = "" if name else _new_id()
        self._values: dict[str, str] | None = None

    def __repr__(self) -> str:
        if self._name:
            return f"Secret({self._name!r})"
        return f"Secret({self._what or f'keys={sorted(self._values or ())}'})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._name:
            return (_named, (self._name, self._required_keys))
        raise SerializationError(
            "a secret without a name cannot be pickled, as its values would go with it",
            hint="make one with a name: `jitney secret create`, then Secret.from_name(...)",
        )

    @property
    def name(self) -> str | None:
        """Its name at the server; None for one that comes from here."""
        return self._name or None

    # ------------------------------------------------------------------------------------------- making

    @staticmethod
    def from_name(name: str, *, environment_name: str | None = None, required_keys: Sequence[str] = ()) -> Secret:
        """A secret at the server. Nothing is asked here: it is looked up when an app is run or deployed.

        Args:
            name: as it was created.
            required_keys: variables that it must have.

        Raises:
            InvalidError: no secret can have that name.
        """
        if environment_name:
            raise UnsupportedError("Secret.from_name(environment_name=...) is not supported by this version")
        if isinstance(required_keys, str):
            raise InvalidError(f"required_keys is a list of names, not {required_keys!r}")
        return Secret(name=_checked(name), required_keys=[check_key(key) for key in required_keys])

    @staticmethod
    def from_dict(env_dict: Mapping[str, str | None] | None = None) -> Secret:
        """A secret of these variables, for the apps that use it. Those that are None are left out.

        Raises:
            InvalidError: a name or a value that cannot be.
        """
        made = Secret()
        made._values = _variables_of(env_dict or {})
        return made

    @staticmethod
    def from_local_environ(env_keys: Sequence[str]) -> Secret:
        """A secret of variables of this process. In a container it is empty: there, nothing is to be sent.

        Raises:
            InvalidError: one of them is not set.
        """
        if isinstance(env_keys, str):
            raise InvalidError(f"from_local_environ takes a list of names, not {env_keys!r}")
        if _is_in_container():
            return Secret.from_dict({})
        absent = [key for key in env_keys if key not in os.environ]
        if absent:
            raise InvalidError(
                f"the environment has no variable {absent[0]!r}",
                hint=near(absent[0], os.environ) or f"set it first: `export {absent[0]}=...`",
            )
        return Secret.from_dict({key: os.environ[key] for key in env_keys})

    @staticmethod
    def from_dotenv(path: str | Path | None = None, *, filename: str = DOTENV) -> Secret:
        """A secret of the variables in a file of `NAME=value` lines. It is read when the app is run or deployed.

        Args:
            path: the file; or where to look for one, from there upward (a folder, or a script: `__file__`). Default:
                the current folder.
            filename: what it is called.
        """
        start = Path(path if path is not None else ".").expanduser().absolute()
        return Secret(load=lambda: _read_dotenv(start, filename), what=f"{filename} of {start}")

    # ------------------------------------------------------------------------------------------- at the server

    @dual
    async def info(self) -> SecretInfo:
        """Names of its variables, times, and its version.

        Raises:
            NotFoundError: there is no such secret.
        """
        found = await sessions.current().request(SECRET_INFO, SecretName(name=self._of_server("info")))
        return _info(found.secret)

    @dual
    async def update(self, env_dict: Mapping[str, str | None]) -> None:
        """Set some of its variables; those that are None are taken away. New containers get what it has then.

        Raises:
            NotFoundError: there is no such secret.
            InvalidError: a name or a value that cannot be.
        """
        name = self._of_server("update")
        _variables_of(env_dict)
        await sessions.current().request(SECRET_UPDATE, SecretUpdate(name=name, values=dict(env_dict)))

    def _of_server(self, what: str) -> str:
        if not self._name:
            raise InvalidError(f"a secret without a name has no {what}", hint="Secret.from_name(...) has")
        return self._name

    # ------------------------------------------------------------------------------------------- for apps

    def _loaded(self) -> dict[str, str]:
        """Its variables, where they come from here."""
        if self._values is None:
            self._values = {} if self._load is None or _is_in_container() else check_values(self._load())
        return self._values

    def _variables(self) -> dict[str, str]:
        """For a step of an image: its variables, or what stands for them until it is built."""
        return core.stand_in(self._ref()) if self._name else self._loaded()

    def _ref(self) -> SecretRef:
        if self._name:
            return SecretRef(name=self._name, required_keys=self._required_keys)
        return SecretRef(secret_id=self._id)


def references(secrets: Iterable[Secret]) -> tuple[SecretRef, ...]:
    """What a function says of its secrets. Those that are empty are left out. May read files: off the loop."""
    return tuple(secret._ref() for secret in secrets if secret._name or secret._loaded())


def values(secrets: Iterable[Secret]) -> dict[str, dict[str, str]]:
    """What has to go along: the variables of those without a name, by their ids. May read files: off the loop."""
    return {secret._id: secret._loaded() for secret in secrets if not secret._name and secret._loaded()}


def listed(given: Any) -> tuple[Secret, ...]:
    """The value of an option `secrets`.

    Raises:
        InvalidError: it is no list of secrets.
    """
    if given is None:
        return ()
    if isinstance(given, Secret | str) or not isinstance(given, Iterable):
        raise InvalidError("secrets is a list of secrets", hint="secrets=[jitney.Secret.from_name('name')]")
    found = tuple(given)
    for one in found:
        if not isinstance(one, Secret):
            raise InvalidError(
                f"secrets has a {type(one).__name__} in it, which is no secret",
                hint="jitney.Secret.from_name('name'), or jitney.Secret.from_dict({...})",
            )
    return found


def _named(name: str, required_keys: tuple[str, ...]) -> Secret:
    return Secret.from_name(name, required_keys=required_keys)


def _is_in_container() -> bool:
    from jitney.core import imageplan

    # The variable is set in templates too, which import the user's module before they are any container.
    return not state.is_local() or imageplan.SPEC_VARIABLE in os.environ


def _new_id() -> str:
    return ids.make(ids.SECRET, os.urandom(ids.ENTROPY_BYTES))


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidError(f"the name of a secret is a text, not {name!r}")
    return check_name(name, ObjectKind.SECRET)


def _variables_of(env_dict: Mapping[Any, Any]) -> dict[str, str]:
    """Names and values are texts; values that are None are left out. The message has no value in it."""
    if not isinstance(env_dict, Mapping):
        raise InvalidError(f"a secret maps names to values, and a {type(env_dict).__name__} does not")
    for name, value in env_dict.items():
        if not isinstance(name, str) or not isinstance(value, str | None):
            raise InvalidError(f"a secret maps texts to texts, and {name!r} is of type {type(value).__name__}")
    return check_values({name: value for name, value in env_dict.items() if value is not None})


def _read_dotenv(start: Path, filename: str) -> dict[str, str]:
    if start.is_file() and (start.name == filename or start.suffix == ".env" or start.name.startswith(DOTENV)):
        found = start
    else:
        places = [start, *start.parents]
        found = next((place / filename for place in places if (place / filename).is_file()), Path())
        if found == Path():
            raise NotFoundError(f"there is no {filename} in {start}, or in a folder above it")
    try:
        text = found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{found} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    return dotenv.parse(text, str(found))


def _info(record: SecretRecord) -> SecretInfo:
    return SecretInfo(
        name=record.name,
        keys=record.keys,
        version=record.version,
        created_at=_time(record.created_at_ms),
        updated_at=_time(record.updated_at_ms),
        used_at=None if record.used_at_ms is None else _time(record.used_at_ms),
    )


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
