"""A function that runs at build time: what travels, and what it is known by.

It is known by text, as two pickles of one function differ: its source, its arguments, and of its module what it refers
to by name: constants and other functions, and what those refer to in turn.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import msgspec

from jitney.client.image_value import Prepare, Prepared
from jitney.client.source import Attachment, collect
from jitney.client.volume_mounts import Mounts
from jitney.errors import InvalidError, SerializationError
from jitney.values.images import RunFunction

CONSTANTS = (str, bytes, int, float, complex, bool, type(None), tuple, frozenset)


def prepare_function(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    attachments: Sequence[Attachment],
    include_source: bool,
    volumes: Mounts = (),
) -> Prepare:
    """What completes its layer when the image is built: by then its module is loaded as a whole."""

    def prepare(layer: RunFunction) -> Prepared:
        source = collect(sys.modules.get(function.__module__), attachments, include_source=include_source)
        identity = hashlib.sha256(identity_of(function, args, kwargs).encode()).hexdigest()
        complete = msgspec.structs.replace(layer, identity=identity, pickled=_pickle(function, args, dict(kwargs)))
        return Prepared(complete, source, volumes)

    return prepare


def identity_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The text that stands for a function and its arguments."""
    texts: dict[str, str] = {}
    _describe(function, texts)
    described = [f"{name}: {text}" for name, text in sorted(texts.items())]
    return "\n".join([*described, repr(args), repr(sorted(kwargs.items()))])


def _describe(function: Any, texts: dict[str, str]) -> None:
    name = f"{function.__module__}.{function.__qualname__}"
    if name in texts:
        return
    texts[name] = _source(function)
    space = function.__globals__
    closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    for used in sorted(_names(function.__code__)):
        value: Any = space.get(used)
        if used in closed:
            try:
                value = closed[used].cell_contents
            except ValueError:
                continue  # not set yet
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            _describe(value, texts)
        elif isinstance(value, CONSTANTS) and (used in space or used in closed):
            texts[f"{name}: {used}"] = repr(value)


def _names(code: CodeType) -> set[str]:
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def _source(function: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        code = function.__code__  # typed in at a prompt: there is no file
        return repr((code.co_code, [one for one in code.co_consts if not isinstance(one, CodeType)], code.co_names))


def _pickle(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    import cloudpickle

    if "<locals>" not in function.__qualname__ and "<lambda>" not in function.__qualname__:
        found: Any = sys.modules.get(function.__module__)
        for part in function.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is not function and function.__module__ != "__main__":
            raise InvalidError(
                f"run_function: {function.__module__}.{function.__qualname__} is no longer what was given",
                hint="give it another name than the function that took its place",
            )
    try:
        pickled: bytes = cloudpickle.dumps((function, args, kwargs))
    except Exception as error:
        raise SerializationError(
            f"run_function({function.__qualname__}) cannot be pickled: {type(error).__name__}: {error}",
            hint="make what it refers to inside the function",
        ) from error
    return pickled
