"""The data plane: inputs in, results out. Everything here happens in one turn of the loop and in memory.

Theory. A pool has one fair queue and some containers. An input is in exactly one place: the queue, the hands of one
container (`inflight`, under a token that is its lease), a retry timer, or done. Whatever arrives (inputs, a result, a
free slot, a lost container) moves inputs between these places and then *dispatches*: queued inputs go to containers with
room at once, and where some are left the autoscaler is woken in the same turn.

Tokens are the fence. `Container.inflight` maps the token to the input; a result whose token is not there is of an
attempt that was given up: it is counted and dropped. Nothing else decides whether a result counts.

After a restart of the server, containers that lived on say which inputs they hold (`foreign`). A client that sends such
an input again, or the store that loads it, meets it there instead of running it twice; a result that is first is kept
in `early` until its input arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from jitney.core import admission, retries, routing
from jitney.core.admission import Refusal
from jitney.core.lifecycle import container as container_life
from jitney.core.lifecycle.call import Event
from jitney.core.retries import Again
from jitney.runner import payload as payloads_of
from jitney.runner import protocol
from jitney.runner.protocol import Result, RunInput
from jitney.server.state import Call, Container, Input, Pool
from jitney.values.calls import STATUS_CODE, CallKind, CallRecord, Output, Status

RECENT_CALLS_MAX = 1_000  # connected calls that ended, kept for `call list`
EARLY_RESULTS_MAX = 10_000
CANCEL_GRACE_MS = 10_000  # code that does not unwind by then loses its container


class Effects(Protocol):
    """What the router asks of the rest of the server."""

    def wake(self, pool: Pool) -> None:
        """Let the autoscaler look at the pool, soon."""

    def interrupt(self, container: Container) -> None:
        """Make its runner look at the link though user code runs."""

    def kill(self, container: Container, reason: str) -> None:
        """End the container at once; its inputs have been taken from it."""

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Run `action` after a delay."""

    def now_ms(self) -> int:
        """Monotonic milliseconds."""

    def wall_ms(self) -> int:
        """Unix milliseconds."""


