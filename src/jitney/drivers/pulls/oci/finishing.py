"""What must not be left in the middle when a pull is cancelled: threads that write, and processes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await it to its end. Who is cancelled meanwhile is cancelled afterwards: a thread cannot be stopped.

    Without this, a file is closed, or a folder removed, under the hands of a thread that goes on.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue  # again: it takes as long as it takes
        if not task.cancelled():
            task.exception()  # heard, and of no interest any more
        raise
