"""The data plane: inputs in, results out. Everything here happens in one turn of the loop and in memory.

Theory. A pool has one fair queue and some containers. An input is in exactly one place: the queue, the hands of one
container (`inflight`, under a token that is its lease), a retry timer, or done. Whatever arrives (inputs, a result, a
free slot, a lost container) moves inputs between these places and then *dispatches* (see `dispatch`).

Tokens are the fence. `Container.inflight` maps the token to the input; a result whose token is not there is of an
attempt that was given up: it is counted and dropped. Nothing else decides whether a result counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jitney.core import admission, retries, routing
from jitney.core.admission import Refusal
from jitney.core.lifecycle.call import Event, Phase
from jitney.core.retries import Again
from jitney.runner import failures, protocol
from jitney.runner.protocol import Result
from jitney.server.dispatch import Dispatcher, Effects
from jitney.server.reattach import Reattached
from jitney.server.state import Call, Container, Input, Pool
from jitney.values.calls import STATUS_CODE, CallRecord, Output, Status

RECENT_CALLS_MAX = 1_000  # connected calls that ended, kept for `call list`

Ended = dict[Call, list[Output]]


class Router:
    """Queues, leases and results of all pools."""

    def __init__(self, effects: Effects, tokens: Iterator[int]) -> None:
        self.effects = effects
        self.pools: dict[str, Pool] = {}
        self.calls: dict[str, Call] = {}
        self.recent: deque[CallRecord] = deque(maxlen=RECENT_CALLS_MAX)
        self.stale_results = 0
        self._dispatcher = Dispatcher(effects, tokens)
        self._reattached = Reattached()
        self.dispatch = self._dispatcher.dispatch

    # ------------------------------------------------------------------------------------------- inputs in

    def open_call(self, call: Call) -> Call:
        """Know the call; if its id is known already, that one (a client that came back)."""
        return self.calls.setdefault(call.id, call)

    def admit(self, call: Call, count: int) -> Refusal | None:
        """None if the call's pool takes `count` more inputs now, or why not. An empty queue takes any one frame."""
        load = call.pool.load(self._dispatcher.queued_bytes)
        room = admission.room(load, call.kind)
        if count <= room or (load.queued == 0 and room > 0):
            return None
        return admission.refusal(load, call.kind, call.pool.spec.name)

    def put(self, call: Call, first_index: int, payloads: list[bytes], now_ms: int) -> None:
        """Queue inputs of a call; those that it has already are left alone."""
        if call.cancelled:
            return
        outstanding = call.outstanding
        for index, body in enumerate(payloads, first_index):
            if index not in outstanding:
                call.inputs += 1
                self.restore(Input(call, index, body, now_ms))
        self.dispatch(call.pool)

    def restore(self, item: Input) -> None:
        """Queue one input (`dispatch` follows), unless an earlier run of the server has given it to a container."""
        item.call.outstanding[item.index] = item
        if not (self._reattached and self._meets_earlier_attempt(item)):
            self._dispatcher.queue(item)

    def complete_inputs(self, call: Call, total: int) -> None:
        """No more inputs will come; `total` were sent in all."""
        call.inputs = max(call.inputs, total)
        call.inputs_complete = True
        self._close_if_over(call)

    def _meets_earlier_attempt(self, item: Input) -> bool:
        key = (item.call.id, item.index)
        early = self._reattached.early(key)
        if early is not None:
            self._end_all([item], Status(early.status), early.payload)
            return True
        held = self._reattached.holder(key)
        if held is None:
            return False
        self._resume(held[0], held[1], item)
        return True

    def _resume(self, container: Container, token: int, item: Input) -> None:
        """The container works on the input already, under a token of an earlier run of the server."""
        container.inflight[token] = item
        item.token, item.attempt, item.leased_at_ms = token, 1, self.effects.now_ms()
        item.move(Event.LEASE)

    # ------------------------------------------------------------------------------------------- results out

    def results(self, container: Container, results: list[Result]) -> None:
        """What a runner reports: end or retry each input, deliver, and feed the container again."""
        ended: Ended = {}
        inflight, pool = container.inflight, container.pool
        busy_ns = 0
        for result in results:
            busy_ns += result.duration_ns
            item = inflight.pop(result.token, None)
            if item is None:
                if not self._reattached.ended(container, result):
                    self.stale_results += 1
            elif item.call.cancelled:
                pass  # it has ended; its place in the container is free now
            elif result.status == protocol.SUCCESS:
                self._end(item, Status.SUCCESS, result.payload, ended)
            else:
                self._failed(item, Status.FAILURE, result.payload, ended)
        now_ms = self.effects.now_ms()
        container.inputs_done += len(results)
        container.busy_ns += busy_ns
        container.head_since_ms = now_ms
        container.recalled = False
        pool.service_ns = routing.smooth(pool.service_ns, busy_ns // max(len(results), 1))
        if container.is_idle:
            container.idle_since_ms = now_ms
        if pool.spec.single_use and container.is_idle and container.link is not None:
            container.link.send(protocol.pack_json(protocol.STOP, {"grace_ms": 0}))
        elif pool.queue:
            self._dispatcher.refill(container)
        self._deliver(ended)

    def items(self, container: Container, token: int, first: int, payloads: list[bytes]) -> None:
        """A generator yielded."""
        item = container.inflight.get(token)
        if item is None:
            self.stale_results += len(payloads)
        elif not item.call.cancelled:
            item.call.sink.items(item.call, first, payloads)

    def credit(self, call: Call, items: int) -> None:
        """The reader of a generator call took some: let the generator run further ahead."""
        for item in call.outstanding.values():
            for container in call.pool.containers.values():
                if item.token in container.inflight and container.link is not None:
                    container.link.send(protocol.pack_credit(item.token, items))

    def _end(self, item: Input, status: Status, body: bytes, ended: Ended) -> None:
        call = item.call
        item.move(Event.SUCCEED if status is Status.SUCCESS else Event.FAIL)
        call.outstanding.pop(item.index, None)
        if status is Status.SUCCESS:
            call.succeeded += 1
            call.pool.succeeded += 1
        else:
            call.failed += 1
            call.pool.failed += 1
        ended.setdefault(call, []).append(Output(item.index, int(status), body))

    def _failed(self, item: Input, status: Status, body: bytes, ended: Ended) -> None:
        """An attempt went wrong: by the rules of core.retries, again or for good."""
        call, pool = item.call, item.call.pool
        if call.cancelled:
            return
        if pool.stopped:
            self._end(item, Status.TERMINATED, failure(Status.TERMINATED, "the app was stopped"), ended)
            return
        decision = retries.after(status, item.failures, pool.spec.retries, is_generator=call.is_generator)
        item.failures = decision.failures
        if not isinstance(decision, Again):
            self._end(item, status, body, ended)
            return
        call.sink.failed(item)
        if decision.delay_ms == 0:
            self._dispatcher.requeue(item)
            return
        item.move(Event.POSTPONE)
        pool.waiting += 1
        self.effects.later(decision.delay_ms, lambda: self._due(item))

    def _due(self, item: Input) -> None:
        item.call.pool.waiting -= 1
        item.move(Event.DUE)
        if item.index not in item.call.outstanding:
            return  # cancelled meanwhile
        if item.call.pool.stopped:
            self._end_all([item], Status.TERMINATED, failure(Status.TERMINATED, "the app was stopped"))
            return
        self._dispatcher.queue(item)
        self.dispatch(item.call.pool)

    def _end_all(self, items: list[Input], status: Status, body: bytes) -> None:
        ended: Ended = {}
        for item in items:
            self._end(item, status, body, ended)
        self._deliver(ended)

    def _deliver(self, ended: Ended) -> None:
        for call, outputs in ended.items():
            call.sink.outputs(call, outputs)
            self._close_if_over(call)

    def _close_if_over(self, call: Call) -> None:
        if call.is_over and self.calls.pop(call.id, None) is not None:
            call.ended_at_ms = self.effects.wall_ms()
            if not call.kind.is_durable:
                self.recent.append(call.record())

    # ------------------------------------------------------------------------------------------- taking back

    def adopt(self, container: Container, held: list[tuple[int, str, int]]) -> None:
        """A container that came back holds these: (token, call id, index)."""
        if container.id in container.pool.awaited:
            for token, call_id, index in held:
                call = self.calls.get(call_id)
                item = call.outstanding.get(index) if call is not None else None
                if item is not None and item.phase is Phase.QUEUED:  # it was asked for again before we heard of this
                    self._dispatcher.unqueue_one(item)
                    self._resume(container, token, item)
        self._reattached.adopt(container, held, self.calls, self.effects.now_ms())
        self.settle(container)

    def settle(self, container: Container) -> None:
        """It has said what it holds, or it will not: it is waited for no longer."""
        pool = container.pool
        if container.id in pool.awaited:
            pool.awaited.discard(container.id)
            self.dispatch(pool)

    def end_unclaimed(self, now_ms: int) -> None:
        """Regularly: end containers that work, since before a restart, on what nobody has asked for again."""
        for container in self._reattached.give_up(now_ms):
            self.effects.kill(container, "nobody came back for what it worked on")

    def recalled(self, container: Container, tokens: list[int]) -> None:
        """A runner gives back inputs that it has not started."""
        items = [item for token in tokens if (item := container.inflight.pop(token, None)) is not None]
        self._dispatcher.give_back(items)
        self.dispatch(container.pool)

    def lost(self, container: Container, status: Status, why: str) -> None:
        """The container is gone: what it worked on ends or runs again by `status`; what it had not begun is queued.

        The oldest of its inputs, as many as it works on at a time, are taken to have been running.
        """
        pool = container.pool
        held = list(container.inflight.values())
        container.inflight.clear()
        self._reattached.forget(container)
        running = pool.spec.target_inputs if pool.spec.batching else pool.spec.max_inputs
        ended: Ended = {}
        body = failure(status, why)
        self._dispatcher.give_back(held[running:])
        for item in held[:running]:
            self._failed(item, status, body, ended)
        self._deliver(ended)
        self.dispatch(pool)

    def fail_running(self, container: Container, count: int, status: Status, body: bytes) -> None:
        """The attempts of the oldest `count` inputs of a container have failed; nobody waits for them."""
        ended: Ended = {}
        for token in list(container.inflight)[:count]:
            self._failed(container.inflight.pop(token), status, body, ended)
        self._deliver(ended)

    def fail_queued(self, pool: Pool, status: Status, body: bytes) -> None:
        """No container will ever take what is queued: end it."""
        self._end_all(self._dispatcher.unqueue(pool.queue.clear()), status, body)

    def cancel(self, call: Call, *, terminate_containers: bool = False, why: str = "the call was cancelled") -> None:
        """End a call: what is queued ends now; what runs is interrupted, and its container is free when it unwinds."""
        if call.cancelled:
            return
        call.cancelled = True
        self._dispatcher.unqueue(call.pool.queue.remove_call(call.id))
        for container in list(call.pool.containers.values()):
            tokens = [token for token, item in container.inflight.items() if item.call is call]
            if tokens and terminate_containers:
                self.effects.kill(container, "the call was cancelled with terminate_containers")
                self.lost(container, Status.INTERNAL_FAILURE, "another call's cancellation ended the container")
            elif tokens and container.link is not None:
                container.link.send(protocol.pack_tokens(protocol.CANCEL, tokens))
                self.effects.interrupt(container)
                self._hold_running(container, tokens)
        body = failure(Status.TERMINATED, why)
        outputs = [Output(index, int(Status.TERMINATED), body) for index in call.outstanding]
        for item in call.outstanding.values():
            item.move(Event.CANCEL)
        call.failed += len(outputs)
        call.pool.failed += len(outputs)
        call.outstanding.clear()
        call.sink.outputs(call, outputs)
        self._close_if_over(call)

    def _hold_running(self, container: Container, tokens: list[int]) -> None:
        """Of cancelled inputs only those that run hold their place: the runner drops the others without a word."""
        running = set(list(container.inflight)[: container.pool.spec.max_inputs])
        container.head_since_ms = self.effects.now_ms()  # from here its grace runs, see watch
        for token in tokens:
            if token in running:
                container.inflight[token].leased_at_ms = container.head_since_ms
            else:
                container.inflight.pop(token)


def failure(status: Status, why: str) -> bytes:
    """The payload of a failure that the server itself reports."""
    return failures.encode_failure_text(STATUS_CODE[status], why, "")
