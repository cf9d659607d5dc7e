"""Durable calls, in dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from jitney.drivers.store.memory.faults import Faults
from jitney.errors import CancelledError, InvalidError, NotFoundError
from jitney.ports.store import INPUTS_PER_CALL_MAX, OUTPUTS_BYTES_MAX, Dropped, Failure, Pending, Result, Spawned
from jitney.values import ids
from jitney.values.calls import BY_FILE, CallRecord, InputRecord, Output, Status, payload_file


class _Call:
    """A call with its inputs and results. `finished_at_ms` is beside each result."""

    def __init__(self, record: CallRecord) -> None:
        self.record = replace(record, inputs=0, inputs_complete=False, succeeded=0, failed=0, cancelled=False)
        self.record = replace(self.record, ended_at_ms=None)
        self.inputs: list[InputRecord] = []
        self.outputs: dict[int, tuple[Output, int]] = {}
        self.input_files: set[int] = set()  # of results that have not expired

    def unfinished(self) -> list[InputRecord]:
        """Inputs without a result."""
        return [item for item in self.inputs if item.index not in self.outputs]

    def accept(self, output: Output, at_ms: int) -> None:
        """Record a first result."""
        self.outputs[output.index] = (output, at_ms)
        if self.inputs[output.index].payload[:1] == BY_FILE:
            self.input_files.add(output.index)
        if output.status == Status.SUCCESS:
            self.record = replace(self.record, succeeded=self.record.succeeded + 1)
        else:
            self.record = replace(self.record, failed=self.record.failed + 1)
        self.end_if_done(at_ms)

    def end_if_done(self, at_ms: int) -> None:
        """Note the end, once nothing is missing."""
        record = self.record
        if record.inputs_complete and record.ended_at_ms is None and not self.unfinished():
            self.record = replace(record, ended_at_ms=at_ms)

    def drop(self, index: int) -> list[str]:
        """Expire a result: the names of its files."""
        output, at_ms = self.outputs[index]
        files = []
        if index in self.input_files:
            files.append(payload_file(self.record.call_id, index, output=False))
            self.input_files.remove(index)
        if output.payload[:1] == BY_FILE:
            files.append(payload_file(self.record.call_id, index, output=True))
        self.outputs[index] = (Output(index, Status.EXPIRED, b""), at_ms)
        return files


class MemoryCalls:
    """`ports.store.CallStore`."""

    def __init__(self, faults: Faults) -> None:
        self._step = faults.step
        self._calls: dict[str, _Call] = {}

    def _find(self, call_id: str) -> _Call:
        call = self._calls.get(call_id)
        if call is None:
            raise NotFoundError(f"no durable call {call_id[:64]!r}")
        return call

    async def spawn(self, call: CallRecord, inputs: Sequence[InputRecord]) -> Spawned:
        ids.check(call.call_id, ids.CALL)
        return await self._step(lambda: self._spawn(call, inputs))

    def _spawn(self, record: CallRecord, inputs: Sequence[InputRecord]) -> Spawned:
        call = self._calls.get(record.call_id) or _Call(record)
        known = len(call.inputs)
        first = inputs[0].index if inputs else known
        if first > known or first < 0:
            raise InvalidError("there is a gap before these inputs")
        if [(item.call_id, item.index) for item in inputs] != [(record.call_id, first + i) for i in range(len(inputs))]:
            raise InvalidError("these inputs are not in order")
        if first + len(inputs) > INPUTS_PER_CALL_MAX:
            raise InvalidError("too many inputs")
        for field in ("function_id", "method", "kind"):
            if getattr(call.record, field) != getattr(record, field):
                raise InvalidError(f"the call is recorded with another {field}")
        fresh = [item for item in inputs if item.index >= known]
        if fresh and call.record.cancelled:
            raise CancelledError("the call was cancelled")
        if fresh and call.record.inputs_complete:
            raise InvalidError("the call is complete")
        self._calls[record.call_id] = call
        call.inputs += fresh
        complete = call.record.inputs_complete or record.inputs_complete
        call.record = replace(call.record, inputs=len(call.inputs), inputs_complete=complete)
        call.end_if_done(record.created_at_ms)
        sent = {item.index for item in inputs}
        return Spawned(call.record, [item for item in call.unfinished() if item.index in sent])

    async def finish(self, results: Sequence[Result]) -> list[bool]:
        return await self._step(lambda: [self._finish(result) for result in results])

    def _finish(self, result: Result) -> bool:
        call, index = self._calls.get(result.call_id), result.output.index
        if call is None or not 0 <= index < len(call.inputs) or index in call.outputs:
            return False
        call.accept(result.output, result.at_ms)
        return True

    async def failures(self, failures: Sequence[Failure]) -> None:
        def operation() -> None:
            for note in failures:
                call = self._calls.get(note.call_id)
                if call and 0 <= note.index < len(call.inputs) and note.index not in call.outputs:
                    item = call.inputs[note.index]
                    call.inputs[note.index] = replace(item, user_failures=note.user_failures, crashes=note.crashes)

        await self._step(operation)

    async def cancel(self, call_id: str, now_ms: int) -> list[int]:
        def operation() -> list[int]:
            call = self._find(call_id)
            if call.record.ended_at_ms is not None:
                return []
            indices = [item.index for item in call.unfinished()]
            for index in indices:
                call.accept(Output(index, Status.TERMINATED, b""), now_ms)
            call.record = replace(call.record, cancelled=True, inputs_complete=True, ended_at_ms=now_ms)
            return indices

        return await self._step(operation)

    async def expire(self, before_ms: int, *, limit: int = 10_000) -> Dropped:
        def operation() -> Dropped:
            old = [
                (at_ms, order, index)
                for order, call in enumerate(self._calls.values())
                for index, (output, at_ms) in call.outputs.items()
                if at_ms < before_ms and output.status != Status.EXPIRED
            ]
            calls = list(self._calls.values())
            chosen = sorted(old)[:limit]
            return Dropped(len(chosen), [name for _, order, index in chosen for name in calls[order].drop(index)])

        return await self._step(operation)

    async def forget(self, before_ms: int, *, limit: int = 1_000) -> Dropped:
        def operation() -> Dropped:
            ended = [(c.record.ended_at_ms, order, c) for order, c in enumerate(self._calls.values())]
            old = sorted((at, order, c.record.call_id) for at, order, c in ended if at is not None and at < before_ms)
            files: list[str] = []
            for _, _, call_id in old[:limit]:
                call = self._calls.pop(call_id)
                for index in range(len(call.inputs)):
                    files += call.drop(index)
            return Dropped(len(old[:limit]), files)

        return await self._step(operation)

    async def get(self, call_id: str) -> CallRecord | None:
        return await self._step(lambda: self._calls[call_id].record if call_id in self._calls else None)

    async def recent(self, app_id: str = "", *, limit: int = 50) -> list[CallRecord]:
        def operation() -> list[CallRecord]:
            records = [call.record for call in self._calls.values()]
            return [record for record in records[::-1] if app_id in ("", record.app_id)][:limit]

        return await self._step(operation)

    async def outputs(
        self, call_id: str, *, start: int = 0, limit: int = 1, bytes_max: int = OUTPUTS_BYTES_MAX
    ) -> list[Output]:
        def operation() -> list[Output]:
            call = self._find(call_id)
            found: list[Output] = []
            first = max(0, start)
            for index in range(first, min(first + limit, len(call.inputs))):
                if index not in call.outputs:
                    break
                found.append(call.outputs[index][0])
                if len(found) > 1 and sum(len(output.payload) for output in found) > bytes_max:
                    found.pop()
                    break
            return found

        return await self._step(operation)

    async def statuses(self, call_id: str, *, start: int = 0, limit: int = 100) -> list[tuple[int, int]]:
        def operation() -> list[tuple[int, int]]:
            outputs = self._calls[call_id].outputs if call_id in self._calls else {}
            first = max(0, start)
            return sorted((i, int(o.status)) for i, (o, _) in outputs.items() if first <= i < first + limit)

        return await self._step(operation)

    async def pending(self, after: tuple[str, int] | None = None, *, limit: int = 1_000) -> Pending:
        def operation() -> Pending:
            order = list(self._calls)
            begin = (-1, -1) if after is None else (order.index(self._find(after[0]).record.call_id), after[1])
            inputs = [
                item
                for position, call in enumerate(self._calls.values())
                for item in call.unfinished()
                if (position, item.index) > begin
            ][:limit]
            calls = [self._calls[call_id].record for call_id in dict.fromkeys(item.call_id for item in inputs)]
            return Pending(calls, inputs, (inputs[-1].call_id, inputs[-1].index) if inputs else None)

        return await self._step(operation)
