"""From the queue to containers: who gets which inputs, in which frames, under which lease.

Everything here happens in one turn of the loop. Where inputs are left over the autoscaler is woken in the same turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from jitney.core.lifecycle import container as container_life
from jitney.core.lifecycle.call import Event
from jitney.runner import protocol
from jitney.runner.protocol import RunInput
from jitney.server.state import Container, Input, Pool


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


class Dispatcher:
    """Moves inputs from queues to containers and back. Owns the tokens, and the count of queued bytes."""

    def __init__(self, effects: Effects, tokens: Iterator[int]) -> None:
        self.queued_bytes = 0
        self._effects = effects
        self._tokens = tokens

    def queue(self, item: Input) -> None:
        """Put a new input, or one whose retry is due, at the end of its call."""
        self.queued_bytes += len(item.payload)
        item.call.pool.queue.put(item.call.id, item)

    def give_back(self, items: list[Input]) -> None:
        """Leased inputs that nobody has begun go back to the head of their calls, in their order."""
        for item in reversed(items):
            if not item.call.cancelled:
                item.attempt -= 1
                self.requeue(item)

    def requeue(self, item: Input) -> None:
        """A leased input runs again at once."""
        item.move(Event.GIVE_BACK)
        self.queued_bytes += len(item.payload)
        item.call.pool.queue.give_back(item.call.id, item)

    def unqueue(self, items: list[Input]) -> list[Input]:
        """Account for inputs that were taken out of a queue, other than to a container."""
        self.queued_bytes -= sum(len(item.payload) for item in items)
        return items

    def unqueue_one(self, item: Input) -> None:
        """Take one input out of its queue, other than to a container."""
        item.call.pool.queue.remove(item.call.id, item)
        self.queued_bytes -= len(item.payload)

    def dispatch(self, pool: Pool) -> None:
        """Push queued inputs to containers with room; wake the autoscaler if some are left."""
        if not pool.queue or pool.awaited:
            return  # what is awaited may hold some of them: they must not run twice
        ready = pool.ready
        if ready:
            if pool.spec.batching:
                self._dispatch_batches(pool, ready)
            else:
                self._dispatch_inputs(pool, ready)
        if pool.queue:
            self._effects.wake(pool)

    def refill(self, container: Container) -> None:
        """A container has reported results: feed it again."""
        pool = container.pool
        if pool.spec.batching or pool.spec.single_use or pool.awaited:
            self.dispatch(pool)
        elif container.takes_inputs:
            capacity = pool.capacity(len(pool.ready))
            held = len(container.inflight)
            if held < capacity if pool.spec.max_inputs > 1 else held <= capacity // 2:  # a frame of many costs as one
                self.feed(container, capacity - held)
            if pool.queue:
                self._effects.wake(pool)

    def feed(self, container: Container, room: int) -> None:
        """Hand over at most `room` queued inputs."""
        queue, frames = container.pool.queue, []
        while room > 0 and queue:
            items = queue.take(room)[1]
            room -= len(items)
            frames.append(protocol.pack_run(items[0].call.header, self._lease(container, items)))
        if frames and container.link is not None:
            container.link.send(frames[0] if len(frames) == 1 else b"".join(frames))

    def _dispatch_inputs(self, pool: Pool, ready: list[Container]) -> None:
        capacity = 1 if pool.spec.single_use else pool.capacity(len(ready))
        if len(ready) > 1:
            ready.sort(key=lambda container: len(container.inflight))
        for position, container in enumerate(ready):
            room = capacity - len(container.inflight)
            if room <= 0:
                break  # sorted: the others hold at least as many
            self.feed(container, min(room, -(-len(pool.queue) // (len(ready) - position))))
            if not pool.queue:
                break

    def _dispatch_batches(self, pool: Pool, ready: list[Container]) -> None:
        """Form lists of inputs, of any calls: full ones, or those whose first input has waited `wait_ms`."""
        batching = pool.spec.batching
        assert batching is not None
        slots = pool.spec.max_inputs * batching.max_batch_size
        for container in sorted(ready, key=lambda container: len(container.inflight)):
            while pool.queue and len(container.inflight) + batching.max_batch_size <= slots:
                oldest = pool.queue.oldest(lambda item: item.queued_at_ms)
                assert oldest is not None
                waits_ms = oldest + batching.wait_ms - self._effects.now_ms()
                if len(pool.queue) < batching.max_batch_size and waits_ms > 0:
                    self._effects.later(waits_ms, lambda: self.dispatch(pool))
                    return
                items: list[Input] = []
                while pool.queue and len(items) < batching.max_batch_size:
                    items += pool.queue.take(batching.max_batch_size - len(items))[1]
                by_file = any(item.call.by_file for item in items)
                header = protocol.batch_header([item.call.id for item in items], items[0].call.method, by_file)
                frame = protocol.pack_run(header, self._lease(container, items), batch=True)
                if container.link is not None:
                    container.link.send(frame)

    def _lease(self, container: Container, items: list[Input]) -> list[RunInput]:
        inflight, run, now_ms = container.inflight, [], self._effects.now_ms()
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
