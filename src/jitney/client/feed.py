"""The inputs of a map on their way from the user's iterators to the portal.

User code makes them (an iterator may read a file, or sleep), so it is pulled on a thread of its own, or, where it is an
async iterator, by a task of the user's loop; pickling happens there too. A slow iterator therefore holds back nothing
but itself. What has been made waits in a buffer; the portal takes all that is there at once, and no more is made than
the portal has asked for, so an endless iterator costs a bounded amount of memory.

No lock: whoever waits publishes that first and looks again after (see `portal._Pump`).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from jitney.client.portal import post

INPUTS_AHEAD_MAX = 512  # made and not yet taken
INPUT_BYTES_AHEAD_MAX = 8 * 1024 * 1024


class Feed:
    """A bounded buffer from one producer (any thread) to the portal."""

    def __init__(self, loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
        """`arrived`, of the portal's `loop`, is set when the portal waits and something comes."""
        self._loop = loop
        self._buffer: deque[bytes] = deque()
        self._made_bytes = 0
        self._taken_bytes = 0
        self._arrived = arrived
        self._hungry = False
        self._full = False
        self.ended = False  # no more will come
        self.stopped = False  # no more is wanted
        self.error: BaseException | None = None
        self.wake_producer: Wake = _nobody

    # ------------------------------------------------------------------------------------------- the producer

    @property
    def has_room(self) -> bool:
        """Whether another input may be made now."""
        return len(self._buffer) < INPUTS_AHEAD_MAX and self._made_bytes - self._taken_bytes < INPUT_BYTES_AHEAD_MAX

    @property
    def is_waiting(self) -> bool:
        """Whether the producer waits to be woken."""
        return self._full

    def waits(self) -> bool:
        """Say that the producer waits; True if it has to: `wake_producer` follows."""
        self._full = True
        if self.has_room or self.stopped:
            self._full = False
            return False
        return True

    def put(self, payload: bytes) -> None:
        """Add an input."""
        self._buffer.append(payload)
        self._made_bytes += len(payload)
        if self._hungry:
            self._hungry = False
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """No more will come."""
        self.error = error
        self.ended = True
        self._hungry = False
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the portal has stopped: the process ends
            self.stopped = True

    # ------------------------------------------------------------------------------------------- the portal

    def take(self, count: int) -> list[bytes]:
        """At most `count` of the inputs that are there."""
        buffer = self._buffer
        taken = [buffer.popleft() for _ in range(min(count, len(buffer)))]
        self._taken_bytes += sum(map(len, taken))
        if self._full and self.has_room:
            self._full = False
            self.wake_producer()
        return taken

    @property
    def is_dry(self) -> bool:
        """Whether there is nothing to take, for ever."""
        return self.ended and not self._buffer

    def wants(self) -> bool:
        """Say that the portal waits; True if it has to: the event is set when something comes."""
        self._hungry = True
        if self._buffer or self.ended:
            self._hungry = False
            return False
        return True

    def stop(self) -> None:
        """Want no more."""
        self.stopped = True
        self._full = False
        self.wake_producer()


class Wake(Protocol):
    """Tells a producer to look again; from the portal's thread."""

    def __call__(self) -> None: ...


def _nobody() -> None:
    pass


def start_thread(feed: Feed, payloads: Iterator[bytes]) -> None:
    """Produce from an iterator of the user, on a thread that has the caller's context."""
    again = threading.Event()
    feed.wake_producer = again.set

    def produce() -> None:
        error: BaseException | None = None
        try:
            while not feed.stopped:
                if not feed.has_room and feed.waits():
                    again.wait()
                    again.clear()
                    continue
                payload = next(payloads, None)
                if payload is None:
                    break
                feed.put(payload)
        except BaseException as caught:
            error = caught
        feed.end(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(produce,), name="jitney-inputs", daemon=True).start()


async def produce(feed: Feed, payloads: AsyncIterator[bytes]) -> None:
    """Produce from an async iterator of the user, as a task of the user's loop."""
    loop = asyncio.get_running_loop()
    again = asyncio.Event()
    feed.wake_producer = functools.partial(post, loop, again.set)
    error: BaseException | None = None
    try:
        async for payload in payloads:
            feed.put(payload)
            while not feed.has_room and feed.waits():
                again.clear()
                if feed.is_waiting:  # not woken in between
                    await again.wait()
            if feed.stopped:
                break
    except Exception as caught:
        error = caught
    finally:
        feed.end(error)
