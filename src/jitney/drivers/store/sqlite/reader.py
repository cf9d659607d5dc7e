"""Reads, on a connection and a thread of their own: a page of results does not wait for an fsync, nor delay one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from jitney.drivers.store.sqlite import faults
from jitney.drivers.store.sqlite.faults import Fault
from jitney.drivers.store.sqlite.inbox import Inbox, Job, deliver
from jitney.errors import JitneyError

A = TypeVar("A")

WAITING_MAX = 20_000
GROUP_MAX = 64  # answers that wait for one wake-up of the loop

Read = Callable[[sqlite3.Connection], Any]


class Reader:
    """The thread that reads. `on_fault` is told of a disk that fails."""

    def __init__(self, path: Path, db: sqlite3.Connection, on_fault: Callable[[JitneyError], None]) -> None:
        self._path = path
        self._db = db
        self._on_fault = on_fault
        self._inbox: Inbox[Read] = Inbox(what="reads", jobs_max=WAITING_MAX, bytes_max=1)
        self._thread = threading.Thread(target=self._run, name="store-reader", daemon=True)
        self._thread.start()

    async def ask(self, read: Callable[[sqlite3.Connection], A]) -> A:
        """What `read` gives for the state of now."""
        job: Job[Read] = Job(read, None, 0)
        self._inbox.put(job)
        return cast("A", await job.future)

    def close(self) -> None:
        """Answer what waits, and end the thread. Blocks."""
        self._inbox.close()
        self._thread.join()

    def _run(self) -> None:
        while (jobs := self._inbox.take(jobs_max=GROUP_MAX, bytes_max=1, timeout=None)) is not None:
            for job in jobs:
                try:
                    job.answer = job.work(self._db)
                except sqlite3.Error as error:
                    job.answer = self._explain(error)
                except Exception as error:
                    job.answer = error
            deliver(jobs)

    def _explain(self, error: sqlite3.Error) -> BaseException:
        match faults.classify(error, self._path):
            case Fault.BUSY:
                return faults.busy(self._path)
            case Fault.FULL:  # the shared memory of the log could not grow
                return faults.full(self._path)
            case Fault.DISK:
                explained = faults.failed(self._path, error)
            case Fault.CORRUPT:
                explained = faults.corrupt(self._path, faults.describe(error))
            case Fault.STATEMENT:
                return error
        self._on_fault(explained)
        return explained
