"""Durable calls: `spawn` and `spawn_map`. The store is the log: an input is acknowledged when it is on disk, and its
result is given out when that is.

Many results that end in one turn of the loop are one write; the store groups the writes of many turns into one fsync.
Inputs of durable calls wait in memory too, in the pool's queue, like all others: admission bounds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from jitney.core.retries import Failures
from jitney.errors import JitneyError, NotFoundError, ResourceExhaustedError
from jitney.ports.store import Failure, Pending, Result, Store
from jitney.server.connected import Pools
from jitney.server.router import Router, failure
from jitney.server.state import Call, Input
from jitney.values import ids
from jitney.values.calls import CallKind, CallRecord, InputRecord, Output, Status
from jitney.wire.messages.calls import CallOutputs, CallOutputsAnswer, CallSpawn, CallSpawned

log = logging.getLogger("jitney.durable")

RETRY_S = 0.5  # a store that is full or busy is asked again


class Durable:
    """Calls that live in the store. One object for all; it is the sink of each of them."""

    def __init__(
        self, store: Store, router: Router, pools: Pools, run: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._store = store
        self._router = router
        self._pools = pools
        self._run = run
        self._results: list[Result] = []
        self._failures: list[Failure] = []
        self._writing = False
        self._waiters: dict[str, set[asyncio.Event]] = {}

    # ------------------------------------------------------------------------------------------- requests

    async def spawn(self, request: CallSpawn) -> CallSpawned:
        """Record inputs, then queue them.

        Raises:
            ResourceExhaustedError: the pool's queue is full. StorageFullError: nothing was recorded.
        """
        ids.check(request.call_id, ids.CALL)
        pool = self._pools.pool(request.function_id)
        if pool.spec.method(request.method) is None:
            raise NotFoundError(f"{pool.spec.name} has no method {request.method!r}")
        call = self._call(request.call_id, request.function_id, request.method, request.kind)
        refusal = self._router.admit(call, len(request.payloads))
        if refusal is not None:
            self._drop_if_empty(call)
            raise ResourceExhaustedError(refusal.message, hint=refusal.hint)
        record = CallRecord(
            call_id=call.id,
            function_id=pool.function_id,
            function_name=pool.spec.name,
            app_id=pool.app_id,
            method=request.method,
            kind=request.kind,
            created_at_ms=call.created_at_ms,
            inputs_complete=request.complete,
        )
        inputs = [InputRecord(call.id, index, body) for index, body in enumerate(request.payloads, request.first_index)]
        try:
            spawned = await self._store.calls.spawn(record, inputs)
        except JitneyError:
            self._drop_if_empty(call)
            raise
        self._queue(call, spawned.pending)
        call.inputs = spawned.call.inputs
        if spawned.call.inputs_complete:
            self._router.complete_inputs(call, spawned.call.inputs)
        return CallSpawned(call_id=call.id, inputs=spawned.call.inputs)

    async def outputs(self, request: CallOutputs) -> CallOutputsAnswer:
        """Results from `start` on; waits for the first.

        Raises:
            NotFoundError: no such call.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + request.timeout_ms / 1000
        while True:
            wake = asyncio.Event()
            waiters = self._waiters.setdefault(request.call_id, set())
            waiters.add(wake)
            try:
                outputs = await self._store.calls.outputs(
                    request.call_id, start=request.start, limit=max(1, min(request.limit, 1_000))
                )
                record = await self.record(request.call_id)
                at_end = record.inputs_complete and request.start >= record.inputs
                left_s = until - loop.time()
                if outputs or at_end or left_s <= 0:
                    return CallOutputsAnswer(
                        outputs=outputs, inputs=record.inputs, inputs_complete=record.inputs_complete
                    )
                try:
                    await asyncio.wait_for(wake.wait(), left_s)
                except TimeoutError:
                    pass
            finally:
                waiters.discard(wake)
                if not waiters:
                    self._waiters.pop(request.call_id, None)

    async def record(self, call_id: str) -> CallRecord:
        """The call as recorded.

        Raises:
            NotFoundError: no such call.
        """
        record = await self._store.calls.get(call_id)
        if record is None:
            raise NotFoundError(f"no call {call_id[:64]!r}", hint="results are kept for seven days")
        return record

    async def cancel(self, call_id: str, now_ms: int, *, terminate_containers: bool) -> None:
        """End a durable call, on disk first: after the answer no new attempt starts, also after a restart."""
        await self._store.calls.cancel(call_id, now_ms)
        call = self._router.calls.get(call_id)
        if call is not None:
            self._router.cancel(call, terminate_containers=terminate_containers)
        self._wake(call_id)

    # ------------------------------------------------------------------------------------------- restart

    async def load(self) -> int:
        """Queue what the store has without a result: after a restart. Gives the number of inputs."""
        after, count = None, 0
        while True:
            page: Pending = await self._store.calls.pending(after, limit=1_000)
            records = {record.call_id: record for record in page.calls}
            for item in page.inputs:
                count += self._restore(records[item.call_id], item)
            if page.after is None or not page.inputs:
                return count
            after = page.after

    def _restore(self, record: CallRecord, item: InputRecord) -> int:
        try:
            call = self._call(record.call_id, record.function_id, record.method, record.kind)
        except NotFoundError:
            body = failure(Status.TERMINATED, "the app of the call has stopped")
            self._results.append(Result(item.call_id, Output(item.index, int(Status.TERMINATED), body), 0))
            self._write()
            return 0
        call.created_at_ms = record.created_at_ms
        call.inputs, call.inputs_complete = record.inputs, record.inputs_complete
        call.succeeded, call.failed = record.succeeded, record.failed
        self._queue(call, [item])
        return 1

    # ------------------------------------------------------------------------------------------- results

    def record_outputs(self, call: Call, outputs: list[Output]) -> None:
        """Inputs of `call` have ended."""
        now_ms = self._router.effects.wall_ms()
        self._results += [Result(call.id, output, now_ms) for output in outputs]
        self._write()

    def record_failure(self, item: Input) -> None:
        """An attempt failed: the store must know, so that a restart gives no extra retries."""
        self._failures.append(Failure(item.call.id, item.index, item.failures.user, item.failures.crashes))
        self._write()

    def _write(self) -> None:
        if not self._writing:
            self._writing = True
            self._run(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._results or self._failures:
                results, self._results = self._results, []
                failures, self._failures = self._failures, []
                await self._write_batch(results, failures)
                for call_id in {result.call_id for result in results}:
                    self._wake(call_id)
        finally:
            self._writing = False

    async def _write_batch(self, results: list[Result], failures: list[Failure]) -> None:
        """Until it is written: a result is never dropped for a disk that is full now."""
        while True:
            try:
                if failures:
                    await self._store.calls.failures(failures)
                if results:
                    await self._store.calls.finish(results)
                return
            except JitneyError as error:
                log.error("results wait for the store: %s", error)
                if not error.retryable:
                    return
                await asyncio.sleep(RETRY_S)

    # ------------------------------------------------------------------------------------------- pieces

    def _call(self, call_id: str, function_id: str, method: str, kind: CallKind) -> Call:
        call = self._router.calls.get(call_id)
        if call is None:
            pool = self._pools.pool(function_id)
            sink = _Sink(self)
            call = self._router.open_call(Call(call_id, pool, method, kind, sink, self._router.effects.wall_ms()))
        return call

    def _queue(self, call: Call, records: list[InputRecord]) -> None:
        now_ms = self._router.effects.now_ms()
        for record in records:
            if record.index not in call.outstanding:
                item = Input(call, record.index, record.payload, now_ms)
                item.failures = Failures(record.user_failures, record.crashes)
                self._router.restore(item)
        self._router.dispatch(call.pool)

    def _drop_if_empty(self, call: Call) -> None:
        if not call.outstanding and not call.inputs:
            self._router.calls.pop(call.id, None)

    def _wake(self, call_id: str) -> None:
        for waiter in self._waiters.get(call_id, ()):
            waiter.set()


class _Sink:
    """The results of durable calls go to the store."""

    __slots__ = ("_durable",)

    def __init__(self, durable: Durable) -> None:
        self._durable = durable

    def outputs(self, call: Call, outputs: list[Output]) -> None:
        """Record results."""
        self._durable.record_outputs(call, outputs)

    def items(self, call: Call, first: int, payloads: list[bytes]) -> None:
        """A spawned generator has no reader: its items are dropped, its end is recorded."""

    def failed(self, item: Input) -> None:
        """Note the failure."""
        self._durable.record_failure(item)
