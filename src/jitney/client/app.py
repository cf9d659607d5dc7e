"""`App`: functions and classes that run and are deployed together."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast, dataclass_transform

from jitney.client import options, volume_mounts
from jitney.client import session as sessions
from jitney.client.cls import Cls, mark_as_cls, methods_of
from jitney.client.declare import Declaration, FunctionDecorator, declare
from jitney.client.dual import dual
from jitney.client.handle import OfApp, Target
from jitney.client.lifecycle import parameter
from jitney.client.options import ClsOptions, FunctionOptions
from jitney.errors import InvalidError, NotFoundError, UnsupportedError
from jitney.wire.messages.apps import AppPublish, AppRef
from jitney.wire.methods import APP_GET, APP_PUBLISH

if TYPE_CHECKING:
    from jitney.client.function import Function
    from jitney.client.image import Image
    from jitney.client.running import Deployed, Running
    from jitney.client.secret import Secret

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class LocalEntrypoint(Generic[P, R]):
    """A function that `jitney run` runs here, with its app running. Calling it is calling the function."""

    def __init__(self, app: App, name: str, raw: Callable[P, R]) -> None:
        self.app = app
        self.name = name
        self.raw_f = raw
        self.__doc__ = raw.__doc__
        self.__wrapped__ = raw

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.raw_f(*args, **kwargs)


class App:
    """Functions and classes that run and are deployed together.

    Args:
        name: shown in lists, and what `deploy()` uses.
        image: for functions that name none.
        tags: texts to find the app by.
        isolation: the lowest tier of isolation for functions that name none: "process", "oci", "namespaces" or
            "gvisor"; default: what the server's policy asks for. The stricter of the two holds.
        secrets: for all functions; those that a function has come after them, and win.
        volumes: for all functions, by path; what a function has at the same path comes instead.
        include_source: ship the file or package that a function is defined in.

    >>> app = App("example")
    >>> @app.function(timeout=60)
    ... def square(x: int) -> int:
    ...     return x * x
    >>> square.local(3)
    9
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        image: Image | None = None,
        tags: Mapping[str, str] | None = None,
        isolation: str | None = None,
        secrets: Sequence[Secret] | None = None,
        volumes: Mapping[Any, Any] | None = None,
        include_source: bool = True,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise InvalidError(f"the name of an app is a text, not {name!r}")
        self._name = name
        self._image = image
        self._tags = dict(tags or {})
        self._isolation = options.isolation(isolation)
        self._secrets = options.secrets(secrets)
        self._volumes = volume_mounts.checked(volumes)
        self._include_source = include_source
        self._declarations: dict[str, Declaration] = {}
        self._entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}
        self._targets: dict[str, Target] = {}
        self._app_id: str | None = None
        self._is_running = False

    def __repr__(self) -> str:
        return f"App({self._name!r})" if self._name else "App()"

    def __reduce__(self) -> tuple[Any, ...]:
        return (App, (self._name,))

    @property
    def name(self) -> str | None:
        """As given."""
        return self._name

    @property
    def app_id(self) -> str | None:
        """Its id ('ap-…') while it runs, or after it was deployed or looked up."""
        return self._app_id

    @property
    def image(self) -> Image | None:
        """For functions that name none."""
        return self._image

    @property
    def registered_functions(self) -> dict[str, Function[..., Any, Any]]:
        """Functions by name."""
        return {name: one.function for name, one in self._declarations.items() if one.function is not None}

    @property
    def registered_classes(self) -> dict[str, Cls[..., Any]]:
        """Classes by name."""
        return {name: one.cls for name, one in self._declarations.items() if one.cls is not None}

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint[..., Any]]:
        """Local entry points by name."""
        return dict(self._entrypoints)

    # ------------------------------------------------------------------------------------------- declaring

    @options.described(FunctionOptions)
    def function(self, **given: Unpack[FunctionOptions]) -> FunctionDecorator:
        """Make a function one that runs in containers. Every function has containers of its own.

        Args:
            image: what is installed where it runs; default: the app's, or one with nothing but Python.
            name: what it is called; default: its own name.
            serialized: send it pickled, for functions that are not at the top of a module.
            retries: runs after a failed one (1 s apart), or `jitney.Retries(...)`.
            timeout: seconds that one input may run.
            startup_timeout: seconds that a container may take to get ready; default: `timeout`.
            min_containers: kept even without inputs.
            max_containers: never more; default: as many as the machine holds.
            buffer_containers: idle ones beyond what is needed, while there is work.
            scaledown_window: seconds that a container may be idle (default 60).
            cpu: cores, or (request, limit); default 0.125.
            memory: MiB, or (request, limit); default 128. A container over its limit is ended.
            ephemeral_disk: MiB that a container may write to its own file system.
            block_network: its containers reach nothing.
            outbound_cidr_allowlist: its containers reach these addresses (and names) only, such as "10.1.0.0/16".
            outbound_domain_allowlist: its containers reach these names (and addresses) only, such as "*.example.com".
            isolation: the lowest tier of isolation that it may run at: "process", "oci", "namespaces" or "gvisor".
            enable_memory_snapshot: `@jitney.enter(snap=True)` methods of a class run once for all its containers.
            experimental_options: {"enable_checkpoint": True} restores containers of a module that cannot be forked.
            env: environment variables of its containers.
            secrets: more of them, from secrets: later ones win, and `env` wins over all.
            include_source: ship the file or package that it is defined in; default: as the app.
            single_use_containers: a fresh container for each input.
            is_generator: whether it yields; found out by itself unless a decorator hides it.

        Raises:
            InvalidError: no such option, or a value that cannot be.
            UnsupportedError: an option that this version does not do.
        """
        return FunctionDecorator(self, self._options(FunctionOptions, "@app.function", given))

    def _options(self, kind: type[FunctionOptions | ClsOptions], of: str, given: Mapping[str, Any]) -> options.Declared:
        found = options.declared(kind, of, given)
        volumes = volume_mounts.checked({**dict(self._volumes), **dict(found.volumes)})
        return found._replace(
            isolation=found.isolation or self._isolation,
            secrets=(*self._secrets, *found.secrets),
            volumes=volumes,
            env={**volume_mounts.variables(volumes), **found.env},
        )

    @dataclass_transform(field_specifiers=(parameter,), kw_only_default=True)
    def cls(self, **given: Unpack[ClsOptions]) -> Callable[[Callable[P, T]], Cls[P, T]]:
        """Make a class one whose instances live in containers, one per container. See `function` for the options.

        Mark methods with `@jitney.method()`, hooks with `@jitney.enter()` and `@jitney.exit()`.

        Raises:
            InvalidError: no such option, or a value that cannot be.
            UnsupportedError: an option that this version does not do.
        """
        found = self._options(ClsOptions, "@app.cls", given)

        def decorate(user_class: Callable[P, T]) -> Cls[P, T]:
            if not inspect.isclass(user_class):
                raise InvalidError(
                    f"@app.cls() goes on a class, not on {user_class!r}", hint="write it with parentheses"
                )
            declaration = declare(user_class, found, methods_of(user_class), is_class=True)
            handle = OfApp(self, declaration.name)
            handle.resources = found.resources
            made: Cls[P, T] = Cls(handle, cast(type[T], user_class), by_value=declaration.by_value)
            mark_as_cls(user_class, made)
            declaration.cls = made
            self._register(declaration)
            return made

        return decorate

    def local_entrypoint(self, *, name: str | None = None) -> Callable[[Callable[P, R]], LocalEntrypoint[P, R]]:
        """Make a function one that `jitney run` starts here; its parameters become flags of the command line.

        Args:
            name: what it is called; default: its own name.
        """
        if callable(name):
            raise InvalidError("@app.local_entrypoint is missing its parentheses", hint="write @app.local_entrypoint()")

        def decorate(raw: Callable[P, R]) -> LocalEntrypoint[P, R]:
            tag = name or str(getattr(raw, "__qualname__", "main"))
            if tag in self._entrypoints and not _is_interactive():
                raise InvalidError(f"the app has a local entry point {tag!r} already", hint="give one of them a name=")
            entrypoint = LocalEntrypoint(self, tag, raw)
            self._entrypoints[tag] = entrypoint
            return entrypoint

        return decorate

    def _register(self, declaration: Declaration) -> None:
        """Add what a decorator declared."""
        before = self._declarations.get(declaration.name)
        if before is not None and before.where != declaration.where:
            raise InvalidError(
                f"the app has {declaration.name!r} already, from {before.where}",
                hint=f"give the one from {declaration.where} a name=",
            )
        self._declarations[declaration.name] = declaration

    def include(self, other: App) -> App:
        """Take in all functions, classes and entry points of another app; they then belong to this one.

        Raises:
            InvalidError: a name is taken.
        """
        for declaration in other._declarations.values():
            self._register(declaration)
            declaration.image = declaration.image or other._image
            if declaration.include_source is None:
                declaration.include_source = other._include_source
            owner = declaration.function or declaration.cls
            assert owner is not None
            assert isinstance(owner._handle, OfApp)
            owner._handle.app = self
        for name, entrypoint in other._entrypoints.items():
            self._entrypoints.setdefault(name, entrypoint)
        return self

    @property
    def _declared(self) -> list[Declaration]:
        """What is to be published."""
        return list(self._declarations.values())

    # ------------------------------------------------------------------------------------------- running

    def run(self, *, detach: bool = False, interactive: bool = False, environment_name: str | None = None) -> Running:
        """Run the app for as long as a `with` block (or `async with`) lasts. Gives the app.

        Args:
            detach: let it go on after the block, until its work is done or somebody stops it.

        Raises:
            ImageBuildError: an image could not be built.
            ConnectionError: no server answers, and none could be started.
        """
        from jitney.client.running import Running

        if interactive or environment_name:
            what = "interactive=True" if interactive else "environment_name=..."
            raise UnsupportedError(f"app.run({what}) is not supported by this version")
        return Running(self, detach=detach)

    @dual
    async def deploy(
        self, name: str | None = None, *, tag: str = "", strategy: str = "rolling", environment_name: str | None = None
    ) -> Deployed:
        """Give the app a name under which it can be called until it is stopped, also by other programs.

        A deploy of exactly what runs already changes nothing; otherwise it makes a new version.

        Args:
            name: default: that of the app.
            tag: a text that is kept with the version.

        Raises:
            InvalidError: the app has no name.
        """
        from jitney.client.running import deploy

        if strategy != "rolling" or environment_name:
            raise UnsupportedError("app.deploy: of its options, this version has name and tag")
        return await deploy(self, name or self._name, tag)

    @staticmethod
    def lookup(name: str, *, create_if_missing: bool = False, environment_name: str | None = None) -> App:
        """The deployed app of that name.

        Args:
            create_if_missing: make an empty one where there is none.

        Raises:
            NotFoundError: there is none.
        """
        if environment_name:
            raise UnsupportedError("App.lookup(environment_name=...) is not supported by this version")
        session = sessions.current()
        app = App(name)
        try:
            app._app_id = session.ask(APP_GET, AppRef(app=name)).app_id
        except NotFoundError:
            if not create_if_missing:
                raise
            app._app_id = session.ask(APP_PUBLISH, AppPublish(deploy_as=name)).app_id
        return app

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set the tags that the app runs or is deployed with next.

        Raises:
            UnsupportedError: it runs already.
        """
        if self._is_running:
            raise UnsupportedError("the tags of a running app cannot be changed", hint="set them before it runs")
        self._tags = dict(tags)

    @dual
    async def get_tags(self) -> dict[str, str]:
        """Its tags: at the server if it runs there, else those it will have."""
        if self._app_id is None:
            return dict(self._tags)
        return (await sessions.current().request(APP_GET, AppRef(app=self._app_id))).tags

    def _target(self, name: str) -> Target | None:
        """Where a function of the running app is."""
        return self._targets.get(name)

    def _bind(self, app_id: str | None, targets: dict[str, Target], *, is_running: bool = False) -> None:
        """From now on the app is this one at the server; None and {}: it is none."""
        self._app_id, self._targets, self._is_running = app_id, targets, is_running


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or not hasattr(sys.modules.get("__main__"), "__file__")
