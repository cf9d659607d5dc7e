"""`@app.cls()`: a class whose instances live in containers.

    @app.cls()
    class Model:
        size: str = jitney.parameter(default="small")

        @jitney.enter()
        def load(self): ...

        @jitney.method()
        def predict(self, text: str) -> float: ...

    Model(size="large").predict.remote("...")

Each set of parameters has containers of its own. Calling the class makes no instance here, only a handle: the instance
is made in the container, and here on the first `.local(...)`.
"""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast

from jitney.client import options, volume_mounts
from jitney.client.dual import dual
from jitney.client.function import Function, refuse_lookup
from jitney.client.handle import Bound, Handle, Named
from jitney.client.lifecycle import BATCHING, CLS, CONCURRENCY, ENTER, EXIT, SNAP, Method, Parameter
from jitney.errors import InvalidError
from jitney.values.functions import PARAMETERS_BYTES_MAX, MethodSpec, Overrides

if TYPE_CHECKING:
    from jitney.client.options import VariantOptions
    from jitney.client.secret import Secret
    from jitney.client.volume_mounts import Mounts

P = ParamSpec("P")
T = TypeVar("T")

POOLS_KEPT_MAX = 1_000  # sets of parameters whose handles a class keeps
TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "bytes": bytes}


class Cls(Generic[P, T]):
    """A class that runs in containers. Made by `@app.cls()` or `Cls.from_name()`.

    Type parameters: the parameters of its constructor, and the class.
    """

    def __init__(self, handle: Handle, user_class: type[T] | None = None, *, by_value: bool = True) -> None:
        """Of the SDK; see `App.cls`."""
        self._handle = handle
        self._user_class = user_class
        self._by_value = by_value
        self._pools: dict[bytes, Handle] = {}
        if user_class is not None:
            functools.update_wrapper(self, user_class, updated=())

    def __repr__(self) -> str:
        return f"Cls({self._handle.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Cls, (self._handle,))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """A handle on instances with these parameters.

        Raises:
            InvalidError: no such parameter, one is missing, or one has the wrong type.
        """
        values = self._checked(args, dict(kwargs))
        return cast(T, Obj(self, self._pool(values), values))

    def _pool(self, values: dict[str, Any]) -> Handle:
        """Of instances with these parameters. Kept, so that making them again asks nobody."""
        if not values:
            return self._handle
        encoded = encode_parameters(self._handle.name, values)
        handle = self._pools.get(encoded)
        if handle is None:
            if len(self._pools) >= POOLS_KEPT_MAX:
                self._pools.pop(next(iter(self._pools)))
            handle = self._pools[encoded] = Bound(self._handle, Overrides(parameters=encoded))
        return handle

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._get_user_cls(),)

    @staticmethod
    def from_name(
        app_name: str, name: str, *, version: int | None = None, environment_name: str | None = None
    ) -> Cls[..., Any]:
        """A class of a deployed app. Nothing is asked before its first use.

        Args:
            app_name: the name that it was deployed under.
            name: of the class.
        """
        refuse_lookup(version, environment_name)
        return Cls(Named(app_name, name))

    def with_options(self, **given: Unpack[VariantOptions]) -> Cls[P, T]:
        """The same class with other options: containers of their own. What is not given stays as declared; secrets
        and volumes that are given come instead of all that were declared.

        Raises:
            InvalidError: no such option, or a value that cannot be.
            UnsupportedError: an option that this version does not do.
        """
        return self._bound(
            options.overrides(given, self._handle.resources),
            options.secrets(given.get("secrets")),
            volume_mounts.replaced(given.get("volumes")),
        )

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Cls[P, T]:
        """The same class with other concurrency; see `jitney.concurrent`."""
        return self._bound(Overrides(concurrency=options.concurrency(max_inputs, target_inputs)))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Cls[P, T]:
        """The same class with other batching; see `jitney.batched`."""
        return self._bound(Overrides(batching=options.batching(max_batch_size, wait_ms)))

    def _bound(self, overrides: Overrides, secrets: Sequence[Secret] = (), volumes: Mounts | None = None) -> Cls[P, T]:
        return Cls(Bound(self._handle, overrides, secrets, volumes), self._user_class, by_value=self._by_value)

    @dual
    async def hydrate(self) -> Cls[P, T]:
        """Look it up now rather than at its first use; gives itself.

        Raises:
            NotFoundError: there is no such class.
        """
        await self._handle.find()
        return self

    @property
    def object_id(self) -> str:
        """Its id.

        Raises:
            InvalidError: it has not been looked up yet.
        """
        return Function(self._handle).object_id

    def _get_user_cls(self) -> type[T]:
        """The Python class that it was made from (the container asks for it by this name)."""
        if self._user_class is None:
            raise InvalidError(f"class {self._handle.name} was found by name: its code is not here")
        return self._user_class

    # ------------------------------------------------------------------------------------------- parts

    def _method(self, handle: Handle, name: str, local: Callable[[], Any]) -> Function[..., Any, Any]:
        """The method `name` of instances at `handle`; `local` gives the instance to run it on here."""
        marker = None if self._user_class is None else getattr(self._user_class, name, None)
        if self._user_class is not None and not isinstance(marker, Method):
            raise AttributeError(f"{self._handle.name} has no method {name!r}")
        raw = marker.raw if isinstance(marker, Method) else None

        def run_here(*args: Any, **kwargs: Any) -> Any:
            assert raw is not None
            return raw(local(), *args, **kwargs)

        return Function(
            handle,
            raw=raw,
            method=name,
            is_generator=marker.is_generator if isinstance(marker, Method) else None,
            by_value=self._by_value,
            local=run_here if raw is not None else None,
        )

    def _method_of(self, instance: object, marker: Method[..., Any, Any]) -> Function[..., Any, Any]:
        """A method on an instance of the user's class, inside that class's own code."""
        values = {name: getattr(instance, name) for name, one in parameters_of(type(instance)).items() if one.init}
        return Function(
            self._pool(values),
            raw=marker.raw,
            method=marker.__name__,
            is_generator=marker.is_generator,
            by_value=self._by_value,
            local=functools.partial(marker.raw, instance),
            is_own=True,
        )

    def _checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._user_class is None:
            if args:
                raise InvalidError(f"parameters of {self._handle.name} are given by name", hint="write Model(size=...)")
            return kwargs
        if _has_init(self._user_class):
            bound = inspect.signature(self._user_class).bind(*args, **kwargs)
            return dict(bound.arguments)
        if args:
            raise InvalidError(f"parameters of {self._handle.name} are given by name", hint="write Model(size=...)")
        return checked_parameters(self._user_class, kwargs)


class Obj:
    """Instances of a class with one set of parameters: its methods are `Function`s.

    To type checkers it is an instance of the user's class.
    """

    def __init__(self, cls: Cls[..., Any], handle: Handle, values: dict[str, Any]) -> None:
        self._cls = cls
        self._handle = handle
        self._values = values
        self._instance: Any = None

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{self._cls._handle.name}({given})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Obj, (self._cls, self._handle, self._values))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        user_class = self._cls._user_class
        if user_class is None or isinstance(getattr(user_class, name, None), Method):
            return self._cls._method(self._handle, name, self._entered)
        if name in self._values:
            return self._values[name]
        return getattr(self._entered(), name)

    def _entered(self) -> Any:
        """The instance of this process, with its `@enter` methods run."""
        if self._instance is None:
            user_class = self._cls._get_user_cls()
            instance = make_instance(user_class, self._values)
            for hook in sorted(hooks_of(user_class, ENTER), key=lambda hook: not getattr(hook, SNAP, False)):
                result = hook(instance)
                if inspect.iscoroutine(result):
                    result.close()
                    raise InvalidError(
                        f"{self._cls._handle.name} has an async @enter method, which cannot run here",
                        hint="use .remote",
                    )
            self._instance = instance
        return self._instance


def make_instance(user_class: type, values: dict[str, Any]) -> Any:
    """An instance of the user's class as a container makes it."""
    if _has_init(user_class):
        return user_class(**values)
    instance: Any = object.__new__(user_class)
    for name, one in parameters_of(user_class).items():
        setattr(instance, name, values.get(name, one.default))
    return instance


