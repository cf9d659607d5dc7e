"""What the server wants done: a queue of work, and what it said about work that it had sent before.

Fed with frames by the main thread; has no socket of its own. Answers that it owes are returned as frames.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from jitney.runner import protocol

HEADERS_MAX = 1_000


class Work:
    """One invocation: an input, or with `batch` the inputs of one @batched invocation."""

    __slots__ = ("attempt", "batch", "by_file", "call", "calls", "durable", "index", "method", "payload", "token")

    def __init__(self, call: str, method: str, durable: bool, by_file: bool, first: protocol.RunInput) -> None:
        self.call = call
        self.method = method
        self.durable = durable
        self.by_file = by_file
        self.token, self.index, self.attempt, self.payload = first
        self.batch: list[protocol.RunInput] | None = None
        self.calls: dict[int, str] = {}  # of a batch: the call of each token

    @property
    def tokens(self) -> list[int]:
        """The tokens of its inputs."""
        return [self.token] if self.batch is None else [item.token for item in self.batch]


class Inbox:
    """See the module. `on_cancel(work)`, where set, is asked to interrupt work that has started."""

    def __init__(self, unreported: dict[int, tuple[str, int, int]]) -> None:
        self.waiting: deque[Work] = deque()
        self.running: dict[int, Work] = {}  # by token
        self.unreported = unreported  # received, and the result is not out: what HELLO lists
        self.credit: dict[int, int] = {}  # further items allowed, by token of a running generator
        self.cancelled: set[int] = set()  # tokens of running inputs
        self.stopping = False
        self.grace_ms = 0
        self.rejected: bytes | None = None
        self.on_cancel: Callable[[Work], None] | None = None
        self._headers: dict[bytes, tuple[tuple[str, ...], str, bool, bool]] = {}

    def take(self, kind: int, body: bytes) -> bytes | None:
        """Take a frame in; the frame to answer with, if any.

        Raises:
            ProtocolError: a damaged frame.
        """
        if kind == protocol.RUN or kind == protocol.RUN_BATCH:
            return self._run(body, kind == protocol.RUN_BATCH)
        if kind == protocol.CANCEL:
            # The server may take an input for running that had not started: it hears which ones it was wrong about.
            dropped = self._cancel(protocol.unpack_tokens(body))
            return protocol.pack_tokens(protocol.RECALLED, dropped) if dropped else None
        if kind == protocol.RECALL:
            return protocol.pack_tokens(protocol.RECALLED, self._remove(set(protocol.unpack_tokens(body))))
        if kind == protocol.CREDIT:
            token, items = protocol.unpack_credit(body)
            if token in self.unreported:
                self.credit[token] = self.credit.get(token, 0) + items
        elif kind == protocol.STOP:
            self.grace_ms = int(protocol.unpack_json(body).get("grace_ms", 0))
            return self.stop()
        elif kind == protocol.REJECT:
            self.rejected = body
            self.stopping = True
        return None  # kinds of a newer server say nothing to us

    def stop(self) -> bytes | None:
        """Take no more work; the RECALLED frame for what had not started."""
        self.stopping = True
        tokens = self._remove(None)
        return protocol.pack_tokens(protocol.RECALLED, tokens) if tokens else None

    def start(self) -> Work:
        """The next work, which runs from now on."""
        work = self.waiting.popleft()
        for token in work.tokens:
            self.running[token] = work
        return work

    def finish(self, work: Work) -> None:
        """It runs no more; its result may still be on its way."""
        for token in work.tokens:
            self.running.pop(token, None)
            self.credit.pop(token, None)
            self.cancelled.discard(token)

    def is_cancelled(self, work: Work) -> bool:
        """Whether all of its inputs are cancelled."""
        if not self.cancelled:
            return False
        return all(token in self.cancelled for token in work.tokens)

    def _run(self, body: bytes, batch: bool) -> bytes | None:
        header, inputs = protocol.unpack_run(body)
        known = self._headers.get(header)
        if known is None:
            try:
                fields: dict[str, Any] = json.loads(header)
                calls = tuple(map(str, fields["calls"])) if batch else (str(fields["call"]),)
                known = calls, str(fields["method"]), bool(fields.get("durable")), bool(fields.get("by_file"))
            except (ValueError, KeyError, TypeError) as error:
                raise protocol.ProtocolError(f"the header of a RUN frame: {error}") from None
            if len(self._headers) >= HEADERS_MAX:
                self._headers.clear()
            self._headers[header] = known
        if self.stopping:
            return protocol.pack_tokens(protocol.RECALLED, [item.token for item in inputs])
        calls, method, durable, by_file = known
        if batch and len(calls) != len(inputs):
            raise protocol.ProtocolError("the header of a RUN_BATCH frame has not a call for each input")
        new = [(calls[at] if batch else calls[0], item) for at, item in enumerate(inputs)]
        new = [(call, item) for call, item in new if item.token not in self.unreported]
        for call, item in new:
            self.unreported[item.token] = (call, item.index, item.attempt)
        if not batch:
            self.waiting.extend([Work(call, method, durable, by_file, item) for call, item in new])
        elif new:
            work = Work(new[0][0], method, durable, by_file, new[0][1])
            work.batch = [item for _, item in new]
            work.calls = {item.token: call for call, item in new}
            self.waiting.append(work)
        return None

    def _cancel(self, tokens: list[int]) -> list[int]:
        """Interrupt what runs and drop what does not; the tokens of the latter."""
        dropped = self._remove(set(tokens))
        for token in tokens:
            work = self.running.get(token)
            if work is not None:
                self.cancelled.add(token)
                if self.on_cancel is not None and self.is_cancelled(work):
                    self.on_cancel(work)
        return dropped

    def _remove(self, wanted: set[int] | None) -> list[int]:
        """Take inputs (None: all) out of the queue; their tokens."""
        removed: list[int] = []
        for _ in range(len(self.waiting)):
            work = self.waiting.popleft()
            out = [token for token in work.tokens if wanted is None or token in wanted]
            removed += out
            if not out:
                self.waiting.append(work)
            elif work.batch is not None and len(out) < len(work.batch):
                work.batch = [item for item in work.batch if item.token not in out]
                self.waiting.append(work)
        for token in removed:
            self.unreported.pop(token, None)
        return removed
