"""Several inputs at a time on threads: @concurrent functions, and the sync methods of a class that also has async ones.

A thread is interrupted by an asynchronous exception, which the interpreter raises between two bytecodes of it. A thread
that waits in a system call does not hear it before the call returns: Python has no way to interrupt one there.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic, monotonic_ns
from typing import Any

from jitney.runner import protocol
from jitney.runner.inbox import Inbox, Work
from jitney.runner.invoke import Abandoned, Invoker, note
from jitney.runner.link import Link, LinkLost, rejection
from jitney.runner.load import Loaded
from jitney.runner.outbox import Outbox
from jitney.runner.protocol import Result
from jitney.runner.serial import Terminated, run_exit_hook
from jitney.runner.state import InputCancellation

LOOK_EVERY_S = 0.05  # at the link, while the last inputs finish

LEAVE_AFTER_S = 5.0  # how long SIGTERM waits for threads that do not hear it


class Slot:
    """What one thread works on; its gate."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._lock = _thread.allocate_lock()
        self._ident = _thread.get_ident()
        self._in_user = False
        self._asked = False  # an exception is on its way to the thread
        self.work: Work | None = None

    @property
    def is_stopping(self) -> bool:
        """See invoke.Gate."""
        return self._lane.is_stopping

    def open(self, work: Work) -> None:
        """See invoke.Gate."""
        with self._lock:
            self.work = work
            self._in_user = True
        self.check()

    def close(self) -> None:
        """See invoke.Gate."""
        with self._lock:
            self._in_user = False
            if self._asked:
                _raise_in(self._ident, None)
                self._asked = False

    def wait_for_credit(self, work: Work) -> None:
        """See invoke.Gate."""
        self._lane.wait_for_news()
        self.check()

    def check(self) -> None:
        """Raises InputCancellation if its work is to end."""
        work = self.work
        if self._lane.is_stopping:
            raise InputCancellation("the container is ending")
        if work is not None and self._lane.inbox.is_cancelled(work):
            raise InputCancellation("the call was cancelled")

    def interrupt(self, work: Work | None) -> None:
        """Raise InputCancellation in its thread, if that runs user code for `work` (None: for whatever)."""
        with self._lock:
            if self._in_user and (work is None or self.work is work) and not self._asked:
                self._asked = True
                _raise_in(self._ident, InputCancellation)


class Lane:
    """Threads, made as they are needed and at most `limit`, that run work put into them."""

    def __init__(self, inbox: Inbox, invoker: Invoker, limit: int, done: Callable[[Work, list[Result]], None]) -> None:
        self.inbox = inbox
        self.is_stopping = False
        self._invoker = invoker
        self._limit = limit
        self._done = done
        self._queue: list[Work] = []
        self._changed = threading.Condition()
        self._idle = 0
        self._slots: list[Slot] = []
        self._news = threading.Condition()
        invoker.credit_of = lambda work: inbox.credit.get(work.token, 0)

    def put(self, work: Work) -> None:
        """Have it run."""
        with self._changed:
            self._queue.append(work)
            if self._idle >= len(self._queue):
                self._changed.notify()
            elif len(self._slots) < self._limit:
                threading.Thread(target=self._work, name=f"input-{len(self._slots)}", daemon=True).start()

    def interrupt(self, work: Work | None) -> None:
        """Raise InputCancellation in the thread that runs it (None: in all)."""
        for slot in list(self._slots):
            slot.interrupt(work)
        self.tell_news()

    def stop(self) -> None:
        """Interrupt everything: the container ends."""
        self.is_stopping = True
        self.interrupt(None)

    def tell_news(self) -> None:
        """Generators that wait for credit look again."""
        with self._news:
            self._news.notify_all()

    def wait_for_news(self) -> None:
        """Until `tell_news`, or a short while."""
        with self._news:
            self._news.wait(LOOK_EVERY_S)

    def _work(self) -> None:
        slot = Slot(self)
        self._slots.append(slot)
        while True:
            with self._changed:
                while not self._queue:
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                work = self._queue.pop(0)
            try:
                results = self._perform(work, slot)
            finally:
                slot.work = None
            self._done(work, results)

    def _perform(self, work: Work, slot: Slot) -> list[Result]:
        try:
            return self._invoker.perform(work, slot)
        except Abandoned:
            return []
        except InputCancellation as late:  # between two lines of ours: it has done its duty all the same
            return [] if slot.is_stopping else self._invoker.failures(work, late, False, monotonic_ns())