def _has_init(user_class: type) -> bool:
    return user_class.__init__ is not object.__init__  # type: ignore[misc]


def parameters_of(user_class: type) -> dict[str, Parameter]:
    """Parameters by name; those of base classes first."""
    return {
        name: value
        for base in reversed(user_class.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, Parameter)
    }


def hooks_of(user_class: type, mark: str) -> list[Callable[[Any], Any]]:
    """Marked methods; those of base classes first, and each name once, as the class has it."""
    names = {
        name: None
        for base in reversed(user_class.__mro__)
        for name, value in vars(base).items()
        if getattr(value, mark, False)
    }
    return [getattr(user_class, name) for name in names]


def checked_parameters(user_class: type, given: dict[str, Any]) -> dict[str, Any]:
    """All parameters of an instance, defaults included.

    Raises:
        InvalidError: no such parameter, one is missing, or one has the wrong type.
    """
    known = {name: one for name, one in parameters_of(user_class).items() if one.init}
    name = user_class.__name__
    for wrong in given.keys() - known.keys():
        there = f"it has {', '.join(known)}" if known else "declare it with `name: str = jitney.parameter()`"
        raise InvalidError(f"{name} has no parameter {wrong!r}", hint=there)
    values = {}
    for key, one in known.items():
        if key not in given and not one.has_default:
            raise InvalidError(f"{name} needs the parameter {key!r}", hint=f"write {name}({key}=...)")
        value = given.get(key, one.default)
        wanted = _type_of(user_class, key)
        if type(value) is not wanted:
            raise InvalidError(f"{name}({key}=...) takes {wanted.__name__}, not {type(value).__name__}")
        values[key] = value
    return values


