"""What a decorator declared, and how it becomes the `FunctionSpec` that is published."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import msgspec

from jitney import __version__
from jitney.client import output
from jitney.client.cls import Cls, hooks_of, method_spec
from jitney.client.function import Function
from jitney.client.handle import OfApp
from jitney.client.lifecycle import BATCHING, CONCURRENCY, SNAP, Method
from jitney.client.options import Declared
from jitney.client.volume_mounts import buckets_of, secrets_of
from jitney.errors import InvalidError, SerializationError, VersionError
from jitney.runner import state
from jitney.values.functions import Batching, ClientVersions, Concurrency, FunctionSpec, MethodSpec
from jitney.values.secrets import SecretRef

if TYPE_CHECKING:
    from jitney.client.app import App
    from jitney.client.image import Image
    from jitney.values.images import BuiltImage
    from jitney.values.volumes import VolumeMount

P = ParamSpec("P")
R = TypeVar("R")

PICKLED_BYTES_NOTED = 256 * 1024


class Declaration:
    """A function or class of an app."""

    def __init__(self, raw: Any, name: str, options: Declared, methods: tuple[MethodSpec, ...], is_class: bool) -> None:
        self.raw = raw
        self.name = name
        self.options = options
        self.methods = methods
        self.is_class = is_class
        self.image: Image | None = options.image
        self.include_source: bool | None = options.include_source
        self.function: Function[..., Any, Any] | None = None
        self.cls: Cls[..., Any] | None = None

    @property
    def where(self) -> str:
        """Where the code is, for a sentence."""
        return f"{self.raw.__module__}.{self.raw.__qualname__}"

    @property
    def is_pickled(self) -> bool:
        """Whether the code itself travels, since there is no file that the container could import."""
        return self.options.serialized or not _has_file(self.raw.__module__)

    @property
    def by_value(self) -> bool:
        """Whether what refers to this process's `__main__` has to be sent whole."""
        return self.is_pickled or self.raw.__module__ != "__main__"

    @property
    def concurrency(self) -> Concurrency | None:
        """Of `@concurrent`."""
        return getattr(self.raw, CONCURRENCY, None)

    @property
    def batching(self) -> Batching | None:
        """Of `@batched`, on the function or on the one method of the class."""
        if not self.is_class:
            return getattr(self.raw, BATCHING, None)
        raws = [getattr(self.raw, one.name).raw for one in self.methods]
        return next((getattr(raw, BATCHING) for raw in raws if hasattr(raw, BATCHING)), None)

    @property
    def has_snapshot(self) -> bool:
        """Whether an instance is made ahead: memory snapshots are on, and a method runs for one."""
        return self.options.snapshot and self.is_class and bool(hooks_of(self.raw, SNAP))

    def spec(
        self, module: str, is_main: bool, image: BuiltImage, source_id: str, mounts: tuple[VolumeMount, ...] = ()
    ) -> FunctionSpec:
        """As published. Pickles the code where it has to travel: off the loop.

        Raises:
            SerializationError: the code cannot be pickled.
            VersionError: the container could not unpickle it.
            InvalidError: it is too large, or cannot be found in its module.
        """
        check_versions(self, image)
        pickled = _pickle(self) if self.is_pickled else b""
        if not pickled and "<locals>" in self.raw.__qualname__:
            raise InvalidError(
                f"{self.where} is defined inside a function, where a container cannot find it",
                hint="move it to the top of the module, or use serialized=True",
            )
        return FunctionSpec(
            name=self.name,
            module="" if pickled else module,
            qualname="" if pickled else self.raw.__qualname__,
            main_module=is_main and not pickled,
            pickled=pickled,
            is_class=self.is_class,
            methods=self.methods,
            image_id=image.image_id,
            source_id=source_id,
            env=self.options.env,
            secrets=self._secret_refs(),
            retries=self.options.retries,
            timeout_ms=self.options.timeout_ms,
            startup_timeout_ms=self.options.startup_timeout_ms,
            scaling=self.options.scaling,
            resources=self.options.resources,
            concurrency=self.concurrency,
            batching=self.batching,
            single_use=self.options.single_use,
            isolation=self.options.isolation,
            network=self.options.network,
            volumes=mounts,
            buckets=buckets_of(self.options.volumes),
            snapshot=self.has_snapshot,
            checkpoint=self.options.checkpoint,
            versions=versions(),
        )

    def _secret_refs(self) -> tuple[SecretRef, ...]:
        if not self.options.secrets:
            return ()
        from jitney.client import secret

        return secret.references(self.options.secrets)

    def secret_values(self) -> dict[str, dict[str, str]]:
        """Of its secrets without a name, by id: what is published beside the spec."""
        secrets = (*self.options.secrets, *secrets_of(self.options.volumes))
        if not secrets:
            return {}
        from jitney.client import secret

        return secret.values(secrets)


