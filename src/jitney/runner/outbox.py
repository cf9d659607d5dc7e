"""What goes back to the server: results and yielded items, in as few frames as cost nobody time.

Something is sent at once when the last sending is longer ago than HOLD_NS, or when nothing else is about to come.
Otherwise it is held, and the keeper (a thread that sleeps in poll) sends it HOLD_NS later if nobody has: the next input
may take an hour. The keeper also sees the link break while user code has the main thread, and connects again.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import select
import signal
from time import monotonic_ns

from jitney.runner import protocol
from jitney.runner.link import DESCRIPTOR_MIN, Connection, Link, LinkLost

HOLD_NS = 1_000_000
HELD_BYTES_MAX = 64 * 1024
FRAME_BYTES = 4 * 1024 * 1024  # of results in one frame, unless one alone is larger
FAST_NS = 200_000  # results of work that takes longer are not worth holding
POLL_MS = 1
POLL_SELDOM_MS = 20  # when user code has closed the pipe that would wake the keeper; between two nudges
QUIET_ROUNDS = 2
NUDGES = 2
ITEMS_AHEAD = 1_000  # as values.calls.GENERATOR_ITEMS_AHEAD

_HANGUP = getattr(select, "POLLRDHUP", 0)  # POLLHUP and POLLERR are always told


class Stream:
    """The items of one generator that are not sent yet."""

    __slots__ = ("held", "held_bytes", "sent", "sent_at_ns", "token")

    def __init__(self, token: int) -> None:
        self.token = token
        self.sent = 0
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.sent_at_ns = 0

    @property
    def yielded(self) -> int:
        """Items so far."""
        return self.sent + len(self.held)


class Nudges:
    """Signals that may have come a moment too early, sent once more.

    Python runs a handler between two bytecodes. A signal that arrives after the last look, but before the system call
    that follows, is noted and then waited over: the call is not interrupted, and may last for ever. The wake-up
    descriptor tells us of every signal; a little later we send it again, to the main thread alone.
    """

    def __init__(self, main_thread: int) -> None:
        self.due: dict[int, int] = {}  # signal -> how often still
        self._main_thread = main_thread
        self._echoes: dict[int, int] = {}  # our own, which we hear too

    def heard(self, numbers: bytes) -> None:
        """Bytes of the wake-up descriptor: the numbers of signals, and zeros."""
        for number in numbers:
            if self._echoes.get(number, 0):
                self._echoes[number] -= 1
            elif number in (signal.SIGTERM, signal.SIGURG):
                self.due[number] = NUDGES

    def act(self) -> None:
        """Send what is due."""
        for number in list(self.due):
            self._echoes[number] = 1
            self.due[number] -= 1
            if not self.due[number]:
                del self.due[number]
            signal.pthread_kill(self._main_thread, number)


class Outbox:
    """See the module."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._results: list[protocol.Result] = []
        self._held_bytes = 0
        self._sent_at_ns = 0
        self._streams: dict[int, Stream] = {}  # with held items
        self._bell = self._ring = -1
        self._nudges = Nudges(0)
        self._awake = True  # nobody to wake before start()

    # ------------------------------------------------------------------ results

    def put(self, results: list[protocol.Result], *, more: bool) -> None:
        """Hand in the results of one work. `more`: another one is about to start."""
        link = self._link
        with link.lock:
            self._results += results
            if more and results[-1].duration_ns < FAST_NS:
                self._held_bytes += sum(len(result.payload) for result in results)
                now = monotonic_ns()
                if now - self._sent_at_ns < HOLD_NS and self._held_bytes < HELD_BYTES_MAX:
                    self._wake()
                    return
                self._sent_at_ns = now
            self._send_results()

    def flush(self) -> None:
        """Send all that is held."""
        if self._results or self._streams:
            with self._link.lock:
                for stream in list(self._streams.values()):
                    self._send_items(stream)
                self._send_results()

    def _send_results(self) -> None:
        results, self._results = self._results, []
        self._held_bytes = 0
        while results:
            count, size = 0, 0
            for result in results:
                size += len(result.payload)
                if count and size > FRAME_BYTES:
                    break
                count += 1
            now, results = results[:count], results[count:]
            self._link.send_locked(protocol.pack_results(now), [result.token for result in now])

    # ------------------------------------------------------------------ items of generators

    def item(self, stream: Stream, payload: bytes) -> None:
        """Hand in an item."""
        with self._link.lock:
            stream.held.append(payload)
            stream.held_bytes += len(payload)
            if monotonic_ns() - stream.sent_at_ns >= HOLD_NS or stream.held_bytes >= HELD_BYTES_MAX:
                self._send_items(stream)
            else:
                self._streams[stream.token] = stream
                self._wake()

    def flush_stream(self, stream: Stream) -> None:
        """Send its items: it ends, or waits for its reader."""
        with self._link.lock:
            self._send_items(stream)

    def _send_items(self, stream: Stream) -> None:
        self._streams.pop(stream.token, None)
        if stream.held:
            self._link.send_locked(protocol.pack_items(stream.token, stream.sent, stream.held))
            stream.sent += len(stream.held)
            stream.held, stream.held_bytes = [], 0
            stream.sent_at_ns = monotonic_ns()

    # ------------------------------------------------------------------ the keeper

    def start(self) -> None:
        """Start the keeper; on the main thread. It also sees to it that signals are heard (see Nudges)."""
        self._bell, self._ring = map(_out_of_the_way, os.pipe())
        os.set_blocking(self._ring, False)
        self._nudges = Nudges(_thread.get_ident())
        signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        self._awake = False
        _thread.start_new_thread(self._keep, ())

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                os.write(self._ring, b"\0")
            except OSError:
                pass  # closed by user code: see _watch

    def _keep(self) -> None:
        # Signals are for the main thread: only there do they interrupt what it waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            connection = self._link.connection
            if self._link.lost is not None:
                return
            if connection.ended:
                try:
                    self._link.reconnect(connection)
                except LinkLost:
                    os.kill(os.getpid(), signal.SIGTERM)  # ends as if the worker had asked
                    return
                continue
            if not self._watch(connection):
                connection.ended = True

    def _watch(self, connection: Connection) -> bool:
        """Send what is held for HOLD_NS, until the link breaks (False) or is another one (True)."""
        poll = select.poll()
        number = connection.sock.fileno()
        if number < 0:
            return False
        poll.register(number, _HANGUP)
        if self._bell >= 0:
            poll.register(self._bell, select.POLLIN)
        quiet = 0
        while self._link.connection is connection:
            events = poll.poll(self._wait_ms())
            for descriptor, what in events:
                if descriptor == number:
                    return False
                if what == select.POLLIN:
                    self._nudges.heard(os.read(self._bell, 4096))
                else:  # user code closed it
                    poll.unregister(self._bell)
                    self._bell = -1
            if not events:
                self._nudges.act()
            quiet = 0 if self._flush_due() else quiet + 1
            if quiet > QUIET_ROUNDS:
                self._awake = False
                if self._results or self._streams:  # came in between, and whoever held it saw us awake
                    self._awake = True
        return True

    def _wait_ms(self) -> int | None:
        if self._awake:
            return POLL_MS
        return POLL_SELDOM_MS if self._bell < 0 or self._nudges.due else None

    def _flush_due(self) -> bool:
        if not self._results and not self._streams:
            return False
        with self._link.lock:
            due = monotonic_ns() - HOLD_NS // 2
            for stream in [s for s in list(self._streams.values()) if s.sent_at_ns <= due]:
                self._send_items(stream)
            if self._sent_at_ns <= due:
                self._send_results()
        return True


def _out_of_the_way(descriptor: int) -> int:
    """The same file on a descriptor that user code does not close by counting from 3."""
    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, DESCRIPTOR_MIN)
    except OSError:
        return descriptor
    os.close(descriptor)
    return high