def _type_of(user_class: type, name: str) -> type:
    """The type that a parameter is annotated with."""
    for base in user_class.__mro__:
        annotation = inspect.get_annotations(base).get(name)
        if annotation is not None:
            text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
            if text in TYPES:
                return TYPES[text]
            raise InvalidError(
                f"parameter {name!r} of {user_class.__name__} is of type {text}", hint=f"it may be {', '.join(TYPES)}"
            )
    raise InvalidError(
        f"parameter {name!r} of {user_class.__name__} has no type", hint=f"write `{name}: str = jitney.parameter()`"
    )


def encode_parameters(name: str, values: dict[str, Any]) -> bytes:
    """Parameters as bytes: the same for equal values, since they are the key of a pool.

    Raises:
        InvalidError: they are over 16 KiB.
    """
    encoded = pickle.dumps(dict(sorted(values.items())), 5)
    if len(encoded) > PARAMETERS_BYTES_MAX:
        raise InvalidError(
            f"the parameters of {name} are {len(encoded):,} bytes, and may be 16 KiB", hint="pass large data to methods"
        )
    return encoded


def methods_of(user_class: type) -> tuple[MethodSpec, ...]:
    """The remote methods of a class, inherited ones included. Marks what only `@batched` says is a method.

    Raises:
        InvalidError: none, or marks that do not go together.
    """
    found: dict[str, MethodSpec] = {}
    for base in reversed(user_class.__mro__):
        for name, value in list(vars(base).items()):
            if inspect.isfunction(value) and hasattr(value, BATCHING):
                value = Method(value)
                setattr(base, name, value)
            if isinstance(value, Method):
                found[name] = method_spec(name, value.raw, value.is_generator)
            elif getattr(value, CONCURRENCY, None) is not None and inspect.isfunction(value):
                raise InvalidError(
                    f"@jitney.concurrent is on {user_class.__name__}.{name}",
                    hint="put it on the class: it is for all methods",
                )
    if not found:
        raise InvalidError(f"{user_class.__name__} has no method to call", hint="mark one with @jitney.method()")
    batched = [name for name in found if hasattr(getattr(user_class, name).raw, BATCHING)]
    if batched and len(found) > 1:
        raise InvalidError(f"{user_class.__name__}.{batched[0]} is @jitney.batched, so it must be the only method")
    for mark in (ENTER, EXIT):
        for hook in hooks_of(user_class, mark):
            if inspect.isgeneratorfunction(hook):
                raise InvalidError(f"{hook.__qualname__} is a hook of the container, and may not yield")
    setattr(user_class, "__jitney_methods__", tuple(found))  # noqa: B010 (no attribute of the user's)
    return tuple(found.values())


def method_spec(name: str, raw: Callable[..., Any], is_generator: bool | None) -> MethodSpec:
    """How a callable is to be run."""
    yields = inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)
    return MethodSpec(
        name=name,
        is_async=inspect.iscoroutinefunction(raw) or inspect.isasyncgenfunction(raw),
        is_generator=yields if is_generator is None else is_generator,
    )


def mark_as_cls(user_class: type, cls: Cls[..., Any]) -> None:
    """Let methods on instances of the user's class find their containers."""
    setattr(user_class, CLS, cls)
