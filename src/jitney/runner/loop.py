"""Async functions: an event loop on the main thread, a task for each input.

The link is one more thing that the loop reads, so cancelling is `task.cancel()`. Only code that blocks the loop needs
SIGURG: its handler then finds the task that is being run, and raises into it. Sync methods of the same class run on the
threads of a lane.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from time import monotonic_ns
from typing import Any

from jitney.runner import protocol, state
from jitney.runner.inbox import Inbox, Work
from jitney.runner.invoke import Abandoned, Batch, Invoker, end_of_items, note
from jitney.runner.link import Link, LinkLost, rejection
from jitney.runner.load import Loaded
from jitney.runner.outbox import ITEMS_AHEAD, Outbox, Stream
from jitney.runner.protocol import SUCCESS, Result
from jitney.runner.serial import run_exit_hook
from jitney.runner.state import InputCancellation
from jitney.runner.threads import LEAVE_AFTER_S, Lane


class LoopExecutor:
    """See the module."""

    def __init__(self, link: Link, inbox: Inbox, outbox: Outbox, invoker: Invoker, config: dict[str, Any]) -> None:
        self.link = link
        self.inbox = inbox
        self.outbox = outbox
        self.invoker = invoker
        self.limit = int(config.get("max_inputs") or 1)
        self.single_use = bool(config.get("single_use"))
        self.is_stopping = False
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.lane = Lane(inbox, invoker, self.limit, self._lane_done)
        self._active = 0
        self._tasks: dict[Any, Work] = {}  # by task
        self._told: set[Work] = set()  # that they are cancelled
        self._hook: asyncio.Task[Any] | None = None
        self._credit_waiters: dict[int, asyncio.Future[None]] = {}
        self._results: list[Result] = []
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._reading = -1
        inbox.on_cancel = self._cancel
        # Not loop.add_signal_handler: that takes the wake-up descriptor, by which the keeper hears of signals.
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGURG, self._on_urgent)

    # ------------------------------------------------------------------ life

    def run_hooks(self, loaded: Loaded, *, entering: bool) -> None:
        """Run the @enter, or the @exit, methods on the loop. SIGTERM interrupts the former only."""
        for hook in loaded.enter if entering else loaded.exit:
            if entering:
                self._run_hook(hook)
            else:
                run_exit_hook(lambda hook=hook: self._run_hook(hook))  # type: ignore[misc]
        if not entering:
            self._close_loop()

    def _run_hook(self, hook: Callable[[], Any]) -> None:
        async def run() -> None:
            value = hook()
            if asyncio.iscoroutine(value):
                await value

        self._hook = self.loop.create_task(run())
        try:
            self.loop.run_until_complete(self._hook)
        except asyncio.CancelledError:
            if self.is_stopping:
                raise InputCancellation("the container is ending") from None
            raise
        finally:
            self._hook = None

    def run(self) -> None:
        """Work until told to stop.

        Raises:
            LinkLost: nobody is there to work for.
        """
        self.link.on_reconnect = self._on_reconnect
        self.loop.call_soon(self._attach)
        self.loop.run_until_complete(self._ended)
        self._detach()
        if self.inbox.rejected is not None:
            raise LinkLost(rejection(self.inbox.rejected))
        self._flush()
        self.outbox.flush()

    def _close_loop(self) -> None:
        """As asyncio.run does at its end."""
        try:
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.wait(left, timeout=LEAVE_AFTER_S))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        except Exception as error:
            note(f"closing the event loop: {type(error).__name__}: {error}")

    def _end_if_done(self) -> None:
        if (self.inbox.stopping or self.is_stopping) and not self._active and not self._ended.done():
            self._ended.set_result(None)

    def _terminate(self) -> None:
        """SIGTERM."""
        if self.is_stopping:
            return
        self.is_stopping = True
        if self._hook is not None:
            self._hook.cancel()
        self._answer(self.inbox.stop())
        for task in list(self._tasks):
            task.cancel()
        self.lane.stop()
        self.loop.call_later(LEAVE_AFTER_S, self._leave)
        self._end_if_done()

    def _leave(self) -> None:
        if not self._ended.done():
            note(f"{self._active} inputs do not end: leaving them behind")
            self._ended.set_result(None)

    # ------------------------------------------------------------------ the link

    def _on_reconnect(self) -> None:
        """On the keeper's thread."""
        self.loop.call_soon_threadsafe(self._attach)

    def _attach(self) -> None:
        self._detach()
        connection = self.link.connection
        if not connection.ended:
            self._reading = connection.sock.fileno()
            self.loop.add_reader(self._reading, self._readable)
            self._readable()

    def _detach(self) -> None:
        if self._reading >= 0:
            self.loop.remove_reader(self._reading)
            self._reading = -1

    def _readable(self) -> None:
        self._take(self.link.drain())
        if self.link.connection.ended:
            self._detach()  # the keeper connects again, and then says so

    def _take(self, frames: list[tuple[int, bytes]]) -> None:
        for kind, body in frames:
            try:
                self._answer(self.inbox.take(kind, body))
            except protocol.ProtocolError as error:
                note(f"a damaged frame from the server was ignored: {error}")
            if kind == protocol.CREDIT:
                self.lane.tell_news()
                for waiter in self._credit_waiters.values():
                    if not waiter.done():
                        waiter.set_result(None)
        self._start()
        self._end_if_done()

    def _answer(self, frame: bytes | None) -> None:
        if frame is not None:
            self.link.send(frame)

    def _on_terminate(self, _number: int, _frame: object) -> None:
        self.loop.call_soon_threadsafe(self._terminate)

    def _on_urgent(self, _number: int, _frame: object) -> None:
        """SIGURG: matters only when user code blocks the loop; a task is running then."""
        task = asyncio.tasks.current_task(self.loop) if self.loop.is_running() else None
        if task is None or self.link.lock.locked():
            return  # the loop reads the link in a moment
        self._take(self.link.drain())
        work = self._tasks.get(task)
        if work is not None and self.inbox.is_cancelled(work) and work not in self._told:
            self._told.add(work)
            raise InputCancellation("the call was cancelled")

    def _cancel(self, work: Work) -> None:
        current = asyncio.tasks.current_task(self.loop) if self.loop.is_running() else None
        for task, running in self._tasks.items():
            if running is work:
                if task is not current:
                    self._told.add(work)
                    task.cancel()
                return  # the handler that runs now raises into it
        self.lane.interrupt(work)

    # ------------------------------------------------------------------ work

    def _start(self) -> None:
        while self.inbox.waiting and self._active < self.limit and not self.is_stopping:
            work = self.inbox.start()
            self._active += 1
            if self.single_use:
                self._answer(self.inbox.stop())
            method = self.invoker.methods.get(work.method)
            if method is not None and not method.is_async:
                self.lane.put(work)
            else:
                self._tasks[self.loop.create_task(self._work(work))] = work

    async def _work(self, work: Work) -> None:
        started = monotonic_ns()
        try:
            try:
                results = await self._perform(work, started)
            except BaseException as error:
                results = self._failed(work, error, started)
            self._tasks.pop(asyncio.current_task(), None)  # from here on nobody interrupts
        except InputCancellation as late:  # it came while we wrote down how the work ended, and comes but once
            results = self._failed(work, late, started)
            self._tasks.pop(asyncio.current_task(), None)
        self._told.discard(work)
        self._done(work, results)

    def _failed(self, work: Work, error: BaseException, started: int) -> list[Result]:
        self.invoker.fork_guard()
        if isinstance(error, asyncio.CancelledError) and (self.is_stopping or self.inbox.is_cancelled(work)):
            # By the name that everything else here has for it.
            error = InputCancellation("the call was cancelled").with_traceback(error.__traceback__)
        try:
            return self.invoker.failures(work, error, self.is_stopping, started)
        except Abandoned:
            return []

    async def _perform(self, work: Work, started: int) -> list[Result]:
        state.current.set((work.call, work.index, work.attempt))
        invoker = self.invoker
        method, values = invoker.method(work), invoker.values
        if work.batch is not None:
            batch = Batch(work, values, started)
            batch.decode()
            args, kwargs = batch.arguments(method)
            value = await method.function(*args, **kwargs) if batch.items else []
            invoker.fork_guard()
            return batch.split(value, method)
        args, kwargs = values.decode(work.payload)
        if method.is_generator:
            data = await self._drive(work, method.function(*args, **kwargs))
        else:
            value = await method.function(*args, **kwargs)
            invoker.fork_guard()
            data = values.encode(value, work, work.index)
        return [Result(work.token, SUCCESS, monotonic_ns() - started, data)]

    async def _drive(self, work: Work, iterator: AsyncIterator[Any]) -> bytes:
        """Run an async generator to its end, sending what it yields; the payload of its result."""
        stream = Stream(work.token)
        try:
            async for value in iterator:
                self.invoker.fork_guard()
                self.outbox.item(stream, self.invoker.values.encode(value, work, work.index))
                if stream.yielded >= ITEMS_AHEAD:
                    self.outbox.flush_stream(stream)
                    await self._wait_for_credit(work, stream)
        finally:
            self.outbox.flush_stream(stream)
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
        return end_of_items(stream.yielded)

    async def _wait_for_credit(self, work: Work, stream: Stream) -> None:
        while stream.yielded >= ITEMS_AHEAD + self.inbox.credit.get(work.token, 0):
            waiter = self._credit_waiters[work.token] = self.loop.create_future()
            try:
                await waiter
            finally:
                self._credit_waiters.pop(work.token, None)

    def _lane_done(self, work: Work, results: list[Result]) -> None:
        """On a thread of the lane."""
        self.loop.call_soon_threadsafe(self._done, work, results)

    def _done(self, work: Work, results: list[Result]) -> None:
        self.inbox.finish(work)
        self._active -= 1
        if results:
            if not self._results:
                self.loop.call_soon(self._flush)  # with what else ends in this turn of the loop
            self._results += results
        self._start()
        self._end_if_done()

    def _flush(self) -> None:
        results, self._results = self._results, []
        try:
            sys.stdout.flush()
        except Exception:  # the user's own object, or a closed one
            pass
        if results:
            self.outbox.put(results, more=False)
