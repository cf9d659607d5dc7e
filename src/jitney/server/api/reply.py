"""The answer to one request, for handlers that answer in the turn in which they are asked, or when something happens.

Such a handler has no task, so there is nothing to await or to cancel: it keeps the reply, and answers later. `on_gone`
tells it that nobody waits any more. An answer may *hold* something that must not be lost on its way, such as an item of
a queue: `settle(True)` is called when the peer says that it has it, `settle(False)` when it never will.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from jitney.errors import InternalError, JitneyError
from jitney.wire import codec

log = logging.getLogger("jitney.api")

Send = Callable[[int, bytes | JitneyError], None]


class Reply:
    """To request `number` of a peer; `send` takes the body of the answer, or the error."""

    __slots__ = ("_send", "is_answered", "number", "on_gone", "settle")

    def __init__(self, number: int, send: Send) -> None:
        self.number = number
        self._send = send
        self.is_answered = False
        self.on_gone: Callable[[], None] | None = None
        self.settle: Callable[[bool], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is answered, and holds nothing."""
        return self.is_answered and self.settle is None

    def answer(self, value: msgspec.Struct, settle: Callable[[bool], None] | None = None) -> None:
        """Answer, once; later answers are dropped."""
        self.answer_body(codec.encode(value), settle)

    def answer_body(self, body: bytes, settle: Callable[[bool], None] | None = None) -> None:
        """As `answer`, with an answer that is encoded already."""
        if self.is_answered:
            if settle is not None:
                settle(False)
            return
        self.is_answered = True
        self.settle = settle
        self._send(self.number, body)

    def refuse(self, error: BaseException) -> None:
        """Answer with an error."""
        if self.is_answered:
            return
        self.is_answered = True
        if not isinstance(error, JitneyError):
            log.error("a request failed", exc_info=error)
            error = InternalError(f"the request failed in the server: {error!r}", hint="see server.log")
        self._send(self.number, error)

    def received(self) -> None:
        """The peer has the answer."""
        self._settle(True)

    def gone(self) -> None:
        """The peer wants no answer any more, or has hung up."""
        if self.is_answered:
            self._settle(False)
            return
        self.is_answered = True
        if self.on_gone is not None:
            self.on_gone()

    def _settle(self, has_it: bool) -> None:
        settle, self.settle = self.settle, None
        if settle is not None:
            settle(has_it)


Now = Callable[[Any, Any, Reply], None]
"""A handler (peer, request, reply): it may raise instead of answering."""
