"""From names to things that can be called: the user's function, or an instance of the user's class.

The SDK's decorators leave something of their own in the module; what they wrap is reached by `get_raw_f()` (functions)
and `_get_user_cls()` (classes), without importing the SDK here. Methods and lifecycle hooks are plain functions with
marks on them.
"""

from __future__ import annotations

import base64
import functools
import importlib
import pickle
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from jitney.runner import payload, process, state

_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200


class LoadError(Exception):
    """What was deployed and what is in the module do not fit."""


class Method(NamedTuple):
    """Something to call for an input."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    is_generator: bool


class Loaded(NamedTuple):
    """All that a container needs of the user's code."""

    methods: dict[str, Method]
    enter: list[Callable[[], Any]]
    exit: list[Callable[[], Any]]

    @property
    def is_async(self) -> bool:
        """Whether any of it needs an event loop."""
        if any(method.is_async for method in self.methods.values()):
            return True
        return any(map(is_async, [*self.enter, *self.exit]))


def import_module(name: str, source: str, *, main_module: bool, sys_path: list[str]) -> Any:
    """Import the user's module, from the folder `source` before anything else; None for no name.

    With `main_module` it also takes the place of `__main__`: what the client pickled by that name is found in it.
    """
    for folder in reversed([*([source] if source else []), *sys_path]):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    if not name:
        return None
    module = importlib.import_module(name)
    if main_module:
        sys.modules["__main__"] = module
    return module


class Prepared(NamedTuple):
    """An instance whose snapshot methods have run: the forks of a template begin with it."""

    user_class: type
    instance: Any


def load(config: dict[str, Any], module: Any, prepared: Prepared | None = None) -> Loaded:
    """The function or class that `config` (Launch.config) names, ready to run.

    Raises:
        LoadError: it is not there, or not what was said.
        Exception: whatever the user's constructor raises.
    """
    specs = config["methods"]
    if config.get("is_class"):
        if prepared is not None:
            return _load_class(prepared.user_class, prepared.instance, specs, [False])
        user_class = class_of(module, config)
        instance = make_instance(user_class, str(config.get("parameters") or ""))
        return _load_class(user_class, instance, specs, [True, False])
    function = _unwrap_function(_find(module, config))
    if not callable(function):
        raise LoadError(f"{config['qualname']!r} is a {type(function).__name__}, not a function")
    spec = specs[0]
    method = Method(spec["name"], function, spec["is_async"], spec["is_generator"])
    return Loaded({method.name: method}, [], [])


def _find(module: Any, where: dict[str, Any]) -> Any:
    if where.get("pickled"):
        return pickle.loads(base64.b64decode(where["pickled"]))
    return _resolve(module, str(where["qualname"]))


def _resolve(module: Any, qualname: str) -> Any:
    if "<locals>" in qualname:
        raise LoadError(f"{qualname!r} is defined inside a function: use serialized=True, or move it to the module")
    found = module
    for name in qualname.split("."):
        try:
            found = getattr(_unwrap_class(found), name)
        except AttributeError:
            where = getattr(module, "__name__", "the module")
            raise LoadError(f"module {where!r} has no {qualname!r}: is it defined under a condition?") from None
    return found


def _unwrap_function(target: Any) -> Any:
    raw = getattr(target, "get_raw_f", None)
    return raw() if callable(raw) else target


def _unwrap_class(target: Any) -> Any:
    user_class = getattr(target, "_get_user_cls", None)
    return user_class() if callable(user_class) else target


# ------------------------------------------------------------------------------------------------ classes


def class_of(module: Any, where: dict[str, Any]) -> type:
    """The class that is `pickled` in, or named by the `qualname` of, `where`.

    Raises:
        LoadError: it is not there, or no class.
    """
    user_class = _unwrap_class(_find(module, where))
    if not isinstance(user_class, type):
        raise LoadError(f"{where['qualname']!r} is a {type(user_class).__name__}, not a class")
    return user_class


