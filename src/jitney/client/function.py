"""`Function`: what `@app.function()` makes, and what a method of a class is on an instance."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from jitney.client import blocking, calls, options, results, volume_mounts
from jitney.client import session as sessions
from jitney.client.arguments import Encoder
from jitney.client.dual import dual, dual_iter_lazy
from jitney.client.handle import Bound, Handle, Named
from jitney.client.maps import ForEach, Map, SpawnMap, Starmap
from jitney.client.portal import PORTAL
from jitney.errors import InvalidError, NotFoundError, UnsupportedError
from jitney.values import ids
from jitney.values.calls import Output
from jitney.values.functions import Overrides
from jitney.wire.messages.functions import AutoscalerUpdate, FunctionGet, FunctionInfo, FunctionRef, FunctionStats
from jitney.wire.methods import FUNCTION_AUTOSCALER, FUNCTION_GET, FUNCTION_STATS

if TYPE_CHECKING:
    from jitney.client.calls import FunctionCall
    from jitney.client.handle import Target
    from jitney.client.options import VariantOptions
    from jitney.client.secret import Secret
    from jitney.client.session import Session
    from jitney.client.volume_mounts import Mounts

P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G")


def new_call_id() -> str:
    """A fresh id: it is also the key by which the server knows a repeat."""
    return ids.make(ids.CALL, os.urandom(ids.ENTROPY_BYTES))


class Remote(Generic[P, R]):
    """`f.remote(...)`: run it in a container and wait for the result. In async code: `await f.remote.aio(...)`.

    Raises:
        Exception: what the function raised, as itself.
        SerializationError: an argument cannot be pickled.
        ExecutionError, FunctionTimeoutError: the container failed; see `jitney.exception`.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Function[P, R, Any]) -> None:
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        function = self._function
        function._check_unary()
        target = function._handle.known()
        if target is None:
            target = PORTAL.call(function._handle.find())
        session = target.session
        payload = function._encoder.connected(session, target.scope, args, kwargs)
        call_id = new_call_id()
        output = None
        try:
            endpoint = session.direct()
            if endpoint is not None and not PORTAL.is_here():
                try:
                    output = blocking.call(endpoint, call_id, target.function_id, function._method, payload)
                except BaseException:
                    # Interrupted: it has said so on its own connection, unless that was in the middle of a frame.
                    session.give_up(call_id)
                    raise
            if output is None:
                output = PORTAL.call(_unary(function, target, call_id, payload, resumed=endpoint is not None))
        finally:
            results.release(session, payload)
        return results.value_of(session, output)  # type: ignore[no-any-return]

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for async code."""
        function = self._function
        function._check_unary()
        target = function._handle.known()
        if target is None:
            target = await PORTAL.acall(function._handle.find())
        session = target.session
        payload = function._encoder.connected(session, target.scope, args, kwargs)
        try:
            output = await PORTAL.acall(_unary(function, target, new_call_id(), payload))
        finally:
            results.release(session, payload)
        return results.value_of(session, output)  # type: ignore[no-any-return]


async def _unary(
    function: Function[..., Any, Any], target: Target, call_id: str, payload: bytes, *, resumed: bool = False
) -> Output:
    from jitney.client import invoke

    try:
        return await invoke.unary(target, function._method, call_id, payload, resumed=resumed)
    except NotFoundError:
        # Perhaps another deployment has the name now.
        if not function._handle.forget(target):
            raise
    return await invoke.unary(await function._handle.find(), function._method, call_id, payload)


class Function(Generic[P, R, G]):
    """A function that runs in containers. Made by `@app.function()` or `Function.from_name()`.

    Type parameters: its parameters; what `remote` gives (for a generator, what it yields); what calling it here gives.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        raw: Callable[..., Any] | None = None,
        method: str = "",
        is_generator: bool | None = None,
        by_value: bool = True,
        local: Callable[..., Any] | None = None,
        is_own: bool = False,
    ) -> None:
        """Of the SDK; see `App.function`. `local` runs it here; `is_own`: on an instance inside the user's class."""
        self._handle = handle
        self._method = method
        name = f"{handle.name}.{method}" if method else handle.name
        self._encoder = Encoder(name, raw, by_value=by_value)
        self._raw = raw
        self._local = local or raw
        self._is_own = is_own
        if is_generator is None and raw is not None:
            is_generator = inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)
        self._is_generator = is_generator
        if raw is not None:
            functools.update_wrapper(self, raw, updated=())

    def __repr__(self) -> str:
        return f"Function({self._encoder.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self._handle, self._method, self.is_generator, self._encoder.by_value))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> G:
        """Refused, since a call says where it runs; but for `self.other(x)` in the code of a class."""
        if self._is_own and self._local is not None:
            return self._local(*args, **kwargs)  # type: ignore[no-any-return]
        raise InvalidError(
            f"{self._encoder.name} is a Jitney function, and a call has to say where it runs",
            hint="use .remote(...) for a container, .local(...) for this process",
        )

    # ------------------------------------------------------------------------------------------- calls

    @property
    def remote(self) -> Remote[P, R]:
        """Run it in a container and wait for the result."""
        return Remote(self)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> G:
        """Run it here, in this process.

        Raises:
            InvalidError: its code is not here, since it was found by name.
        """
        if self._local is None:
            raise InvalidError(f"{self._encoder.name} was found by name: its code is not here", hint="use .remote(...)")
        return self._local(*args, **kwargs)  # type: ignore[no-any-return]

    @dual_iter_lazy
    def remote_gen(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Callable[[], Iterable[R]], None]:
        """Run a generator in a container; gives its items as they come. In async code: `f.remote_gen.aio(...)`.

        Raises:
            InvalidError: it is no generator.
            Exception: what it raised, after the items before that.
        """
        if self.is_generator is False:
            raise InvalidError(f"{self._encoder.name} is not a generator", hint="use .remote(...)")
        session = self._session()
        return self._items(session, self._encoder.connected(session, self._scope(), args, kwargs))

    async def _items(self, session: Session, payload: bytes) -> AsyncGenerator[Callable[[], Iterable[R]], None]:
        from jitney.client import invoke

        source = None
        try:
            target = await self._handle.find()
            reader = invoke.Credits(PORTAL.loop())
            source = invoke.generator(target, self._method, new_call_id(), payload, reader)
            async for got in source:
                yield functools.partial(_decoded, session, got, reader.took)
        finally:
            if source is not None:
                await source.aclose()
            results.release(session, payload)

    @dual
    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, FunctionCall[R]]:
        """Have it run, and do not wait: the server keeps the call, and its result for 7 days.

        Returns when the input is on the server's disk.
        """
        self._check_unary()
        call_id = new_call_id()
        payload = self._encoder.durable(self._session(), args, kwargs, f"{call_id}.0.in")
        return calls.spawn(self._handle, self._method, call_id, payload)

    @property
    def map(self) -> Map[R]:
        """Run it for each input, on as many containers as that needs."""
        return Map(self)

    @property
    def starmap(self) -> Starmap[R]:
        """`map` over tuples of arguments."""
        return Starmap(self)

    @property
    def for_each(self) -> ForEach:
        """`map` for the effect: waits for all, gives nothing."""
        return ForEach(self)

    @property
    def spawn_map(self) -> SpawnMap[R]:
        """Have it run for each input, and do not wait: one durable call for all."""
        return SpawnMap(self)

    # ------------------------------------------------------------------------------------------- variants

    @staticmethod
    def from_name(
        app_name: str, name: str, *, version: int | None = None, environment_name: str | None = None
    ) -> Function[..., Any, Any]:
        """A function of a deployed app. Nothing is asked before its first use.

        Args:
            app_name: the name that it was deployed under.
            name: of the function; for methods of classes use `Cls.from_name`.
        """
        refuse_lookup(version, environment_name)
        return Function(Named(app_name, name))

    def with_options(self, **given: Unpack[VariantOptions]) -> Function[P, R, G]:
        """The same function with other options: containers of their own. What is not given stays as declared; secrets
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

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Function[P, R, G]:
        """The same function with other concurrency; see `jitney.concurrent`."""
        return self._bound(Overrides(concurrency=options.concurrency(max_inputs, target_inputs)))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Function[P, R, G]:
        """The same function with other batching; see `jitney.batched`."""
        return self._bound(Overrides(batching=options.batching(max_batch_size, wait_ms)))

    def _bound(
        self, overrides: Overrides, secrets: Sequence[Secret] = (), volumes: Mounts | None = None
    ) -> Function[P, R, G]:
        return Function(
            Bound(self._handle, overrides, secrets, volumes),
            raw=self._raw,
            method=self._method,
            is_generator=self._is_generator,
            by_value=self._encoder.by_value,
            local=self._local,
        )

    # ------------------------------------------------------------------------------------------- about it

    @dual
    async def hydrate(self) -> Function[P, R, G]:
        """Look it up now rather than at its first use; gives itself.

        Raises:
            NotFoundError: there is no such function.
        """
        target = await self._handle.find()
        method = next((one for one in target.methods if one.name == self._method), None)
        if method is not None and self._is_generator is None:
            self._is_generator = method.is_generator
        return self

    @dual
    async def info(self) -> FunctionInfo:
        """What the server knows about it: id, methods, versions of its image."""
        target = await self._handle.find()
        return await target.session.request(FUNCTION_GET, FunctionGet(app=target.app_id, name=target.name))

    @dual
    async def get_current_stats(self) -> FunctionStats:
        """Inputs that wait (`backlog`) and containers (`num_total_runners`), now."""
        target = await self._handle.find()
        return await target.session.request(FUNCTION_STATS, FunctionRef(function_id=target.function_id))

    @dual
    async def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> None:
        """Change the bounds of its pool while it runs; None leaves one as it is. The next deploy sets them back.

        Args:
            scaledown_window: seconds.
        """
        target = await self._handle.find()
        await target.session.request(
            FUNCTION_AUTOSCALER,
            AutoscalerUpdate(
                function_id=target.function_id,
                min_containers=min_containers,
                max_containers=max_containers,
                buffer_containers=buffer_containers,
                scaledown_window_ms=None if scaledown_window is None else round(scaledown_window * 1000),
            ),
        )

    @property
    def object_id(self) -> str:
        """Its id: 'fu-…'.

        Raises:
            InvalidError: it has not been looked up yet.
        """
        target = self._handle.known()
        if target is None:
            raise InvalidError(
                f"{self._encoder.name} has no id yet", hint="it has one once its app runs, or after .hydrate()"
            )
        return target.function_id

    @property
    def is_generator(self) -> bool | None:
        """Whether it yields; None where that is not known yet."""
        return self._is_generator

    def get_raw_f(self) -> Callable[P, G]:
        """The Python function that it was made from.

        Raises:
            InvalidError: it was found by name.
        """
        if self._raw is None:
            raise InvalidError(f"{self._encoder.name} was found by name: its code is not here")
        return self._raw

    def _scope(self) -> str:
        """What its large values are filed under; '' as long as it has not been looked up."""
        target = self._handle.known()
        return target.scope if target is not None else ""

    def _session(self) -> Session:
        """The server that it is at."""
        target = self._handle.known()
        return target.session if target is not None else sessions.current()

    def _check_unary(self) -> None:
        """Refuse calls that give one result where there would be many.

        Raises:
            InvalidError: it is a generator.
        """
        if self._is_generator:
            raise InvalidError(f"{self._encoder.name} is a generator", hint="use .remote_gen(...) for its items")


def _decoded(session: Session, got: list[bytes] | Output, took: Callable[[], None]) -> Iterator[Any]:
    if isinstance(got, Output):
        results.value_of(session, got)
    else:
        for body in got:
            yield results.decode(session, body)
            took()


def _rebuild(handle: Handle, method: str, is_generator: bool | None, by_value: bool) -> Function[..., Any, Any]:
    return Function(handle, method=method, is_generator=is_generator, by_value=by_value)


def refuse_lookup(version: int | None, environment_name: str | None) -> None:
    """Refuse what look-ups by name cannot do yet."""
    if version is not None:
        raise UnsupportedError(
            "from_name(version=...) is not supported by this version", hint="a name means its last deployment"
        )
    if environment_name:
        raise UnsupportedError(
            "from_name(environment_name=...) is not supported by this version",
            hint="a second JITNEY_HOME is a second, separate server",
        )
