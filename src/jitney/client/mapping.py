"""A connected map as a state object: which inputs are out, which came back, what may be sent and yielded now.

Sans-I/O: no loop, no clock, no link (`mapper` has them). Each input has one index and is, until its output has come, in
exactly one of these places:

    unsent      it goes out with the next frame
    out         the server has it
    parked      the server gave it back (`Refused`) and named a time to send it again

A break makes everything without an output unsent again. An output of an index that is not awaited is a repeat (of a
run after a break, or of a message) and is dropped, so each index gives exactly one result.

Memory is bounded over an endless iterator by three limits: inputs without an output, results that the reader has not
taken (an ordered map holds what came before its turn), and no new inputs while any is parked.
"""

from __future__ import annotations

from collections import deque

from jitney.values.calls import Output, Status

INPUTS_OUTSTANDING_MAX = 1_000  # without an output, per map
AHEAD_MAX = 10_000  # inputs made and not yet taken by the reader as results, per map
FRAME_INPUTS_MAX = 256
FRAME_BYTES_MAX = 256 * 1024


class MapState:
    """One map. Times are seconds of the caller's clock."""

    def __init__(
        self, *, ordered: bool, outstanding_max: int = INPUTS_OUTSTANDING_MAX, ahead_max: int = AHEAD_MAX
    ) -> None:
        self._ordered = ordered
        self._outstanding_max = outstanding_max
        self._ahead_max = ahead_max
        self._awaited: dict[int, bytes] = {}  # index -> payload, until its output has come
        self._unsent: deque[int] = deque()
        self._parked: list[tuple[float, int, int]] = []  # (due at, first, count)
        self._ready: deque[Output] = deque()
        self._early: dict[int, Output] = {}
        self._next = 0  # the index that an ordered map yields next
        self._end_said = False
        self.made = 0
        self.done = 0
        self.failed = 0
        self.ended = False

    # ------------------------------------------------------------------------------------------- inputs

    def room(self, consumed: int) -> int:
        """How many new inputs may be added, when the reader has taken `consumed` results."""
        if self.ended or self._parked:
            return 0
        return max(0, min(self._outstanding_max - len(self._awaited), self._ahead_max - (self.made - consumed)))

    def is_ahead(self, consumed: int) -> bool:
        """Whether new inputs wait for the reader to take results."""
        return not self.ended and self.made - consumed >= self._ahead_max

    def add(self, payloads: list[bytes]) -> None:
        """New inputs, with the next indices."""
        assert not self.ended
        first = self.made
        self.made = first + len(payloads)
        self._awaited.update(zip(range(first, self.made), payloads, strict=True))
        self._unsent.extend(range(first, self.made))

    def end(self) -> None:
        """There are no more inputs."""
        self.ended = True

    def frame(self) -> tuple[int, list[bytes]] | None:
        """(first index, payloads) of the next frame to send; None when all is sent."""
        unsent, awaited = self._unsent, self._awaited
        first, size = -1, 0
        payloads: list[bytes] = []
        while unsent:
            index = unsent[0]
            payload = awaited.get(index)
            if payload is None:  # its output came from before a break
                unsent.popleft()
                continue
            if payloads and (
                index != first + len(payloads)
                or len(payloads) >= FRAME_INPUTS_MAX
                or size + len(payload) > FRAME_BYTES_MAX
            ):
                break
            if not payloads:
                first = index
            unsent.popleft()
            payloads.append(payload)
            size += len(payload)
        return (first, payloads) if payloads else None

    def says_end(self) -> bool:
        """Whether the number of inputs is to be sent now. True once per connection, after all inputs have gone out."""
        if not self.ended or self._end_said or self._unsent or self._parked:
            return False
        self._end_said = True
        return True

    # ------------------------------------------------------------------------------------------- what happens

    def on_outputs(self, outputs: list[Output]) -> list[bytes]:
        """Take results; gives the payloads of the inputs that are over."""
        over = []
        for output in outputs:
            payload = self._awaited.pop(output.index, None)
            if payload is None:
                continue
            over.append(payload)
            self.done += 1
            if output.status != Status.SUCCESS:
                self.failed += 1
            if self._ordered:
                self._early[output.index] = output
            else:
                self._ready.append(output)
        while self._next in self._early:
            self._ready.append(self._early.pop(self._next))
            self._next += 1
        return over

    def on_refused(self, first: int, count: int, due: float) -> None:
        """The server gave inputs back, to be sent again at `due`."""
        self._parked.append((due, first, count))
        self._end_said = False

    def on_connected(self) -> None:
        """Another connection: everything that has no output goes out (again)."""
        self._parked.clear()
        self._unsent = deque(self._awaited)
        self._end_said = False

    def due(self, now: float) -> float | None:
        """Make unsent what is due now; the time of what is due next."""
        if not self._parked:
            return None
        again = [(first, count) for at, first, count in self._parked if at <= now]
        self._parked = [parked for parked in self._parked if parked[0] > now]
        if again:
            indices = {index for first, count in again for index in range(first, first + count)}
            self._unsent = deque(sorted(indices.intersection(self._awaited).union(self._unsent)))
        return min((at for at, _, _ in self._parked), default=None)

    # ------------------------------------------------------------------------------------------- results

    def take(self) -> list[Output]:
        """Results that may be yielded now, in the order for it."""
        ready, self._ready = self._ready, deque()
        return list(ready)

    @property
    def is_finished(self) -> bool:
        """Whether every input has given its result, and every result was taken."""
        return self.ended and not self._awaited and not self._ready

    def leftover(self) -> list[bytes]:
        """Payloads of inputs that have no output: for a map that is given up."""
        return list(self._awaited.values())
