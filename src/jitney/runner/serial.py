"""One input at a time on the main thread, and nothing between the link and the user's function.

While user code runs nobody reads the link. To be heard then, the server has SIGURG sent to the process: its handler
runs on the main thread between two bytecodes, or out of a blocking call, reads what has come, and raises
InputCancellation into the user's code if that input is cancelled. SIGTERM raises it too, and ends the container.

Both handlers act only at places that are named by a flag: `_in_user` (user code), `_in_receive` (waiting for frames).
Anywhere else they leave a note, which is looked at where the flag goes up.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from jitney.runner import protocol
from jitney.runner.failures import format_traceback
from jitney.runner.inbox import Inbox, Work
from jitney.runner.invoke import Abandoned, Invoker, note
from jitney.runner.link import Link, LinkLost, rejection
from jitney.runner.load import Loaded
from jitney.runner.outbox import Outbox
from jitney.runner.state import InputCancellation

LOOK_AFTER_NS = 1_000_000  # after work that took longer, look at the link before the next


class Terminated(Exception):
    """SIGTERM came while the runner waited for work."""


def run_exit_hook(hook: Callable[[], Any]) -> None:
    """Run an @exit method; what it raises is shown, and keeps nothing else from ending."""
    try:
        hook()
    except BaseException as error:
        note(f"an @exit method failed:\n{format_traceback(error)}".rstrip())


class SerialExecutor:
    """See the module. It is its own gate."""

    def __init__(self, link: Link, inbox: Inbox, outbox: Outbox, invoker: Invoker, config: dict[str, Any]) -> None:
        self.link = link
        self.inbox = inbox
        self.outbox = outbox
        self.invoker = invoker
        self.single_use = bool(config.get("single_use"))
        invoker.credit_of = self._credit
        self.is_stopping = False
        self._work: Work | None = None
        self._in_user = False
        self._in_receive = False
        self._interrupting = False
        self._look = False  # SIGURG came
        signal.signal(signal.SIGURG, self._on_urgent)
        signal.signal(signal.SIGTERM, self._on_terminate)

    # ------------------------------------------------------------------ the loop

    def run_hooks(self, loaded: Loaded, *, entering: bool) -> None:
        """Run the @enter, or the @exit, methods. SIGTERM interrupts the former only."""
        for hook in loaded.enter if entering else loaded.exit:
            if not entering:
                run_exit_hook(hook)
                continue
            try:
                self._in_user = True
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
        inbox, outbox = self.inbox, self.outbox
        try:
            while True:
                if inbox.waiting and not self.is_stopping:
                    if self._look:
                        self._drain()
                        continue
                    self._perform(inbox.start())
                    continue
                outbox.flush()
                if inbox.stopping or self.is_stopping:
                    break
                self._receive()
        except Terminated:
            pass
        if inbox.rejected is not None:
            raise LinkLost(rejection(inbox.rejected))
        if self.is_stopping:
            self._answer(inbox.stop())
        outbox.flush()

    def _perform(self, work: Work) -> None:
        inbox = self.inbox
        self._work = work
        started = monotonic_ns()
        try:
            results = self.invoker.perform(work, self)
        except Abandoned:
            results = []
        finally:
            self._work = None
        inbox.finish(work)
        try:
            sys.stdout.flush()  # what the input printed without a newline
        except Exception:  # the user's own object, or a closed one
            pass
        if self.single_use:
            self._answer(inbox.stop())
        if results:
            self.outbox.put(results, more=bool(inbox.waiting))
        if inbox.waiting and monotonic_ns() - started > LOOK_AFTER_NS:
            self._look = True

    def _receive(self) -> None:
        """Wait for frames and take them in.

        Raises:
            Terminated: SIGTERM.
        """
        self._in_receive = True
        try:
            if self.is_stopping:
                raise Terminated
            frames = self.link.receive()
        finally:
            self._in_receive = False
        self._take(frames)

    def _drain(self) -> None:
        self._look = False
        self._take(self.link.drain())

    def _take(self, frames: list[tuple[int, bytes]]) -> None:
        for kind, body in frames:
            try:
                self._answer(self.inbox.take(kind, body))
            except protocol.ProtocolError as error:
                note(f"a damaged frame from the server was ignored: {error}")

    def _answer(self, frame: bytes | None) -> None:
        if frame is not None:
            self.link.send(frame)

    # ------------------------------------------------------------------ the gate

    def open(self, work: Work) -> None:
        """See invoke.Gate."""
        self._in_user = True
        if self._look or self.is_stopping:
            self._interrupt()

    def close(self) -> None:
        """See invoke.Gate."""
        self._in_user = False

    def wait_for_credit(self, work: Work) -> None:
        """See invoke.Gate."""
        try:
            self._receive()
        except Terminated:
            raise InputCancellation("the container is ending") from None
        if self.inbox.is_cancelled(work):
            raise InputCancellation("the call was cancelled")

    def _credit(self, work: Work) -> int:
        return self.inbox.credit.get(work.token, 0)

    # ------------------------------------------------------------------ signals

    def _on_urgent(self, _number: int, _frame: object) -> None:
        self._look = True
        if self._in_user and self._work is not None and not self._interrupting:
            self._interrupt()

    def _on_terminate(self, _number: int, _frame: object) -> None:
        if self.is_stopping:
            return
        self.is_stopping = True
        if self._in_user:
            if not self._interrupting:
                self._interrupt()
        elif self._in_receive:
            raise Terminated

    def _interrupt(self) -> None:
        """While user code runs: hear what the server says, and interrupt it if that is what it says.

        Raises:
            InputCancellation: into the user's code.
        """
        while True:
            # A signal that comes meanwhile leaves its note only: what runs here cannot be done twice at a time.
            self._interrupting = True
            try:
                if self._look:
                    self._drain()
            finally:
                self._interrupting = False
            if self.is_stopping:
                raise InputCancellation("the container is ending")
            work = self._work
            if work is not None and self.inbox.is_cancelled(work):
                self.inbox.cancelled.difference_update(work.tokens)  # once: code that catches it may go on
                raise InputCancellation("the call was cancelled")
            if not self._look:
                return
