"""The output of a container that has secrets, without their values: what passes here may leave the machine.

A line that may be the beginning of a value is held for a moment. Looking is cheap, but for a container that prints its
own secrets without end; of that, what would take too long is refused, and counted as dropped by whoever reads it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from weakref import WeakValueDictionary

from jitney.core.redaction import Patterns, Redactor
from jitney.ports.runtime import Output
from jitney.values.containers import LogLine

HOLD_S = 0.05
LOOKS_PER_S = 50_000  # comparisons: some 50 ms of each second
LOOKS_AHEAD = 200_000
LARGE_CHARS = 1024  # of values: patterns for more are made on a thread

_made: WeakValueDictionary[bytes, Patterns] = WeakValueDictionary()  # while a container has them, for others like it


class RedactedText:
    """What a build says, without values of its secrets: line by line, each given on at once."""

    def __init__(self, values: Iterable[str]) -> None:
        self._patterns = Patterns(values)
        self._redactor = Redactor(self._patterns)

    def __call__(self, text: str) -> str:
        """One line, or several."""
        if not self._patterns or not text:
            return text
        lines = self._redactor.feed([LogLine(0, "", 1, line) for line in text.split("\n")])
        return "\n".join(line.text for line in [*lines, *self._redactor.release()])


class RedactedOutput:
    """An `Output`. `prepare` it before, and `finish` when the container has ended: what is held goes on."""

    def __init__(self, output: Output, secrets: Mapping[str, str]) -> None:
        self._output = output
        self._values = list(secrets.values())
        self._patterns = Patterns(())
        self._redactors: dict[int, Redactor] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._allowance = float(LOOKS_AHEAD)
        self._at_s = self._loop.time()

    async def prepare(self) -> None:
        """Know what to look for."""
        key = hashlib.sha256("\0".join(sorted(self._values)).encode()).digest()
        made = _made.get(key)
        if made is None:
            is_large = sum(map(len, self._values)) > LARGE_CHARS
            made = await asyncio.to_thread(Patterns, self._values) if is_large else Patterns(self._values)
            _made[key] = made
        self._patterns, self._values = made, []

    def __call__(self, lines: Sequence[LogLine]) -> bool:
        """See ports.runtime."""
        if not self._patterns:
            return self._output(lines)
        if not self._may_look():
            return False
        before = self._patterns.looks
        out: list[LogLine] = []
        for fd, its in groupby(lines, lambda line: line.fd):
            redactor = self._redactors.get(fd) or self._redactors.setdefault(fd, Redactor(self._patterns))
            out += redactor.feed([*its])
            if not fd:  # a note of ours: it is whole
                out += redactor.release()
        self._allowance -= self._patterns.looks - before
        if self._timer is None and any(redactor.is_holding for redactor in self._redactors.values()):
            self._timer = self._loop.call_later(HOLD_S, self._release)
        return self._output(out) if out else True

    def finish(self) -> None:
        """Nothing comes any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._release()

    def _may_look(self) -> bool:
        now_s = self._loop.time()
        self._allowance = min(LOOKS_AHEAD, self._allowance + (now_s - self._at_s) * LOOKS_PER_S)
        self._at_s = now_s
        return self._allowance > 0

    def _release(self) -> None:
        self._timer = None
        lines = [line for redactor in self._redactors.values() for line in redactor.release()]
        if lines:
            self._output(lines)