def declare(raw: Any, options: Declared, methods: tuple[MethodSpec, ...], *, is_class: bool) -> Declaration:
    """A declaration, named after its function or class where no name is given."""
    qualname = raw.__qualname__
    name = options.name or (raw.__name__ if "<locals>" in qualname else qualname)
    return Declaration(raw, name, options, methods, is_class)


class FunctionDecorator:
    """What `@app.function(...)` gives: call it with the function."""

    def __init__(self, app: App, options: Declared) -> None:
        self._app = app
        self._options = options

    @overload
    def __call__(self, f: Callable[P, Coroutine[Any, Any, R]]) -> Function[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, f: Callable[P, AsyncIterator[R]]) -> Function[P, R, AsyncIterator[R]]: ...
    @overload
    def __call__(self, f: Callable[P, Iterator[R]]) -> Function[P, R, Iterator[R]]: ...
    @overload
    def __call__(self, f: Callable[P, R]) -> Function[P, R, R]: ...
    def __call__(self, f: Any) -> Any:
        if isinstance(f, Method):
            raise InvalidError(
                "@app.function() goes on functions", hint="methods: @app.cls() on the class, @jitney.method()"
            )
        if inspect.isclass(f):
            raise InvalidError(f"@app.function() is on the class {f.__name__}", hint="use @app.cls()")
        if not inspect.isroutine(f):
            raise InvalidError(f"@app.function() goes on a function, not on {f!r}", hint="write it with parentheses")
        if isinstance(getattr(f, "__self__", None), object) and inspect.ismethod(f):
            raise InvalidError(f"{f.__qualname__} is a method of an instance", hint="use @app.cls() on its class")
        method = method_spec("", f, self._options.is_generator)
        declaration = declare(f, self._options, (method,), is_class=False)
        if method.is_generator and declaration.batching is not None:
            raise InvalidError(f"{declaration.name} is @jitney.batched, and may not yield")
        handle = OfApp(self._app, declaration.name)
        handle.resources = self._options.resources
        made: Function[..., Any, Any] = Function(
            handle, raw=f, is_generator=method.is_generator, by_value=declaration.by_value
        )
        declaration.function = made
        self._app._register(declaration)
        return made


def _has_file(module: str) -> bool:
    return state.config is not None or module != "__main__" or hasattr(sys.modules.get(module), "__file__")


def _pickle(declaration: Declaration) -> bytes:
    import cloudpickle

    try:
        pickled = cloudpickle.dumps(declaration.raw, 5)
    except Exception as error:
        raise SerializationError(
            f"{declaration.name} cannot be pickled: {type(error).__name__}: {error}",
            hint="what it refers to outside itself travels with it; make such things inside the function",
        ) from error
    assert isinstance(pickled, bytes)
    if len(pickled) > PICKLED_BYTES_NOTED:
        output.current().note(
            f"{declaration.name} is {len(pickled) / 1024:,.0f} KiB when pickled: what it refers to travels with it"
        )
    return pickled


def versions() -> ClientVersions:
    """What pickles here."""
    import cloudpickle

    return ClientVersions(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        cloudpickle=cloudpickle.__version__,
        jitney=__version__,
    )


def check_versions(declaration: Declaration, image: BuiltImage) -> None:
    """Say so when the container may not read what is pickled here, before anything is called.

    Raises:
        VersionError: code is pickled, which only the same Python reads.
    """
    mine = versions()
    theirs = ClientVersions(python=_minor(image.python_version), cloudpickle=image.cloudpickle_version)
    differs = []
    if theirs.python and theirs.python != mine.python:
        differs.append(f"Python {mine.python} here and {theirs.python} in the image")
    if theirs.cloudpickle and _minor(theirs.cloudpickle) != _minor(mine.cloudpickle):
        differs.append(f"cloudpickle {mine.cloudpickle} here and {theirs.cloudpickle} in the image")
    if not differs:
        return
    what = " and ".join(differs)
    if declaration.is_pickled:
        raise VersionError(
            f"{declaration.name} is sent pickled, and there is {what}",
            hint=f"use Image.debian_slim(python_version={mine.python!r}), or import it from a module",
        )
    output.current().note(
        f"{declaration.name} runs with {what}: arguments that only cloudpickle can pickle (lambdas, local classes) "
        "may not be readable there"
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def same_spec(one: msgspec.Struct) -> bytes:
    """A key that is equal for equal values."""
    return msgspec.msgpack.encode(one)
