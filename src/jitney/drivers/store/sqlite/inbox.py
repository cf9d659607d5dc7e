"""From tasks of the event loop to a thread, and back: bounded on the way in, one wake-up a batch on the way out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from jitney.errors import ResourceExhaustedError, StorageError

W = TypeVar("W")


class Job(Generic[W]):
    """One piece of work, and the future of whoever waits for it. `answer` may be an exception."""

    __slots__ = ("answer", "argument", "future", "loop", "size", "work")

    def __init__(self, work: W, argument: Any, size: int) -> None:
        self.work = work
        self.argument = argument
        self.size = size
        self.answer: Any = None
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()


class Inbox(Generic[W]):
    """What waits for one thread."""

    def __init__(self, *, what: str, jobs_max: int, bytes_max: int) -> None:
        self._what = what
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._jobs: list[Job[W]] = []
        self._bytes = 0
        self._closed = False

    def put(self, job: Job[W]) -> None:
        """Queue a job.

        Raises:
            ResourceExhaustedError: too much waits already. One job alone may be of any size.
            StorageError: the store is closed.
        """
        with self._changed:
            if self._closed:
                raise StorageError("the store is closed", hint="the server is stopping; try again when it is back")
            waiting = len(self._jobs)
            if waiting >= self._jobs_max or (waiting and self._bytes + job.size > self._bytes_max):
                raise ResourceExhaustedError(
                    f"{waiting:,} {self._what} ({self._bytes:,} bytes) wait for the disk already",
                    hint="try again in a second",
                )
            self._jobs.append(job)
            self._bytes += job.size
            if not waiting:
                self._changed.notify()

    def take(self, *, jobs_max: int, bytes_max: int, timeout: float | None) -> list[Job[W]] | None:
        """What waits, within bounds, or [] after the timeout (seconds); None when closed and nothing is left."""
        with self._changed:
            if not self._jobs and not self._closed:
                self._changed.wait(timeout)
            if not self._jobs:
                return None if self._closed else []
            count, size = 0, 0
            for job in self._jobs[:jobs_max]:
                if count and size + job.size > bytes_max:
                    break
                count += 1
                size += job.size
            taken, self._jobs = self._jobs[:count], self._jobs[count:]
            self._bytes -= size
            return taken

    def close(self) -> None:
        """Take nothing more; what waits is still done."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def deliver(jobs: Sequence[Job[Any]]) -> None:
    """Give every job's answer to its waiter, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:
            pass  # that loop has ended, and all who waited with it


def _resolve(jobs: Sequence[Job[Any]]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # the waiter was cancelled
        if isinstance(job.answer, BaseException):
            job.future.set_exception(job.answer)
        else:
            job.future.set_result(job.answer)
