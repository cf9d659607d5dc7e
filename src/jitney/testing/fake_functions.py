"""How the fake server runs functions: in its own process, on threads, from the payloads that a container would get."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jitney.runner import payload
from jitney.runner.load import load
from jitney.runner.segment_pools import SegmentPools
from jitney.values.calls import Output, Status
from jitney.values.functions import FunctionSpec, MethodSpec, Overrides

SCOPE = "so-fake"


class FakeFunction:
    """A function or class at the fake server: what to call for each method."""

    def __init__(
        self,
        function_id: str,
        app_id: str,
        name: str,
        plain: dict[str, Callable[..., Any]] | None = None,
        spec: FunctionSpec | None = None,
    ) -> None:
        """`plain` callables by method name, or a published `spec`."""
        self.function_id = function_id
        self.app_id = app_id
        self.name = name
        self.plain = plain
        self.spec = spec
        self.overrides = Overrides()
        self.bound_to = ""  # the function that this is a variant of
        self._lock = threading.Lock()
        self._loaded = plain

    @property
    def methods(self) -> dict[str, Callable[..., Any]]:
        """What to call, loaded as a container does, at the first input."""
        with self._lock:
            if self._loaded is None:
                assert self.spec is not None
                self._loaded = _callables(self.spec)
            return self._loaded

    def has(self, method: str) -> bool:
        """Whether there is such a method."""
        return any(one.name == method for one in self.method_specs())

    def method_specs(self) -> tuple[MethodSpec, ...]:
        """As `function.get` answers."""
        if self.spec is not None:
            return self.spec.methods
        return tuple(
            MethodSpec(
                name=name,
                is_async=inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f),
                is_generator=inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f),
            )
            for name, f in (self.plain or {}).items()
        )

    @property
    def is_batched(self) -> bool:
        """Whether it takes lists."""
        return self.spec is not None and self.spec.batching is not None


class Runner:
    """Runs inputs as a container would."""

    def __init__(self, segments: str, blobs: str) -> None:
        self.pool = SegmentPools(segments)
        self.blobs = blobs

    def run(self, function: FakeFunction, method: str, call_id: str, index: int, body: bytes) -> Output:
        """One input, to its output; never raises."""
        from jitney.runner import state

        try:
            args, kwargs = payload.decode(body, pool=self.pool, blobs=self.blobs)
            if function.is_batched:
                args = tuple([value] for value in args)
            context = contextvars.copy_context()
            context.run(state.current.set, (call_id, index, 1))
            value = context.run(_call, function.methods[method], args, kwargs)
            if function.is_batched:
                value = value[0]
            return Output(index, Status.SUCCESS, self.encode(value))
        except BaseException as error:
            return Output(index, Status.FAILURE, payload.encode_failure(error))

    def items(self, function: FakeFunction, method: str, body: bytes) -> Iterator[bytes]:
        """What a generator yields, as payloads; raises what it raises."""
        args, kwargs = payload.decode(body, pool=self.pool, blobs=self.blobs)
        found = function.methods[method](*args, **kwargs)
        for value in _drain(found) if hasattr(found, "__aiter__") else found:
            yield self.encode(value)

    def encode(self, value: Any) -> bytes:
        """A value of a connected call."""
        return payload.encode(value, pool=self.pool.of(SCOPE), blobs=self.blobs, inline_max=payload.INLINE_BYTES_MAX)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = function(*args, **kwargs)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _drain(source: Any) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(source))
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def now_ms() -> int:
    """Unix ms."""
    return time.time_ns() // 1_000_000


def _callables(spec: FunctionSpec) -> dict[str, Callable[..., Any]]:
    """What a container would load. The test's own modules are this process's."""
    config = {
        "qualname": spec.qualname,
        "is_class": spec.is_class,
        "pickled": base64.b64encode(spec.pickled).decode(),
        "parameters": base64.b64encode(spec.parameters).decode(),
        "methods": [{"name": m.name, "is_async": m.is_async, "is_generator": m.is_generator} for m in spec.methods],
    }
    module = sys.modules.get("__main__" if spec.main_module else spec.module)
    if module is None and not spec.pickled:
        raise ModuleNotFoundError(f"no module {spec.module} is loaded here")
    loaded = load(config, module)
    for hook in loaded.enter:
        hook()
    return {name: method.function for name, method in loaded.methods.items()}
