"""What can be run or deployed in an imported module: its apps, and their entry points, functions and methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import click

from jitney.cli import flags
from jitney.cli.loading import pick
from jitney.client.app import App
from jitney.client.cls import Cls, parameters_of
from jitney.client.lifecycle import Method
from jitney.errors import InvalidError, NotFoundError

ENTRY_POINT, FUNCTION, METHOD = "entry point", "function", "method"


@dataclass(frozen=True)
class Target:
    """Something that `jitney run` can call."""

    kind: str
    name: str
    app: App
    raw: Callable[..., Any]  # the user's function, for its flags
    object: Any  # the entry point, the Function, or the class of the method

    def parameters(self) -> list[click.Parameter]:
        """Its flags: of a method also those that its class is made with.

        Raises:
            InvalidError: a parameter has no form on the command line.
        """
        own = flags.parameters(self.raw, skip_self=self.kind == METHOD)
        if self.kind != METHOD:
            return own
        made_with = flags.parameters(maker(self.object))
        both = {str(p.name) for p in own} & {str(p.name) for p in made_with}
        if both:
            raise InvalidError(
                f"{self.name!r} and its class both have a parameter {min(both)!r}",
                hint="call it from an `@app.local_entrypoint()`",
            )
        return [*made_with, *own]

    def bind(self, values: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """(what to call, args, kwargs): a method is of an instance made with its class's flags."""
        args, kwargs = flags.arguments(self.raw, values, skip_self=self.kind == METHOD)
        if self.kind != METHOD:
            return self.object, args, kwargs
        make = maker(self.object)
        class_args, class_kwargs = flags.arguments(make, values)
        return getattr(make(*class_args, **class_kwargs), self.raw.__name__), args, kwargs


def apps(module: ModuleType) -> dict[str, App]:
    """The apps that a module has, by variable; one that has two names counts once."""
    found: dict[str, App] = {}
    for name, value in vars(module).items():
        if isinstance(value, App) and value not in found.values():
            found[name] = value
    return found


def targets(module: ModuleType) -> list[Target]:
    """Everything that can be run, entry points first."""
    found = []
    for app in apps(module).values():
        found += [
            Target(ENTRY_POINT, name, app, entry.raw_f, entry) for name, entry in app.registered_entrypoints.items()
        ]
        found += [
            Target(FUNCTION, name, app, function.get_raw_f(), function)
            for name, function in app.registered_functions.items()
        ]
        for name, cls in app.registered_classes.items():
            found += [Target(METHOD, f"{name}.{method}", app, raw, cls) for method, raw in methods(cls).items()]
    return sorted(found, key=lambda target: target.kind != ENTRY_POINT)


def methods(cls: Cls[..., Any]) -> dict[str, Callable[..., Any]]:
    """The remote methods of a class, as the user wrote them."""
    user_class = cls._get_user_cls()
    found = {name: inspect.getattr_static(user_class, name) for name in dir(user_class)}
    return {name: value.get_raw_f() for name, value in found.items() if isinstance(value, Method)}


def maker(cls: Cls[..., Any]) -> Callable[..., Any]:
    """What makes an instance of a class, with a signature that says what an instance is made with.

    That is the constructor's, or that of the class's `jitney.parameter()`s.
    """
    user_class = cls._get_user_cls()

    def make(*args: Any, **kwargs: Any) -> Any:
        return cls(*args, **kwargs)

    make.__name__ = user_class.__name__
    make.__doc__ = user_class.__doc__
    if user_class.__init__ is not object.__init__:
        make.__annotations__ = flags.types_of(user_class.__init__)
        make.__signature__ = inspect.signature(user_class)  # type: ignore[attr-defined]
        return make
    hints = flags.types_of(user_class)
    make.__annotations__ = hints
    make.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default if one.has_default else inspect.Parameter.empty,
                annotation=hints.get(name, inspect.Parameter.empty),
            )
            for name, one in parameters_of(user_class).items()
            if one.init
        ]
    )
    return make


def choose(module: ModuleType, name: str, place: str) -> Target:
    """The target of that name; without a name the only entry point, or else the only function.

    Raises:
        NotFoundError: there is none, or none of that name.
        InvalidError: there are several, and no name says which.
    """
    found = targets(module)
    if not apps(module):
        raise NotFoundError(f"{place} has no app", hint='it needs `app = jitney.App("name")` at its top level')
    if name:
        picked = pick(name, [target.name for target in found], of=place, what="entry point or function")
        return next(target for target in found if target.name == picked)
    if not found:
        raise NotFoundError(f"the app of {place} has no functions", hint="mark one with `@app.function()`")
    entries = [target for target in found if target.kind == ENTRY_POINT]
    if len(entries) == 1 or len(found) == 1:
        return (entries or found)[0]
    choices = "\n".join(f"{target.kind} {target.name}" for target in (entries or found))
    raise InvalidError(
        f"{place} has {len(entries or found)} things to run\n{choices}",
        hint=f"name one: `jitney run {place}::{(entries or found)[0].name}`",
    )


def only_app(module: ModuleType, name: str, place: str) -> App:
    """The app of that variable or name; without one, the only app, or that of the variable `app`.

    Raises:
        NotFoundError: there is none, or none of that name.
        InvalidError: there are several, and no name says which.
    """
    found = apps(module)
    if not found:
        raise NotFoundError(f"{place} has no app", hint='it needs `app = jitney.App("name")` at its top level')
    if name:
        by_name = {str(app.name): app for app in found.values() if app.name} | found
        return by_name[pick(name, list(by_name), of=place, what="app")]
    if len(found) == 1 or "app" in found:
        return found.get("app") or next(iter(found.values()))
    raise InvalidError(
        f"{place} has {len(found)} apps: {', '.join(found)}",
        hint=f"name one: `jitney deploy {place}::{next(iter(found))}`",
    )
