"""What every part of `Image` stands on: a declaration that grows, and what it still needs from this machine.

A layer that has local files or a function in it is declared with a stand-in for them. What they are is found out when
the image is built (`client.image_builds`): files may change until then, and a container, which runs the same
declarations, does not have them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from jitney.client.secret import Secret
from jitney.client.source import Attachment, Entry, Manifest
from jitney.client.tree import LocalFile, check_limits
from jitney.core import imageplan
from jitney.errors import InvalidError
from jitney.runner import state
from jitney.values.images import ImageSpec, Layer

if TYPE_CHECKING:
    from jitney.client.volume_mounts import Mounts

STAND_IN = "local:"
BASE = -1  # the place of a base, where those of layers are 0, 1, ...


class Prepared(NamedTuple):
    """A layer (or a base) as it is built, the files that belong to it, and volumes that have to be looked up."""

    part: Any
    manifest: Manifest | None
    volumes: Mounts = ()


Prepare = Callable[[Any], Prepared]  # runs on a thread of its own


class ImageValue:
    """The declaration, and how it grows."""

    def __init__(
        self,
        spec: ImageSpec,
        attachments: tuple[Attachment, ...] = (),
        *,
        is_whole: bool = True,
        preparations: Mapping[int, Prepare] | None = None,
    ) -> None:
        self._spec = spec
        self._attachments = attachments
        # In a container the files that a layer was read from are not there: then this is a part of the image.
        self._is_whole = is_whole
        self._preparations = dict(preparations or {})

    @property
    def spec(self) -> ImageSpec:
        """What is built; local files and functions have stand-ins in it."""
        return self._spec

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Local files that come along, for `client.source.collect`."""
        return self._attachments

    def _with(
        self, *layers: Layer, force_build: bool = False, is_whole: bool = True, prepare: Prepare | None = None
    ) -> Self:
        """With more layers; `prepare` is for the last of them."""
        builds = [layer for layer in layers if imageplan.work_of(layer) is not imageplan.Work.SETTING]
        if self._attachments and builds:
            raise InvalidError(
                f"the step '{imageplan.title(builds[0])}' comes after local files that are attached when containers "
                "start: it would not see them",
                hint="put add_local_... last, or build the files in: add_local_...(..., copy=True)",
            )
        spec = msgspec.structs.replace(
            self._spec,
            layers=(*self._spec.layers, *layers),
            force_build=self._spec.force_build or force_build,
        )
        more = {len(spec.layers) - 1: prepare} if prepare else {}
        return type(self)(
            spec,
            self._attachments,
            is_whole=self._is_whole and is_whole,
            preparations={**self._preparations, **more},
        )

    def _attach(self, *attachments: Attachment) -> Self:
        return type(self)(
            self._spec,
            (*self._attachments, *attachments),
            is_whole=self._is_whole,
            preparations=self._preparations,
        )


def is_in_container() -> bool:
    """Whether the user's module is being imported by a container, or by the template of one."""
    # The variable is set in templates too, which import the user's module before they are any container.
    return not state.is_local() or imageplan.SPEC_VARIABLE in os.environ


def stand_in(*what: object) -> str:
    """For the id of a source that is not known yet: equal for equal declarations."""
    return STAND_IN + hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def tree(pairs: Iterable[tuple[str, LocalFile]]) -> Manifest:
    """Files that are no code of a function. Reads them: off the loop.

    Raises:
        InvalidError: something named cannot be shipped, or it is too much.
    """
    return Manifest(Entry("", False, None), check_limits(pairs))


def absolute(path: str | Path) -> str:
    """A local path as it is meant now: the current folder may be another one when the image is built."""
    return os.path.abspath(os.path.expanduser(path))


def flatten(given: Sequence[str | Sequence[str]], method: str) -> tuple[str, ...]:
    """Strings and lists of strings, as one."""
    found: list[str] = []
    for one in given:
        names = [one] if isinstance(one, str) else one
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise InvalidError(f"{method} takes strings, not {one!r}")
        found += names
    return tuple(found)


def texts(given: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """Variables: names and values are strings. The message has no value in it."""
    variables: dict[Any, Any] = {**(given or {})}
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidError(f"{what}: the variable {name!r} must be a string, not {type(value).__name__}")
    return variables


def secret_texts(secrets: Any) -> dict[str, str]:
    """The variables of secrets: each a `Secret` or a mapping. A stand-in for one whose values only the server knows."""
    if secrets is None:
        return {}
    found: dict[str, str] = {}
    for secret in [secrets] if hasattr(secrets, "keys") or isinstance(secrets, Secret) else secrets:
        if isinstance(secret, Secret):
            found.update(secret._variables())
            continue
        if not hasattr(secret, "keys") or not hasattr(secret, "__getitem__"):
            raise InvalidError(
                f"a secret is a mapping of names to values, not {type(secret).__name__}",
                hint="for example jitney.Secret.from_name('github')",
            )
        found.update(texts({name: secret[name] for name in secret.keys()}, "secrets"))  # noqa: SIM118 (may be no dict)
    return found
