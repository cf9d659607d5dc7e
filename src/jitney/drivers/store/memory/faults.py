"""How a store of the model misbehaves on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from jitney.errors import JitneyError, StorageError

T = TypeVar("T")


class Faults:
    """Which operations are to fail."""

    def __init__(self) -> None:
        self.count = 0
        self.planned: dict[int, tuple[JitneyError, bool]] = {}
        self.closed = False

    async def step(self, operation: Callable[[], T]) -> T:
        """Do an operation, or fail as planned. Others get their turn first, as with a real store."""
        await asyncio.sleep(0)
        if self.closed:
            raise StorageError("the store is closed", hint="the server is stopping; try again when it is back")
        self.count += 1
        error, applied = self.planned.pop(self.count, (None, False))
        if error is not None and not applied:
            raise error
        answer = operation()
        if error is not None:
            raise error
        return answer
