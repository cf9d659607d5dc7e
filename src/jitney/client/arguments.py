"""Arguments as bytes: one payload for `(args, kwargs)`, pickled on the caller's thread before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jitney.errors import SerializationError
from jitney.runner import payload
from jitney.runner.payload import INLINE_BYTES_MAX, INLINE_BYTES_MAX_DURABLE, UnpicklableError

if TYPE_CHECKING:
    from jitney.client.session import Session


class Encoder:
    """Encodes the arguments of one function."""

    __slots__ = ("by_value", "name", "raw")

    def __init__(self, name: str, raw: Callable[..., Any] | None, *, by_value: bool) -> None:
        self.name = name
        self.raw = raw  # to name parameters in errors, where we have it
        self.by_value = by_value  # the container does not have our `__main__`

    def connected(self, session: Session, scope: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """A payload for a connected call: large values by shared memory.

        Raises:
            SerializationError: an argument cannot be pickled; the message has its parameter and type.
        """
        try:
            return payload.encode(
                (args, kwargs),
                pool=session.pool_for(scope),
                blobs=session.blobs,
                inline_max=INLINE_BYTES_MAX,
                main_by_value=self.by_value,
            )
        except UnpicklableError as error:
            raise self._refused(args, kwargs, error) from error.__cause__

    def durable(self, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any], file: str) -> bytes:
        """A payload for a durable call: large values by the file `file`, synced to disk.

        Raises:
            SerializationError: as `connected`.
        """
        try:
            return payload.encode(
                (args, kwargs),
                pool=None,
                blobs=session.blobs,
                inline_max=INLINE_BYTES_MAX_DURABLE,
                name=file,
                main_by_value=self.by_value,
            )
        except UnpicklableError as error:
            raise self._refused(args, kwargs, error) from error.__cause__

    def _refused(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: UnpicklableError) -> SerializationError:
        why = str(error)
        for name, value in [*self._named(args), *kwargs.items()]:
            try:
                payload.encode(value, pool=None, blobs=None, inline_max=0, main_by_value=self.by_value)
            except UnpicklableError as narrower:
                return SerializationError(
                    f"argument {name!r} of {self.name}: {narrower}", hint="pass plain data, or make it in the function"
                )
        return SerializationError(f"the arguments of {self.name}: {why}")

    def _named(self, args: tuple[Any, ...]) -> list[tuple[str, Any]]:
        names: list[str] = []
        if self.raw is not None:
            try:
                names = list(inspect.signature(self.raw).parameters)
            except (TypeError, ValueError):
                pass
        return [(names[n] if n < len(names) else str(n), value) for n, value in enumerate(args)]