class ThreadsExecutor:
    """Reads the link on the main thread, runs user code on the threads of a lane."""

    def __init__(self, link: Link, inbox: Inbox, outbox: Outbox, invoker: Invoker, config: dict[str, Any]) -> None:
        self.link = link
        self.inbox = inbox
        self.outbox = outbox
        self.single_use = bool(config.get("single_use"))
        self.limit = int(config.get("max_inputs") or 1)
        self.lane = Lane(inbox, invoker, self.limit, self._done)
        self.is_stopping = False
        self._in_receive = False
        self._in_user = False
        self._lock = threading.Lock()  # over the inbox
        self._free = threading.Condition(self._lock)
        self._active = 0
        inbox.on_cancel = self.lane.interrupt
        signal.signal(signal.SIGURG, lambda _number, _frame: None)  # the main thread always listens
        signal.signal(signal.SIGTERM, self._on_terminate)

    def run_hooks(self, loaded: Loaded, *, entering: bool) -> None:
        """Run the @enter, or the @exit, methods, on the main thread."""
        for hook in loaded.enter if entering else loaded.exit:
            if not entering:
                run_exit_hook(hook)
                continue
            self._in_user = True
            try:
                if self.is_stopping:
                    raise InputCancellation("the container is ending")
                hook()
            finally:
                self._in_user = False

    def run(self) -> None:
        """Work until told to stop.

        Raises:
            LinkLost: nobody is there to work for.
        """
        try:
            while not self.inbox.stopping and not self.is_stopping:
                self._take(self._receive())
        except Terminated:
            pass
        if self.inbox.rejected is not None:
            raise LinkLost(rejection(self.inbox.rejected))
        self._finish()

    def _receive(self) -> list[tuple[int, bytes]]:
        self._in_receive = True
        try:
            if self.is_stopping:
                raise Terminated
            return self.link.receive()
        finally:
            self._in_receive = False

    def _finish(self) -> None:
        """Until nothing runs. With SIGTERM it is told to end, and left behind if it does not."""
        leave_at = 0.0
        while True:
            if self.is_stopping and not leave_at:
                leave_at = monotonic() + LEAVE_AFTER_S
                with self._lock:
                    frame = self.inbox.stop()
                self._answer(frame)
                self.lane.stop()
            with self._free:
                if self._active == 0:
                    break
                self._free.wait(LOOK_EVERY_S)
            if leave_at and monotonic() > leave_at:
                note(f"{self._active} inputs do not end: leaving them behind")
                break
            self._take(self.link.drain())
        self.outbox.flush()

    def _take(self, frames: list[tuple[int, bytes]]) -> None:
        for kind, body in frames:
            try:
                with self._lock:
                    answer = self.inbox.take(kind, body)
                self._answer(answer)
            except protocol.ProtocolError as error:
                note(f"a damaged frame from the server was ignored: {error}")
            if kind == protocol.CREDIT:
                self.lane.tell_news()
        self._start()

    def _start(self) -> None:
        with self._lock:
            while self.inbox.waiting and self._active < self.limit and not self.is_stopping:
                self._active += 1
                self.lane.put(self.inbox.start())
                if self.single_use:
                    self._answer(self.inbox.stop())

    def _done(self, work: Work, results: list[Result]) -> None:
        """On the thread that did the work."""
        try:
            sys.stdout.flush()
        except Exception:  # the user's own object, or a closed one
            pass
        with self._lock:
            self.inbox.finish(work)
            more = bool(self.inbox.waiting)
        if results:
            self.outbox.put(results, more=more)
        with self._free:
            self._active -= 1
            self._free.notify_all()
        self._start()

    def _answer(self, frame: bytes | None) -> None:
        if frame is not None:
            self.link.send(frame)

    def _on_terminate(self, _number: int, _frame: object) -> None:
        if self.is_stopping:
            return
        self.is_stopping = True
        if self._in_user:
            raise InputCancellation("the container is ending")
        if self._in_receive:
            raise Terminated


def _raise_in(ident: int, kind: type[BaseException] | None) -> None:
    """Raise in another thread at its next bytecode; None takes back what is not raised yet."""
    import ctypes

    exception = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), exception)
