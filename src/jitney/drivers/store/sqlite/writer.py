"""Group commit: one thread writes, and whatever came while the last fsync ran goes with the next.

A commit that is synced takes milliseconds however much is in it: one at a time gives some hundreds a second, groups
give tens of thousands, and a lone write waits for one fsync only, for there is no lingering.

A group is sorted by kind of write, and each kind is applied as one batch: load what the batch touches, decide in
Python, write. A write that is refused is refused by the decision, before it changed anything, so it does not touch
the others. Only when a statement itself fails, the group is rolled back and done again one by one, each write in a
savepoint of its own: the one that fails is told so, the others go through.

Answers are given after COMMIT, never before. A disk that fails ends all writing (see faults); a full one refuses what
grows, and gives up its ballast for what ends or frees something.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from jitney.drivers.store.sqlite import faults, queries
from jitney.drivers.store.sqlite.database import COMMITS, Database
from jitney.drivers.store.sqlite.faults import Fault
from jitney.drivers.store.sqlite.inbox import Inbox, Job, deliver
from jitney.errors import InternalError, JitneyError

log = logging.getLogger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")

WAITING_MAX = 20_000
WAITING_BYTES_MAX = 256 * 1024 * 1024
GROUP_MAX = 512
GROUP_BYTES_MAX = 16 * 1024 * 1024
IDLE_SECONDS = 1.0
# What the log may grow to between checkpoints, by estimate; and no more than a quarter of the ballast, for in the room
# of the ballast the log has to be moved before anything else can be done.
UNMOVED_BYTES_MAX = 16 * 1024 * 1024
COMMIT_BYTES = 8 * 4096  # that a commit puts into the log beside its payloads: inner pages, the count of commits
WRITE_BYTES = 2 * 4096  # and each write: rows, a random page of an index


@dataclass(frozen=True)
class Write(Generic[Q, A]):
    """A kind of write. `apply` gives an answer or a refusal for each argument.

    A kind that `grows` is refused when the disk is full.
    """

    apply: Callable[[sqlite3.Connection, Sequence[Q]], Sequence[A | JitneyError]]
    rank: int = 50  # kinds are applied in this order within a group
    grows: bool = False


def one_by_one(
    apply: Callable[[sqlite3.Connection, Q], A],
) -> Callable[[sqlite3.Connection, Sequence[Q]], list[A | JitneyError]]:
    """A batch out of a function for one argument, which must decide before it writes."""

    def batch(db: sqlite3.Connection, arguments: Sequence[Q]) -> list[A | JitneyError]:
        answers: list[A | JitneyError] = []
        for argument in arguments:
            try:
                answers.append(apply(db, argument))
            except JitneyError as refusal:
                answers.append(refusal)
        return answers

    return batch


class Writer:
    """The thread that writes."""

    def __init__(self, database: Database) -> None:
        self._path = database.path
        self._db = database.writing
        self._database = database
        self._inbox: Inbox[Write[Any, Any]] = Inbox(what="writes", jobs_max=WAITING_MAX, bytes_max=WAITING_BYTES_MAX)
        self._unmoved_bytes = 0  # in the log, not in the database file
        self._unmoved_bytes_max = min(UNMOVED_BYTES_MAX, database.ballast.size // 4 or UNMOVED_BYTES_MAX)
        self.failure: JitneyError | None = None  # set once, never cleared: fail closed
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the disk is full, as far as known."""
        return not self._database.ballast.held

    async def submit(self, write: Write[Q, A], argument: Q, *, size: int = 0) -> A:
        """The answer to one write, once it is synced. `size`: of its payloads, in bytes."""
        if self.failure is not None:
            raise _copy(self.failure)
        job = Job(cast("Write[Any, Any]", write), argument, size)
        self._inbox.put(job)
        return cast("A", await job.future)

    def close(self) -> None:
        """Do what waits, and end the thread. Blocks."""
        self._inbox.close()
        self._thread.join()

    def fail(self, error: JitneyError) -> None:
        """Take nothing more."""
        if self.failure is None:
            self.failure = error
            log.error("store_failed", extra={"path": str(self._path), "error": str(error)})

    def _run(self) -> None:
        while True:
            jobs = self._inbox.take(jobs_max=GROUP_MAX, bytes_max=GROUP_BYTES_MAX, timeout=IDLE_SECONDS)
            if jobs is None:
                break
            try:
                self._handle(jobs)
            except Exception as error:  # a bug of ours: nobody may wait for ever, nor be told that it is recorded
                log.exception("store_writer_failed")
                self.fail(InternalError(f"the store's writer failed: {error!r}", hint="restart the server"))
                _answer(jobs, InternalError(f"the store's writer failed: {error!r}"))
            deliver(jobs)
            self._tidy(idle=not jobs)

    def _handle(self, jobs: list[Job[Write[Any, Any]]]) -> None:
        """Give every job an answer."""
        if self.failure is not None:
            _answer(jobs, self.failure)
            return
        if self.is_full and any(job.work.grows for job in jobs) and not self._database.ballast.try_again():
            _answer([job for job in jobs if job.work.grows], faults.full(self._path))
            jobs = [job for job in jobs if not job.work.grows]
        jobs.sort(key=lambda job: job.work.rank)
        try:
            self._commit(jobs)
        except sqlite3.Error as error:
            self._recover(error, jobs)
        except Exception:
            log.exception("store_batch_failed")
            self._separate(jobs)

    def _recover(self, error: sqlite3.Error, jobs: list[Job[Write[Any, Any]]]) -> None:
        match faults.classify(error, self._path):
            case Fault.STATEMENT:
                log.warning("store_group_failed", extra={"error": faults.describe(error)})
                self._separate(jobs)
            case Fault.FULL:
                self._make_room(jobs)
            case fault:
                self._give_up(fault, error, jobs)

    def _give_up(self, fault: Fault, error: sqlite3.Error, jobs: list[Job[Write[Any, Any]]]) -> None:
        match fault:
            case Fault.FULL:
                _answer(jobs, faults.full(self._path))
            case Fault.BUSY:
                _answer(jobs, faults.busy(self._path))
            case Fault.CORRUPT:
                self.fail(faults.corrupt(self._path, faults.describe(error)))
            case _:
                self.fail(faults.failed(self._path, error))
        if self.failure is not None:
            _answer(jobs, self.failure)

    def _make_room(self, jobs: list[Job[Write[Any, Any]]]) -> None:
        """The disk is full: refuse what grows, and do the rest in the room of the ballast."""
        log.warning("store_full", extra={"path": str(self._path)})
        self._database.ballast.release()
        self._checkpoint()
        _answer([job for job in jobs if job.work.grows], faults.full(self._path))
        rest = [job for job in jobs if not job.work.grows]
        try:
            self._commit(rest)
        except sqlite3.Error as error:
            fault = faults.classify(error, self._path)
            if fault is Fault.STATEMENT:
                self._separate(rest)
            else:
                self._give_up(fault, error, rest)

    def _separate(self, jobs: list[Job[Write[Any, Any]]]) -> None:
        """Do a group whose batch failed again, each write in a savepoint."""
        try:
            self._commit(jobs, apart=True)
        except sqlite3.Error as error:
            fault = faults.classify(error, self._path)
            if fault is Fault.FULL:
                self._database.ballast.release()
            self._give_up(Fault.DISK if fault is Fault.STATEMENT else fault, error, jobs)

    def _commit(self, jobs: list[Job[Write[Any, Any]]], *, apart: bool = False) -> None:
        """One transaction. The answers stand only when it is synced."""
        if not jobs:
            return
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            answers = [self._alone(job) for job in jobs] if apart else _apply(db, jobs)
            if db.total_changes == before:
                db.execute("ROLLBACK")  # all was there already, or refused: nothing to sync
            else:
                (commits,) = db.execute(queries.load("meta")["grow"], {"key": COMMITS}).fetchall()[0]
                db.execute("COMMIT")
                self._database.mark.note(commits)
        except BaseException:
            self._roll_back()
            raise
        self._unmoved_bytes += COMMIT_BYTES + sum(WRITE_BYTES + job.size for job in jobs)
        for job, answer in zip(jobs, answers, strict=True):
            job.answer = answer

    def _alone(self, job: Job[Write[Any, Any]]) -> Any:
        self._db.execute("SAVEPOINT one")
        try:
            answer = job.work.apply(self._db, [job.argument])[0]
        except Exception as error:
            if isinstance(error, sqlite3.Error) and faults.classify(error, self._path) is not Fault.STATEMENT:
                raise
            log.exception("store_write_failed")
            self._db.execute("ROLLBACK TO one")
            answer = InternalError(f"the store could not record this: {type(error).__name__}: {error}")
        self._db.execute("RELEASE one")
        return answer

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.fail(faults.failed(self._path, error))

    def _tidy(self, *, idle: bool) -> None:
        """Between groups, when their waiters have been answered: keep the log short, take the ballast again."""
        if self._unmoved_bytes and (idle or self._unmoved_bytes > self._unmoved_bytes_max):
            self._checkpoint()
        if idle and self.is_full and self.failure is None:
            self._database.ballast.try_again()

    def _checkpoint(self) -> None:
        """Move the log into the file. What cannot be moved is safe where it is."""
        self._unmoved_bytes = 0
        if self.failure is not None:
            return
        # With a full disk the log has to give back its room; otherwise it is written over from its beginning.
        kind = "TRUNCATE" if self.is_full else "PASSIVE"
        try:
            self._db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        except sqlite3.Error as error:
            match faults.classify(error, self._path):
                case Fault.DISK:
                    self.fail(faults.failed(self._path, error))
                case Fault.CORRUPT:
                    self.fail(faults.corrupt(self._path, faults.describe(error)))
                case Fault.FULL if not self.is_full:
                    log.warning("store_full", extra={"path": str(self._path)})
                    self._database.ballast.release()
                    self._checkpoint()
                case _:
                    pass


def _apply(db: sqlite3.Connection, jobs: Sequence[Job[Write[Any, Any]]]) -> list[Any]:
    """Apply jobs, sorted by kind: neighbours of one kind as one batch."""
    answers: list[Any] = []
    at = 0
    while at < len(jobs):
        write, end = jobs[at].work, at
        while end < len(jobs) and jobs[end].work is write:
            end += 1
        answers += write.apply(db, [job.argument for job in jobs[at:end]])
        at = end
    return answers


def _answer(jobs: Sequence[Job[Any]], error: JitneyError) -> None:
    for job in jobs:
        job.answer = _copy(error)


def _copy(error: JitneyError) -> JitneyError:
    """One for each waiter: raising an exception writes into it."""
    return type(error)(error.message, hint=error.hint)
