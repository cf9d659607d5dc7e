"""Connected calls: `remote`, `map`, `remote_gen`. The client is the log: it keeps an input until its result is there.

A call outlives its link by GRACE_MS: a client that comes back (same call id) finds its results; one that does not is
taken for dead, and the call is cancelled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Protocol

from jitney.errors import InvalidError, JitneyError, NotFoundError
from jitney.server.router import Router
from jitney.server.state import Call, Input, Pool
from jitney.values import ids
from jitney.values.calls import CallKind, Output
from jitney.wire.messages import link as m

GRACE_MS = 3_000
UNDELIVERED_MAX = 2_000
CAUGHT_UP_MAX = 1_000


class Pools(Protocol):
    """Finds the pool of a function."""

    def pool(self, function_id: str) -> Pool:
        """The pool; raises NotFoundError where there is none (any more)."""

    def used_by(self, app_id: str, peer: CallLink) -> None:
        """A client works with the app: it keeps an ephemeral app alive."""


class CallLink(Protocol):
    """What a connected call needs of a link."""

    role: str

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""

    def send(self, message: m.Message) -> None:
        """Queue a message."""


class Connected:
    """Calls that live with their client. One object for all; it is the sink of each of them."""

    def __init__(self, router: Router, pools: Pools) -> None:
        self._router = router
        self._pools = pools
        self._links: dict[str, CallLink] = {}  # call id -> link
        self._undelivered: dict[str, list[m.Message]] = {}
        self._caught_up: OrderedDict[str, set[int]] = OrderedDict()  # call id -> indices told after a break

    # ------------------------------------------------------------------------------------------- from clients

    def invoke(self, link: CallLink, message: m.Invoke) -> None:
        """A call of one input."""
        call = self._open(link, message.call_id, message.function_id, message.method, message.kind)
        if call is None:
            return
        refusal = self._router.admit(call, 1)
        if refusal is not None:
            self._links.pop(call.id, None)
            self._router.calls.pop(call.id, None)
            link.send(
                m.Refused(call.id, 0, 1, "resource_exhausted", refusal.message, refusal.hint, refusal.retry_after_ms)
            )
            return
        call.inputs_complete = True
        self._router.put(call, 0, [message.payload], self._router.effects.now_ms())

    def open(self, link: CallLink, message: m.OpenCall) -> None:
        """A call of many inputs begins, or comes back."""
        self._open(link, message.call_id, message.function_id, message.method, message.kind)

    def inputs(self, link: CallLink, message: m.Inputs) -> None:
        """Inputs of an open call."""
        call = self._router.calls.get(message.call_id)
        count = len(message.payloads)
        known = self._caught_up.get(message.call_id, ())
        if known and any(message.first_index <= index < message.first_index + count for index in known):
            self._inputs_again(link, message, known)
            return
        if call is None:
            link.send(m.Refused(message.call_id, message.first_index, count, "not_found", "the call is not open"))
            return
        refusal = self._router.admit(call, count)
        if refusal is not None:
            link.send(
                m.Refused(
                    call.id,
                    message.first_index,
                    count,
                    "resource_exhausted",
                    refusal.message,
                    refusal.hint,
                    refusal.retry_after_ms,
                )
            )
            return
        self._router.put(call, message.first_index, message.payloads, self._router.effects.now_ms())

    def _inputs_again(self, link: CallLink, message: m.Inputs, known: Collection[int]) -> None:
        """Inputs of which some have ended, as the client has just been told: take the others one by one."""
        for index, payload in enumerate(message.payloads, message.first_index):
            if index not in known:
                self.inputs(link, m.Inputs(message.call_id, index, [payload]))

    def end_inputs(self, message: m.EndInputs) -> None:
        """All inputs have been sent."""
        call = self._router.calls.get(message.call_id)
        if call is not None:
            self._router.complete_inputs(call, message.total)
            self._forget_if_over(call)

    def credit(self, message: m.Credit) -> None:
        """A reader took items of a generator."""
        call = self._router.calls.get(message.call_id)
        if call is not None and 0 < message.items < 2**32:
            self._router.credit(call, message.items)

    def cancel(self, message: m.CancelCall) -> None:
        """The client does not want the results."""
        call = self._router.calls.get(message.call_id)
        if call is not None:
            self._router.cancel(call, terminate_containers=message.terminate_containers)

    def link_lost(self, link: CallLink) -> None:
        """Cancel the link's calls, unless their client is back within the grace."""
        lost = [call_id for call_id, its in self._links.items() if its is link]
        if lost:
            self._router.effects.later(GRACE_MS, lambda: self._cancel_orphans(lost, link))

    def _cancel_orphans(self, call_ids: list[str], link: CallLink) -> None:
        for call_id in call_ids:
            call = self._router.calls.get(call_id)
            if self._links.get(call_id) is link:
                self._links.pop(call_id)
                self._undelivered.pop(call_id, None)
                if call is not None:
                    self._router.cancel(call)

    def _open(self, link: CallLink, call_id: str, function_id: str, method: str, kind: CallKind) -> Call | None:
        try:
            ids.check(call_id, ids.CALL)
            pool = self._pools.pool(function_id)
            if pool.spec.method(method) is None:
                raise NotFoundError(f"{pool.spec.name} has no method {method[:64]!r}")
            if kind.is_durable:
                raise InvalidError(f"a {kind} call is not made over an open link")
        except JitneyError as error:
            link.send(m.Refused(call_id, 0, 1, error.code, error.message, error.hint))
            return None
        call = self._router.calls.get(call_id)
        if call is None and call_id in self._undelivered:
            self._catch_up(link, call_id)  # it is over: there is nothing to open
            self._links.pop(call_id, None)
            return None
        if call is None:
            now_ms, by_file = self._router.effects.wall_ms(), link.role == "container"
            call = self._router.open_call(Call(call_id, pool, method, kind, self, now_ms, by_file=by_file))
            if link.role == "client":  # an app's own containers do not keep it alive
                self._pools.used_by(pool.app_id, link)
        self._links[call_id] = link
        self._catch_up(link, call_id)
        return call

    def _catch_up(self, link: CallLink, call_id: str) -> None:
        """Send what ended while the client was away, and remember its indices: it will send those inputs again."""
        for message in self._undelivered.pop(call_id, ()):
            link.send(message)
            if isinstance(message, m.Outputs):
                self._caught_up.setdefault(call_id, set()).update(output.index for output in message.outputs)
                self._caught_up.move_to_end(call_id)
        while len(self._caught_up) > CAUGHT_UP_MAX:
            self._caught_up.popitem(last=False)

    # ------------------------------------------------------------------------------------------- Sink

    def outputs(self, call: Call, outputs: list[Output]) -> None:
        """Results to the client."""
        self._send(call, m.Outputs(call.id, outputs))
        self._forget_if_over(call)

    def items(self, call: Call, first: int, payloads: list[bytes]) -> None:
        """Yielded values to the client."""
        self._send(call, m.Items(call.id, first, payloads))

    def failed(self, item: Input) -> None:
        """The client need not know of attempts."""

    def _send(self, call: Call, message: m.Message) -> None:
        link = self._links.get(call.id)
        if link is not None and link.is_open:
            link.send(message)
        elif link is not None:
            waiting = self._undelivered.setdefault(call.id, [])
            if len(waiting) < UNDELIVERED_MAX:
                waiting.append(message)

    def _forget_if_over(self, call: Call) -> None:
        if call.is_over:
            link = self._links.get(call.id)
            if link is not None and link.is_open:
                del self._links[call.id]
