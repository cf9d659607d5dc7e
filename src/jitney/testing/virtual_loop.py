"""An asyncio loop whose clock is virtual: it jumps to the next timer when nothing is ready.

Hours of timeouts and back-offs run in milliseconds, and always the same way. When nothing is ready and no timer is
pending either, nothing could ever happen again: that is a deadlock, and raises.

    def test_a_retry_waits():
        run(main())          # main() may sleep for days
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """No task is ready and no timer is pending."""


class _InstantSelector(selectors.SelectSelector):
    """Never waits: what the loop would have slept is added to its clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Deadlock("no task is ready and no timer is pending")
        if not ready and timeout is not None and timeout > 0:
            self.loop.advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` starts at 1,000 s."""

    def __init__(self) -> None:
        selector = _InstantSelector()
        super().__init__(selector)
        selector.loop = self
        self._now = 1_000.0

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self._now += seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new virtual loop; gives its result.

    Raises:
        Deadlock: it waits for something that cannot happen.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
