"""What makes images on a machine: drivers of `ports.builder`, and what they share.

`Flights` makes several callers of one build into one build: it lives as long as one of them waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from jitney.errors import ImageBuildError
from jitney.ports.builder import OnProgress

Emit = Callable[[int, str, str], None]  # step (from 1), title, line
T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.task: asyncio.Task[T] | None = None
        self.listeners: list[Emit] = []
        self.at = (0, "")
        self.is_closed = False

    def emit(self, step: int, title: str, line: str) -> None:
        self.at = (step, title)
        for listener in [*self.listeners]:
            listener(step, title, line)


class Flights(Generic[T]):
    """Builds that run, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def join(self, key: str, work: Callable[[Emit], Awaitable[T]], listener: Emit) -> T:
        """What the work of `key` gives, started if none runs. The last caller that is cancelled cancels it.

        Raises:
            ImageBuildError: the builder was closed meanwhile.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._start(key, work)
        elif flight.at[0]:
            listener(*flight.at, "")
        task = flight.task
        assert task is not None
        flight.listeners.append(listener)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if flight.is_closed:
                raise ImageBuildError("the build was stopped", hint="its builder was shut down; build again") from None
            raise
        finally:
            flight.listeners.remove(listener)
            if not flight.listeners and not task.done():
                # Whoever comes now must not join a build that is on its way out.
                self._forget(key, flight)
                task.cancel()
                await asyncio.wait({task})

    async def close(self) -> None:
        """Cancel everything, and wait until it has ended."""
        flights = [*self._flights.values()]
        for flight in flights:
            flight.is_closed = True
            if flight.task:
                flight.task.cancel()
        tasks = {flight.task for flight in flights if flight.task}
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, key: str, work: Callable[[Emit], Awaitable[T]]) -> _Flight[T]:
        flight = self._flights[key] = _Flight[T]()

        async def run() -> T:
            return await work(flight.emit)

        flight.task = asyncio.create_task(run(), name=f"build {key}")
        flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _forget(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def careful(on_progress: OnProgress, steps: int) -> Emit:
    """`on_progress` for a plan of `steps`: once it has raised, it is not called again."""
    broken = False

    def emit(step: int, title: str, line: str) -> None:
        nonlocal broken
        if broken:
            return
        try:
            on_progress(step, steps, title, line)
        except Exception:
            broken = True  # a reader that went away is no reason to stop a build that others wait for

    return emit
