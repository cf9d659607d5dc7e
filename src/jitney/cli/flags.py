"""Typed flags from a function's signature: `def main(epochs: int = 3, *files: str)` becomes `--epochs 3 a b`.

Every parameter is a flag, whether Python would take it by position or not, so that adding one in the middle
changes no command that somebody wrote down. Types: str, int, float, bool (`--x/--no-x`), Path, Literal, Enum,
datetime, date, `T | None`, and lists of these (the flag may be given many times). A parameter of another type
keeps its default; one without a default cannot be given on a command line, and the function cannot be run
from there.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click

from jitney.errors import InvalidError

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
    Choice = click.Choice[Any]
else:  # generic only in later versions of click
    ParamType, Choice = click.ParamType, click.Choice

SIMPLE: dict[Any, Any] = {
    str: click.STRING,
    int: click.INT,
    float: click.FLOAT,
    Path: click.Path(path_type=Path),
}
READABLE = "str, int, float, bool, Path, Literal, Enum, datetime, date, lists of these, or None with one of these"


class _Moment(ParamType):
    """A time or a day in ISO 8601."""

    def __init__(self, kind: type[date]) -> None:
        self.kind = kind
        self.name = kind.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            return self.kind.fromisoformat(value)
        except (TypeError, ValueError):
            example = "2026-03-01T09:30:00+00:00" if self.kind is datetime else "2026-03-01"
            self.fail(f"{value!r} is not a {self.name}; write it as {example}", param, ctx)


class _Choice(Choice):
    """Words on the command line, values in the program."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(list(values))
        self.values = values

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or (value not in self.values and value in self.values.values()):
            return value
        return self.values[super().convert(value, param, ctx)]


def kind_of(annotation: Any) -> tuple[Any, bool] | None:
    """(click type, whether it is a list) for an annotation; None when it has no form on a command line."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        return kind_of(rest[0]) if len(rest) == 1 else None
    if origin in (list, typing.Sequence) or (origin and getattr(origin, "__name__", "") == "Sequence"):
        inner = kind_of(arguments[0]) if arguments else (click.STRING, False)
        return (inner[0], True) if inner and not inner[1] and inner[0] is not click.BOOL else None
    if annotation is list:
        return click.STRING, True
    if annotation is bool:
        return click.BOOL, False
    if annotation in SIMPLE:
        return SIMPLE[annotation], False
    if annotation in (datetime, date):
        return _Moment(annotation), False
    if origin is Literal:
        return _Choice({str(value): value for value in arguments}), False
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _Choice({member.name: member for member in annotation}), False
    return None


def parameters(function: Callable[..., Any], *, skip_self: bool = False) -> list[click.Parameter]:
    """The flags of a function.

    Raises:
        InvalidError: a parameter that must be given has no form on a command line.
    """
    signature = inspect.signature(function)
    hints = types_of(function)
    texts = _documented(inspect.getdoc(function) or "")
    found: list[click.Parameter] = []
    for index, parameter in enumerate(signature.parameters.values()):
        if skip_self and index == 0:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        annotation = hints.get(parameter.name, _from_default(parameter.default))
        kind = kind_of(annotation)
        if kind is None:
            if parameter.default is not parameter.empty:
                continue
            raise InvalidError(
                f"parameter {parameter.name!r} of {function.__name__!r} is a {_name(annotation)}, "
                "which has no form on the command line",
                hint=f"use {READABLE}; or call it from an `@app.local_entrypoint()` that makes the value",
            )
        found.append(_parameter(parameter, kind, texts.get(parameter.name, "")))
    return found


def _parameter(parameter: inspect.Parameter, kind: tuple[Any, bool], text: str) -> click.Parameter:
    of, many = kind
    if parameter.kind is parameter.VAR_POSITIONAL:
        return click.Argument([parameter.name], type=of, nargs=-1)
    required = parameter.default is parameter.empty
    dashed = parameter.name.replace("_", "-")
    names = [parameter.name, f"--{dashed}"]
    if dashed != parameter.name:
        names.append(f"--{parameter.name}")  # as it is spelt in the code
    if of is click.BOOL:
        names[1:] = [f"{name}/--no-{name[2:]}" for name in names[1:]]
    if required:
        # No `default=None`: click takes it for a value that was given.
        return click.Option(names, type=of, multiple=many, required=True, help=text)
    default = parameter.default
    shown: bool | str = default is not None and not (many and not default)
    if isinstance(default, enum.Enum):
        shown = default.name
    return click.Option(names, type=of, multiple=many, default=default, help=text, show_default=shown)


def arguments(
    function: Callable[..., Any], values: dict[str, Any], *, skip_self: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What to call the function with, from the parsed values of its flags."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for index, parameter in enumerate(inspect.signature(function).parameters.values()):
        if (skip_self and index == 0) or parameter.name not in values:
            continue
        value = values[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            # What comes before *args can only be given by position then.
            positional += [keywords.pop(name) for name in list(keywords)]
            positional += value
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        elif isinstance(value, tuple) and isinstance(parameter.default, list | type(None)):
            keywords[parameter.name] = list(value) if value or parameter.default is not None else None
        else:
            keywords[parameter.name] = list(value) if isinstance(value, tuple) else value
    return tuple(positional), keywords


def types_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's parameters, those that can be known."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        # A name that only exists for the type checker: the annotations that can be read still count.
        raw = inspect.get_annotations(function)
        space = getattr(function, "__globals__", None) or vars(sys.modules.get(function.__module__, types))
        hints = {}
        for name, annotation in raw.items():
            if isinstance(annotation, str):
                try:
                    annotation = typing.get_type_hints(
                        types.SimpleNamespace(__annotations__={name: annotation}), space
                    )[name]
                except (NameError, TypeError, AttributeError):
                    continue
            hints[name] = annotation
        return hints


def _from_default(default: Any) -> Any:
    return str if default is None or default is inspect.Parameter.empty else type(default)


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _documented(doc: str) -> dict[str, str]:
    """Sentences of the parameters, from an `Args:` section or `:param x:` lines."""
    found = {match[1]: match[2].strip() for match in re.finditer(r":param (?:\w+ )?(\w+):(.*)", doc)}
    section = re.search(r"^(?:Args|Arguments|Parameters):\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    if section:
        for match in re.finditer(r"^[ \t]+\*{0,2}(\w+)(?: \(.*?\))?:[ \t]*(.+)", section[1], re.MULTILINE):
            found[match[1]] = match[2].strip()
    return found