class Router:
    """Queues, leases and results of all pools."""

    def __init__(self, effects: Effects, tokens: Iterator[int]) -> None:
        self.effects = effects
        self.pools: dict[str, Pool] = {}
        self.calls: dict[str, Call] = {}
        self.recent: deque[CallRecord] = deque(maxlen=RECENT_CALLS_MAX)
        self.stale_results = 0
        self.queued_bytes = 0
        self._tokens = tokens
        self._foreign: dict[tuple[str, int], tuple[Container, int]] = {}
        self._early: dict[tuple[str, int], Result] = {}

    # ------------------------------------------------------------------------------------------- inputs in

    def open_call(self, call: Call) -> Call:
        """Know the call; if its id is known already, that one (a client that came back)."""
        return self.calls.setdefault(call.id, call)

    def admit(self, call: Call, count: int) -> Refusal | None:
        """None if the call's pool takes `count` more inputs now, or why not. An empty queue takes any one frame."""
        load = call.pool.load(self.queued_bytes)
        room = admission.room(load, call.kind)
        if count <= room or (load.queued == 0 and room > 0):
            return None
        return admission.refusal(load, call.kind, call.pool.spec.name)

    def put(self, call: Call, first_index: int, payloads: list[bytes], now_ms: int) -> None:
        """Queue inputs of a call; those that it has already are left alone."""
        if call.cancelled:
            return
        pool, outstanding = call.pool, call.outstanding
        for index, body in enumerate(payloads, first_index):
            if index in outstanding:
                continue
            item = outstanding[index] = Input(call, index, body, now_ms)
            call.inputs += 1
            self.queued_bytes += len(body)
            if (self._foreign or self._early) and self._meets_earlier_attempt(item):
                continue
            pool.queue.put(call.id, item)
        self.dispatch(pool)

    def restore(self, item: Input) -> None:
        """Queue an input loaded from the store (`dispatch` follows)."""
        item.call.outstanding[item.index] = item
        self.queued_bytes += len(item.payload)
        if not self._meets_earlier_attempt(item):
            item.call.pool.queue.put(item.call.id, item)

    def complete_inputs(self, call: Call, total: int) -> None:
        """No more inputs will come; `total` were sent in all."""
        call.inputs = max(call.inputs, total)
        call.inputs_complete = True
        self._close_if_over(call)

    def _meets_earlier_attempt(self, item: Input) -> bool:
        key = (item.call.id, item.index)
        early = self._early.pop(key, None)
        if early is not None:
            item.attempt = 1
            ended: dict[Call, list[Output]] = {}
            self._end(item, Status(early.status), early.payload, ended)
            self.queued_bytes -= len(item.payload)
            self._deliver(ended)
            return True
        held = self._foreign.pop(key, None)
        if held is None:
            return False
        container, token = held
        container.foreign.pop(token, None)
        container.inflight[token] = item
        item.token, item.attempt, item.leased_at_ms = token, 1, self.effects.now_ms()
        self.queued_bytes -= len(item.payload)
        item.move(Event.LEASE)
        return True

    # ------------------------------------------------------------------------------------------- dispatch

    def dispatch(self, pool: Pool) -> None:
        """Push queued inputs to containers with room; wake the autoscaler if some are left."""
        if not pool.queue:
            return
        ready = pool.ready
        if ready:
            if pool.spec.batching:
                self._dispatch_batches(pool, ready)
            else:
                self._dispatch_inputs(pool, ready)
        if pool.queue:
            self.effects.wake(pool)

    def _dispatch_inputs(self, pool: Pool, ready: list[Container]) -> None:
        capacity = pool.capacity(len(ready))
        if pool.spec.single_use:
            capacity = 1
        if len(ready) > 1:
            ready.sort(key=lambda container: len(container.inflight))
        for position, container in enumerate(ready):
            room = capacity - len(container.inflight)
            if room <= 0:
                break  # sorted: the others hold at least as many
            self.feed(container, min(room, -(-len(pool.queue) // (len(ready) - position))))
            if not pool.queue:
                break

    def feed(self, container: Container, room: int) -> None:
        """Hand over at most `room` queued inputs."""
        queue, frames = container.pool.queue, []
        while room > 0 and queue:
            call_id, items = queue.take(room)
            room -= len(items)
            frames.append(protocol.pack_run(items[0].call.header, self._lease(container, items)))
        if frames and container.link is not None:
            container.link.send(frames[0] if len(frames) == 1 else b"".join(frames))

    def _lease(self, container: Container, items: list[Input]) -> list[RunInput]:
        inflight, run, now_ms = container.inflight, [], self.effects.now_ms()
        if not inflight:
            container.head_since_ms = now_ms
            container.recalled = False
        for item in items:
            item.leased_at_ms = now_ms
            item.token = token = next(self._tokens)
            item.attempt += 1
            item.move(Event.LEASE)
            inflight[token] = item
            self.queued_bytes -= len(item.payload)
            run.append(RunInput(token, item.index, item.attempt, item.payload))
        if container.pool.spec.single_use:
            container.phase = container_life.advance(container.phase, container_life.Event.DRAIN)
        return run

    def _dispatch_batches(self, pool: Pool, ready: list[Container]) -> None:
        """Form lists of inputs, of any calls: full ones, or those whose first input has waited `wait_ms`."""
        batching = pool.spec.batching
        assert batching is not None
        slots = pool.spec.max_inputs * batching.max_batch_size
        for container in sorted(ready, key=lambda container: len(container.inflight)):
            while pool.queue and len(container.inflight) + batching.max_batch_size <= slots:
                now_ms = self.effects.now_ms()
                oldest = pool.queue.oldest(lambda item: item.queued_at_ms)
                assert oldest is not None
                waits_ms = oldest + batching.wait_ms - now_ms
                if len(pool.queue) < batching.max_batch_size and waits_ms > 0:
                    self.effects.later(waits_ms, lambda: self.dispatch(pool))
                    return
                items: list[Input] = []
                while pool.queue and len(items) < batching.max_batch_size:
                    items += pool.queue.take(batching.max_batch_size - len(items))[1]
                header = protocol.batch_header([item.call.id for item in items], items[0].call.method)
                frame = protocol.pack_run(header, self._lease(container, items), batch=True)
                if container.link is not None:
                    container.link.send(frame)

    # ------------------------------------------------------------------------------------------- results out

    def results(self, container: Container, results: list[Result]) -> None:
        """What a runner reports: end or retry each input, deliver, and feed the container again."""
        ended: dict[Call, list[Output]] = {}
        inflight, pool = container.inflight, container.pool
        busy_ns = 0
        for result in results:
            busy_ns += result.duration_ns
            item = inflight.pop(result.token, None)
            if item is None:
                self._unknown_result(container, result)
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
        self._deliver(ended)
        if pool.queue:
            self._refill(container)

    def _refill(self, container: Container) -> None:
        pool = container.pool
        if pool.spec.batching or pool.spec.single_use:
            self.dispatch(pool)
        elif container.takes_inputs:
            capacity = pool.capacity(len(pool.ready))
            held = len(container.inflight)
            if held < capacity if pool.spec.max_inputs > 1 else held <= capacity // 2:  # a frame of many costs as one
                self.feed(container, capacity - held)
            if pool.queue and pool.service_ns is not None:
                self.effects.wake(pool)

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

    def _unknown_result(self, container: Container, result: Result) -> None:
        key = container.foreign.pop(result.token, None)
        if key is not None and len(self._early) < EARLY_RESULTS_MAX:
            self._foreign.pop(key, None)
            self._early[key] = result
        else:
            self.stale_results += 1

    def _end(self, item: Input, status: Status, body: bytes, ended: dict[Call, list[Output]]) -> None:
        call = item.call
        item.move(Event.SUCCEED if status is Status.SUCCESS else Event.FAIL)
        call.outstanding.pop(item.index, None)
        if status is Status.SUCCESS:
            call.succeeded += 1
        else:
            call.failed += 1
        output = Output(item.index, int(status), body)
        ended.setdefault(call, []).append(output)

    def _failed(self, item: Input, status: Status, body: bytes, ended: dict[Call, list[Output]]) -> None:
        """An attempt went wrong: by the rules of core.retries, again or for good."""
        call, pool = item.call, item.call.pool
        if call.cancelled:
            return
        decision = retries.after(status, item.failures, pool.spec.retries, is_generator=call.is_generator)
        item.failures = decision.failures
        if pool.stopped or not isinstance(decision, Again):
            self._end(item, status, body, ended)
            return
        call.sink.failed(item)
        self.queued_bytes += len(item.payload)
        if decision.delay_ms == 0:
            item.move(Event.GIVE_BACK)
            pool.queue.give_back(call.id, item)
            return
        item.move(Event.POSTPONE)
        pool.waiting += 1
        self.effects.later(decision.delay_ms, lambda: self._due(item))

    def _due(self, item: Input) -> None:
        pool = item.call.pool
        pool.waiting -= 1
        item.move(Event.DUE)
        if item.index in item.call.outstanding:
            pool.queue.put(item.call.id, item)
            self.dispatch(pool)

    def _deliver(self, ended: dict[Call, list[Output]]) -> None:
        for call, outputs in ended.items():
            call.sink.outputs(call, outputs)
            self._close_if_over(call)

    def _close_if_over(self, call: Call) -> None:
        if call.is_over and self.calls.pop(call.id, None) is not None:
            call.ended_at_ms = self.effects.wall_ms()
            if not call.kind.is_durable:
                self.recent.append(call.record())

    # ------------------------------------------------------------------------------------------- taking back

    def recalled(self, container: Container, tokens: list[int]) -> None:
        """A runner gives back inputs that it has not started."""
        self._give_back([item for token in tokens if (item := container.inflight.pop(token, None)) is not None])
        self.dispatch(container.pool)

    def _give_back(self, items: list[Input]) -> None:
        for item in reversed(items):
            if item.call.cancelled:
                continue
            item.attempt -= 1
            item.move(Event.GIVE_BACK)
            self.queued_bytes += len(item.payload)
            item.call.pool.queue.give_back(item.call.id, item)

    def lost(self, container: Container, status: Status, why: str, *, running: int | None = None) -> None:
        """The container is gone: what it worked on ends or runs again by `status`; what it had not begun is queued.

        `running` is how many of its inputs, oldest first, are taken to have been running (default: as many as the
        pool's containers work on at a time).
        """
        pool = container.pool
        held = list(container.inflight.values())
        container.inflight.clear()
        for key in container.foreign.values():
            self._foreign.pop(key, None)
        container.foreign.clear()
        slots = pool.spec.target_inputs if pool.spec.batching else pool.spec.max_inputs
        count = slots if running is None else running
        ended: dict[Call, list[Output]] = {}
        body = failure(status, why)
        self._give_back(held[count:])
        for item in held[:count]:
            self._failed(item, status, body, ended)
        self._deliver(ended)
        self.dispatch(pool)

    def fail_queued(self, pool: Pool, status: Status, body: bytes) -> None:
        """No container will ever take what is queued: end it."""
        ended: dict[Call, list[Output]] = {}
        for item in pool.queue.clear():
            self.queued_bytes -= len(item.payload)
            self._end(item, status, body, ended)
        self._deliver(ended)

    def cancel(self, call: Call, *, terminate_containers: bool = False) -> None:
        """End a call: what is queued ends now; what runs is interrupted, and its container is free when it unwinds."""
        if call.cancelled:
            return
        call.cancelled = True
        pool = call.pool
        for item in pool.queue.remove_call(call.id):
            self.queued_bytes -= len(item.payload)
        for container in list(pool.containers.values()):
            tokens = [token for token, item in container.inflight.items() if item.call is call]
            if not tokens:
                continue
            if terminate_containers:
                self._end_held(container, tokens)
                self.effects.kill(container, "the call was cancelled with terminate_containers")
                self.lost(container, Status.INTERNAL_FAILURE, "another call's cancellation ended the container")
            elif container.link is not None:
                container.link.send(protocol.pack_tokens(protocol.CANCEL, tokens))
                self.effects.interrupt(container)
                self._forget_waiting(container, tokens)
                container.head_since_ms = self.effects.now_ms()  # from here the grace of check() runs
        body = failure(Status.TERMINATED, "the call was cancelled")
        outputs = [Output(index, int(Status.TERMINATED), body) for index in call.outstanding]
        for item in call.outstanding.values():
            item.move(Event.CANCEL)
        call.failed += len(outputs)
        call.outstanding.clear()
        call.sink.outputs(call, outputs)
        self._close_if_over(call)

    def _end_held(self, container: Container, tokens: list[int]) -> None:
        for token in tokens:
            container.inflight.pop(token).move(Event.CANCEL)

    def _forget_waiting(self, container: Container, tokens: list[int]) -> None:
        """Of cancelled inputs only those that run hold their place: the runner drops the others without a word."""
        running = set(list(container.inflight)[: container.pool.spec.max_inputs])
        for token in tokens:
            if token in running:
                container.inflight[token].leased_at_ms = self.effects.now_ms()
            else:
                container.inflight.pop(token, None)

    # ------------------------------------------------------------------------------------------- watching

    def adopt(self, container: Container, held: list[tuple[int, str, int]]) -> None:
        """A container that came back holds these: (token, call id, index)."""
        for token, call_id, index in held:
            if token in container.inflight:
                continue
            call = self.calls.get(call_id)
            item = call.outstanding.get(index) if call else None
            if item is not None and item.phase.value != "queued":
                continue  # leased elsewhere meanwhile: the fence will drop this one's result
            container.foreign[token] = (call_id, index)
            self._foreign[call_id, index] = (container, token)

    def check(self, container: Container, now_ms: int) -> None:
        """Regularly: a head past its timeout, or inputs stranded behind a long one."""
        inflight = container.inflight
        if not inflight:
            return
        pool = container.pool
        head = next(iter(inflight.values()))
        head_ms = now_ms - (head.leased_at_ms if pool.spec.max_inputs > 1 else container.head_since_ms)
        if head.call.cancelled:
            if head_ms > CANCEL_GRACE_MS:
                self.effects.kill(container, "a cancelled input did not end")
                self.lost(container, Status.INTERNAL_FAILURE, "its container was ended for a cancelled input")
            return
        if head_ms > pool.spec.timeout_ms:
            self._time_out(container)
            return
        waiting = len(inflight) - pool.spec.max_inputs
        if head_ms > routing.STRANDED_MS and waiting > 0 and not container.recalled and not pool.spec.batching:
            container.recalled = True
            pool.service_ns = routing.smooth(pool.service_ns, head_ms * 1_000_000)
            if container.link is not None:
                tokens = list(inflight)[pool.spec.max_inputs :]
                container.link.send(protocol.pack_tokens(protocol.RECALL, tokens))
                self.effects.interrupt(container)

    def _time_out(self, container: Container) -> None:
        pool = container.pool
        ended: dict[Call, list[Output]] = {}
        count = pool.spec.target_inputs if pool.spec.batching else 1
        body = failure(Status.TIMEOUT, f"{pool.spec.name} ran longer than its timeout of {pool.spec.timeout_ms / 1000:g} s")
        for token in list(container.inflight)[:count]:
            item = container.inflight.pop(token)
            self._failed(item, Status.TIMEOUT, body, ended)
        self.effects.kill(container, "an input ran past its timeout")
        self._deliver(ended)
        self.lost(container, Status.INTERNAL_FAILURE, "the container was ended for another input's timeout")


def failure(status: Status, why: str) -> bytes:
    """The payload of a failure that the server itself reports."""
    return payloads_of.encode_failure_text(STATUS_CODE[status], why, "")