def make_instance(user_class: type, parameters: str) -> Any:
    """An instance, made with parameters in base64.

    Raises:
        LoadError: they are not those of the class.
        Exception: whatever the user's constructor raises.
    """
    return _instantiate(user_class, _parameters(parameters))


def hooks(instance: Any, *, snap: bool) -> list[Callable[[], Any]]:
    """The methods to run at the start: those for a snapshot, or the others. Base classes first, then as written."""
    return [
        _bind(instance, name)
        for name, value in _marked(type(instance), "__jitney_enter__").items()
        if bool(getattr(value, "__jitney_snap__", False)) is snap
    ]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await."""
    return bool(_flags(function) & _CO_COROUTINE)


def _load_class(user_class: type, instance: Any, specs: list[dict[str, Any]], rounds: list[bool]) -> Loaded:
    methods = {}
    for spec in specs:
        name = spec["name"]
        if not hasattr(user_class, name):
            raise LoadError(f"class {user_class.__qualname__!r} has no method {name!r}")
        methods[name] = Method(name, _bind(instance, name), spec["is_async"], spec["is_generator"])
    enter = [_as_in_template(hook) if snap else hook for snap in rounds for hook in hooks(instance, snap=snap)]
    leave = [_bind(instance, name) for name in _marked(user_class, "__jitney_exit__")]
    return Loaded(methods, enter, leave)


def _as_in_template(hook: Callable[[], Any]) -> Callable[[], Any]:
    """A snapshot method that a container has to run itself: it has no secrets there, so it has none here."""
    if not state.private:
        return hook
    if is_async(hook):

        async def run_async() -> None:
            with process.without_private():
                await hook()

        return run_async

    def run() -> None:
        with process.without_private():
            hook()

    return run


def _parameters(encoded: str) -> dict[str, Any]:
    data = base64.b64decode(encoded)
    if not data:
        return {}
    value = pickle.loads(data) if data[:1] == b"\x80" else payload.decode(data)
    if not isinstance(value, dict):
        raise LoadError("the constructor's arguments are not a dict")
    return value


def _instantiate(user_class: type, arguments: dict[str, Any]) -> Any:
    if user_class.__init__ is not object.__init__:  # type: ignore[misc]
        return user_class(**arguments)
    instance: Any = object.__new__(user_class)
    markers = parameter_markers(user_class)
    unknown = sorted(set(arguments) - set(markers))
    if unknown:
        raise LoadError(f"class {user_class.__qualname__!r} has no parameter {unknown[0]!r}")
    for name, marker in markers.items():
        if name in arguments:
            setattr(instance, name, arguments[name])
        elif getattr(marker, "has_default", True):
            setattr(instance, name, marker.default)
        else:
            raise LoadError(f"class {user_class.__qualname__!r} needs the parameter {name!r}")
    return instance


def parameter_markers(user_class: type) -> dict[str, Any]:
    """The class attributes that `jitney.parameter()` made, by name; base classes first."""
    markers: dict[str, Any] = {}
    for base in reversed(user_class.__mro__):
        for name, value in vars(base).items():
            ours = type(value).__module__.split(".")[0] == "jitney"
            if ours and hasattr(value, "default") and not callable(value):
                markers[name] = value
    return markers


def _marked(user_class: type, mark: str) -> dict[str, Any]:
    """The methods with a mark, by name: base classes first, then as written."""
    found: dict[str, Any] = {}
    for base in reversed(user_class.__mro__):
        for name, value in vars(base).items():
            function = getattr(value, "__func__", value)
            if getattr(function, mark, False):
                found[name] = function
    return found


def _bind(instance: Any, name: str) -> Callable[..., Any]:
    """The bound method; where a decorator put something else in its place, the function that it wraps, bound."""
    found = getattr(type(instance), name)
    raw = _unwrap_function(found)
    if raw is found:
        return getattr(instance, name)  # type: ignore[no-any-return]
    return functools.partial(raw, instance)


def _flags(function: Callable[..., Any]) -> int:
    function = getattr(function, "func", function)  # a partial
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return int(getattr(code, "co_flags", 0))
