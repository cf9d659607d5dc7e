"""Which operations were done lately, and what was answered: one that is asked for again is not done twice.

A client gives each operation that must not be repeated a number, and sends it again under the same one after a break.
The store remembers it with the change that it made, so this holds over a restart of the server too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jitney.errors import InvalidError, JitneyError
from jitney.ports.objects import Op
from jitney.server.api.reply import Reply
from jitney.server.journal import Change

OPS_KEPT_MS = 90_000  # a client asks again for a minute
OPS_MAX = 200_000
OPS_BYTES_MAX = 64 * 1024 * 1024
OP_MAX = 1 << 63


class Ops:
    """The operations of dicts and queues."""

    def __init__(self, numbers: Iterator[int], now_ms: Callable[[], int]) -> None:
        self._numbers = numbers
        self._now_ms = now_ms
        self._answers: OrderedDict[int, tuple[bytes, Change[Any] | None, int]] = OrderedDict()
        self._bytes = 0

    def load(self, ops: Iterable[Op]) -> None:
        """What the store remembers."""
        for op in ops:
            self._note(op.op, op.answer, None, op.at_ms)

    def repeat(self, op: int, reply: Reply) -> bool:
        """Answer an operation that was done already, when that is on disk. False: it is new.

        Raises:
            InvalidError: `op` cannot be the number of an operation.
        """
        if not op:
            return False
        if not 0 < op < OP_MAX:
            raise InvalidError("op must be from 1 to 2 ** 63 - 1, or 0")
        known = self._answers.get(op)
        if known is None:
            return False
        answer, change, _ = known
        if change is None:
            reply.answer_body(answer)
        else:
            change.waiters.append(lambda error: reply.answer_body(answer) if error is None else reply.refuse(error))
        return True

    def make(self, op: int, answer: bytes) -> Op | None:
        """What to record with the change that the operation makes; None for one without a number."""
        return Op(next(self._numbers), op, self._now_ms(), answer) if op else None

    def begun(self, op: int, answer: bytes, change: Change[Any]) -> None:
        """The change that an operation makes is to be written."""
        if not op:
            return
        at_ms = self._now_ms()
        self._note(op, answer, change, at_ms)

        def written(error: JitneyError | None) -> None:
            if self._answers.pop(op, None) is not None:
                self._bytes -= len(answer)
            if error is None:
                self._note(op, answer, None, at_ms)

        change.waiters.insert(0, written)

    def done(self, op: int, answer: bytes) -> None:
        """An operation is over that left nothing to write."""
        if op:
            self._note(op, answer, None, self._now_ms())

    def _note(self, op: int, answer: bytes, change: Change[Any] | None, at_ms: int) -> None:
        self._answers[op] = (answer, change, at_ms)
        self._bytes += len(answer)
        while len(self._answers) > OPS_MAX or self._bytes > OPS_BYTES_MAX:
            _, (dropped, _, _) = self._answers.popitem(last=False)
            self._bytes -= len(dropped)

    def sweep(self) -> int:
        """Forget what is old: what was done before the time that is given back."""
        before_ms = self._now_ms() - OPS_KEPT_MS
        while self._answers:
            op, (answer, change, at_ms) = next(iter(self._answers.items()))
            if change is not None or at_ms >= before_ms:
                break
            del self._answers[op]
            self._bytes -= len(answer)
        return before_ms
