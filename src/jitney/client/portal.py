"""The portal: one background event loop for the whole SDK, and how values and items get out of it.

A daemon thread runs the loop; it is made at the first use and made again after a fork, so importing the SDK costs
neither a thread nor `asyncio`. The link to the server belongs to exactly this loop, whatever loops and threads the
caller has (none, several, a notebook's).

Iteration. One thread hop an item would cap a map at some thousands a second. A *pump* task on the portal takes items
from the source and hands over, once per turn of its loop, all that came in that turn; the reader takes them all at
once. At most `AHEAD_MAX` items are in between, then the pump waits and with it the source.

Tracebacks. An error that is meant for the user (one of `jitney.errors`, or one that user code raised remotely) leaves
the portal without the frames of the portal. A bug keeps them.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jitney.client.results import shorten

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

AHEAD_MAX = 1_000  # items between a source and its reader
STOP_WAIT_S = 1.0  # how long a portal that stops waits for what still runs on it
CLOSE_WAIT_S = 5.0  # how long a reader that stops early waits for the source's `finally` blocks


class Portal:
    """A lazily started daemon thread that runs one event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._abandoned: list[object] = []
        self._registered = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The portal's loop, started if need be."""
        loop = self._loop
        return loop if loop is not None else self._start()

    def _start(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="jitney-portal", daemon=True)
                self._thread.start()
                self._loop = loop
                if not self._registered:
                    self._registered = True
                    atexit.register(self.stop)
                    os.register_at_fork(after_in_child=self._forget)
            return self._loop

    def _forget(self) -> None:
        """In a forked child: the thread is not there. The loop is kept, since its finalizer would complain."""
        self._abandoned.append((self._loop, self._thread))
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._closers = []

    def at_stop(self, closer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `closer` awaited before the portal stops."""
        self._closers.append(closer)

    def stop(self) -> None:
        """Close what was registered and end the thread. A later call starts a new one."""
        with self._lock:
            loop, thread, closers = self._loop, self._thread, self._closers
            self._loop, self._thread, self._closers = None, None, []
        if loop is None or thread is None or not thread.is_alive():
            return
        import asyncio

        async def close() -> None:
            try:
                await _cancel_others()  # while what they have to say can still be sent
                async with asyncio.timeout(CLOSE_WAIT_S):
                    for closer in closers:
                        await closer()
                await _cancel_others()
                await loop.shutdown_asyncgens()
            finally:
                loop.stop()

        loop.call_soon_threadsafe(lambda: self._abandoned.append(loop.create_task(close())))
        thread.join(2 * CLOSE_WAIT_S)
        if not thread.is_alive():
            loop.close()

    def is_here(self) -> bool:
        """Whether this thread is the portal's."""
        return self._thread is threading.current_thread()

    def _refuse_own_thread(self, coro: Coroutine[Any, Any, Any]) -> None:
        if self.is_here():
            coro.close()
            raise RuntimeError("a blocking call on Jitney's own event loop would never end: await its `.aio` form")

    def call(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run `coro` on the portal, in a copy of this thread's context, and block for its result.

        An exception here (Ctrl-C, a signal handler's) cancels it.
        """
        loop = self.loop()
        self._refuse_own_thread(coro)
        ended: SimpleQueue[asyncio.Task[T]] = SimpleQueue()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(loop.create_task(coro))
            tasks[0].add_done_callback(ended.put)

        def cancel() -> None:
            tasks[0].add_done_callback(_retrieve)
            tasks[0].cancel()

        loop.call_soon_threadsafe(start)
        try:
            task = ended.get()
        except BaseException:
            loop.call_soon_threadsafe(cancel)
            raise
        try:
            return task.result()
        except BaseException as error:
            raise shorten(error)  # noqa: B904 (the same error, without the frames of the portal)

    async def acall(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run `coro` on the portal without blocking the caller's loop; cancelling the one cancels the other."""
        import asyncio

        loop, here = self.loop(), asyncio.get_running_loop()
        if here is loop:
            return await coro
        # By hand: `run_coroutine_threadsafe` and `wrap_future` cost twice as much.
        ended: asyncio.Future[None] = here.create_future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(loop.create_task(coro))
            tasks[0].add_done_callback(lambda _: post(here, _resolve, ended))

        def cancel() -> None:
            tasks[0].add_done_callback(_retrieve)
            tasks[0].cancel()

        loop.call_soon_threadsafe(start)
        try:
            await ended
        except BaseException:
            loop.call_soon_threadsafe(cancel)
            raise
        try:
            return tasks[0].result()
        except BaseException as error:
            raise shorten(error)  # noqa: B904 (the same error, without the frames of the portal)

    def iterate(self, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items of `source`, which runs on the portal. Closing the iterator closes the source."""
        loop = self.loop()
        if self.is_here():
            raise RuntimeError("blocking iteration on Jitney's own event loop would never end: use the `.aio` form")
        inbox: SimpleQueue[list[T] | _End] = SimpleQueue()
        pump = _Pump(source, inbox.put, loop)
        loop.call_soon_threadsafe(pump.start)
        got: list[T] | _End = []
        try:
            while True:
                got = inbox.get()
                if isinstance(got, _End):
                    if got.error is not None:
                        raise shorten(got.error)
                    return
                pump.took(len(got))
                yield from got
        finally:
            if not isinstance(got, _End):
                post(loop, pump.stop)  # a portal that has stopped has closed all sources
                while not isinstance(got, _End) and not self.is_here() and not loop.is_closed():
                    try:
                        got = inbox.get(timeout=CLOSE_WAIT_S)
                    except Empty:
                        break

    async def aiterate(self, source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items of `source`, for the caller's loop."""
        import asyncio

        portal, here = self.loop(), asyncio.get_running_loop()
        if here is portal:
            try:
                async for item in source:
                    yield item
            finally:
                await source.aclose()
            return
        inbox: deque[list[T] | _End] = deque()
        arrived = asyncio.Event()

        def arrive(got: list[T] | _End) -> None:
            inbox.append(got)
            arrived.set()

        pump = _Pump(source, lambda got: post(here, arrive, got), portal)
        portal.call_soon_threadsafe(pump.start)
        got: list[T] | _End = []
        try:
            while True:
                while not inbox:
                    arrived.clear()
                    await arrived.wait()
                got = inbox.popleft()
                if isinstance(got, _End):
                    if got.error is not None:
                        raise shorten(got.error)
                    return
                pump.took(len(got))
                for item in got:
                    yield item
        finally:
            if not isinstance(got, _End):
                post(portal, pump.stop)
                await _drain(inbox, arrived)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take an error that nobody waits for any more, lest asyncio complain of it."""
    if not task.cancelled():
        task.exception()


async def _cancel_others() -> None:
    import asyncio

    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=STOP_WAIT_S)


def post(loop: asyncio.AbstractEventLoop, action: Callable[..., object], *args: Any) -> None:
    """Have another thread's loop call something. One that has been closed waits for nothing any more."""
    try:
        loop.call_soon_threadsafe(action, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


async def _drain(inbox: deque[Any], arrived: asyncio.Event) -> None:
    """Wait for the end of a pump that was told to stop."""
    import asyncio

    try:
        async with asyncio.timeout(CLOSE_WAIT_S):
            while not (inbox and isinstance(inbox[-1], _End)):
                arrived.clear()
                await arrived.wait()
    except TimeoutError:
        pass


class _End:
    """The last thing that a pump hands over."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Pump(Generic[T]):
    """Moves items from an async generator to a reader on another thread.

    `_made` is written on the portal and `_taken` by the reader. Whoever waits publishes its future first and looks at
    the counters again after, so no wake-up is lost, without a lock.
    """

    def __init__(
        self,
        source: AsyncGenerator[T, None],
        deliver: Callable[[list[T] | _End], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._source = source
        self._deliver = deliver
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._batch: list[T] = []
        self._made = 0
        self._taken = 0
        self._room: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin; on the portal."""
        self._task = self._loop.create_task(self._run())

    def stop(self) -> None:
        """Close the source; on the portal. The end is still delivered."""
        if self._task is not None:
            self._task.cancel()

    def took(self, count: int) -> None:
        """The reader has taken `count` items; on the reader's thread."""
        self._taken += count
        room = self._room
        if room is not None:
            post(self._loop, _resolve, room)

    def _flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._deliver(batch)

    async def _run(self) -> None:
        error: BaseException | None = None
        source = self._source
        try:
            async for item in source:
                if not self._batch:
                    self._loop.call_soon(self._flush)
                self._batch.append(item)
                self._made += 1
                if self._made - self._taken >= AHEAD_MAX:
                    await self._wait_for_room()
        except BaseException as caught:
            error = caught
        try:
            await source.aclose()
        except BaseException as caught:
            error = error or caught
        self._flush()
        self._deliver(_End(error))

    async def _wait_for_room(self) -> None:
        while self._made - self._taken >= AHEAD_MAX:
            self._room = self._loop.create_future()
            if self._made - self._taken >= AHEAD_MAX:
                await self._room
            self._room = None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


PORTAL = Portal()
