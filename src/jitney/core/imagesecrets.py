"""Secrets with a name in the declaration of an image: stand-ins where it is declared, values where it is built."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from jitney.core import secrets
from jitney.core.secrets import STAND_IN
from jitney.errors import InvalidError
from jitney.values.images import Base, Dockerfile, ImageSpec, Layer, Registry
from jitney.values.secrets import SecretRef

USERNAMES = ("username", "REGISTRY_USERNAME")
PASSWORDS = ("password", "REGISTRY_PASSWORD")
GCP_KEY = "SERVICE_ACCOUNT_JSON"

Values = Mapping[str, Mapping[str, str]]  # of secrets, by name


def credentials(given: Mapping[str, str]) -> tuple[str, str]:
    """User name and password for a registry, as the variables of a secret have them; a stand-in gives one for both."""
    stand_in = next((name for name in given if name.startswith(STAND_IN)), "")
    if stand_in:
        return stand_in, given[stand_in]
    if GCP_KEY in given:
        return "_json_key", given[GCP_KEY]
    username = next((given[name] for name in USERNAMES if name in given), "")
    return username, next((given[name] for name in PASSWORDS if name in given), "")


def check_credentials(given: Mapping[str, str]) -> None:
    """Whether variables are of use for a registry.

    Raises:
        InvalidError: they are not.
    """
    if not credentials(given)[1]:
        raise InvalidError(
            "the secret for the registry has no password",
            hint="give {'username': ..., 'password': ...}; a token is a password",
        )


def references(spec: ImageSpec) -> list[SecretRef]:
    """The secrets that a declaration names."""
    found = [ref for layer in spec.layers for ref in secrets.references(getattr(layer, "secrets", {}))]
    base = spec.base
    if isinstance(base, Dockerfile):
        found += secrets.references(base.secrets)
    if isinstance(base, Dockerfile | Registry) and base.username.startswith(STAND_IN):
        found += secrets.references({base.username: base.password})
    return found


def values(spec: ImageSpec) -> list[str]:
    """All that is private in a declaration, as it is built."""
    found = [value for layer in spec.layers for value in getattr(layer, "secrets", {}).values()]
    if isinstance(spec.base, Dockerfile):
        found += spec.base.secrets.values()
    if isinstance(spec.base, Dockerfile | Registry):
        found.append(spec.base.password)
    return found


def filled(spec: ImageSpec, found: Values) -> ImageSpec:
    """The declaration with values; a secret that was not found leaves nothing."""
    layers = tuple(_filled_layer(layer, found) for layer in spec.layers)
    return msgspec.structs.replace(spec, base=_filled_base(spec.base, found), layers=layers)


def _filled_layer(layer: Layer, found: Values) -> Layer:
    variables: Mapping[str, str] = getattr(layer, "secrets", {})
    if not any(name.startswith(STAND_IN) for name in variables):
        return layer
    return msgspec.structs.replace(layer, secrets=secrets.filled(variables, found))


def _filled_base(base: Base, found: Values) -> Base:
    if isinstance(base, Dockerfile) and base.secrets:
        base = msgspec.structs.replace(base, secrets=secrets.filled(base.secrets, found))
    if isinstance(base, Dockerfile | Registry) and base.username.startswith(STAND_IN):
        name = base.username[len(STAND_IN) :]
        if name in found:
            check_credentials(found[name])
        username, password = credentials(found.get(name, {}))
        base = msgspec.structs.replace(base, username=username, password=password)
    return base
