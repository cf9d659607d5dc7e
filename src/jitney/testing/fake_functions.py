"""How the fake server runs functions: in its own process, on threads, from the payloads that a container would get."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

from jitney.runner import payload
from jitney.runner.segments import SegmentPool
from jitney.values.calls import Output, Status
from jitney.values.functions import FunctionSpec, MethodSpec, Overrides


class FakeFunction:
    """A function or class at the fake server: what to call for each method."""

    def __init__(
        self,
        function_id: str,
        app_id: str,
        name: str,
        methods: dict[str, Callable[..., Any]],
        spec: FunctionSpec | None = None,
    ) -> None:
        self.function_id = function_id
        self.app_id = app_id
        self.name = name
        self.methods = methods
        self.spec = spec
        self.overrides = Overrides()

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
            for name, f in self.methods.items()
        )

    @property
    def is_batched(self) -> bool:
        """Whether it takes lists."""
        return self.spec is not None and self.spec.batching is not None


class Runner:
    """Runs inputs as a container would."""

    def __init__(self, segments: str, blobs: str) -> None:
        self.pool = SegmentPool(segments)
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
        return payload.encode(value, pool=self.pool, blobs=self.blobs, inline_max=payload.INLINE_BYTES_MAX)


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
