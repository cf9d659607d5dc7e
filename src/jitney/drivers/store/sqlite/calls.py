"""Durable calls: batches are loaded with one query, decided in Python, and written with a few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from jitney.drivers.store.sqlite import queries
from jitney.drivers.store.sqlite.reader import Reader
from jitney.drivers.store.sqlite.writer import Write, Writer, one_by_one
from jitney.errors import CancelledError, InvalidError, JitneyError, NotFoundError
from jitney.ports.store import (
    INPUTS_PER_CALL_MAX,
    OUTPUTS_BYTES_MAX,
    Dropped,
    Failure,
    Pending,
    Result,
    Spawned,
)
from jitney.values import ids
from jitney.values.calls import CallKind, CallRecord, InputRecord, Output, Status, payload_file

INDEX_BITS = 24
INDEX_MASK = (1 << INDEX_BITS) - 1
assert INPUTS_PER_CALL_MAX == INDEX_MASK + 1

SQL = queries.load("calls")
_insert_calls = queries.Insert("calls", (
    "number", "call_id", "function_id", "function_name", "app_id", "method", "kind", "created_at_ms", "ended_at_ms",
    "inputs", "inputs_complete", "succeeded", "failed", "cancelled",
))  # fmt: skip
_insert_inputs = queries.Insert("inputs", ("key", "user_failures", "crashes", "payload"))
_insert_outputs = queries.Insert("outputs", ("key", "status", "at_ms", "input_by_file", "payload"))


class Row(msgspec.Struct, array_like=True):
    """A row of the table `calls`, while a batch works on it. Truth values are 0 and 1."""

    number: int
    call_id: str
    function_id: str
    function_name: str
    app_id: str
    method: str
    kind: CallKind
    created_at_ms: int
    ended_at_ms: int | None
    inputs: int
    inputs_complete: int
    succeeded: int
    failed: int
    cancelled: int

    def record(self) -> CallRecord:
        """As the port gives it."""
        return CallRecord(
            call_id=self.call_id,
            function_id=self.function_id,
            function_name=self.function_name,
            app_id=self.app_id,
            method=self.method,
            kind=self.kind,
            created_at_ms=self.created_at_ms,
            ended_at_ms=self.ended_at_ms,
            inputs=self.inputs,
            inputs_complete=bool(self.inputs_complete),
            succeeded=self.succeeded,
            failed=self.failed,
            cancelled=bool(self.cancelled),
        )

    def key(self, index: int) -> int:
        """Of an input of this call."""
        return self.number << INDEX_BITS | index

    def end_if_done(self, at_ms: int) -> None:
        """Note the end, once nothing is missing."""
        if self.inputs_complete and self.ended_at_ms is None and self.succeeded + self.failed == self.inputs:
            self.ended_at_ms = at_ms


_rows = msgspec.json.Decoder(list[Row])
_numbers = msgspec.json.Decoder(list[int])
_pairs = msgspec.json.Decoder(list[tuple[int, int]])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _load(db: sqlite3.Connection, call_ids: Iterable[str]) -> dict[str, Row]:
    text = db.execute(SQL["load"], {"call_ids": _json(list(set(call_ids)))}).fetchall()[0][0]
    return {row.call_id: row for row in _rows.decode(text)}


def _load_one(db: sqlite3.Connection, call_id: str) -> Row:
    row = _load(db, [call_id]).get(call_id)
    if row is None:
        raise NotFoundError(f"no durable call {call_id[:64]!r}")
    return row


def _update(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    changed = [
        (row.number, row.ended_at_ms, row.inputs, row.inputs_complete, row.succeeded, row.failed, row.cancelled)
        for row in rows
    ]
    if changed:
        db.execute(SQL["update"], {"calls": _json(changed)})


def _input(call_id: str, row: tuple[int, bytes, int, int]) -> InputRecord:
    key, payload, user_failures, crashes = row
    return InputRecord(call_id, key & INDEX_MASK, payload, user_failures, crashes)


# ---------------------------------------------------------------------------------------------------- spawn


class Spawn(NamedTuple):
    """One request to record inputs."""

    call: CallRecord
    inputs: Sequence[InputRecord]


class _Spawning:
    """A batch of them."""

    def __init__(self, db: sqlite3.Connection, requests: Sequence[Spawn]) -> None:
        self._db = db
        self._rows = _load(db, (request.call.call_id for request in requests))
        self._number: int = db.execute(SQL["last_number"]).fetchall()[0][0]
        self._new: list[Row] = []
        self._changed: dict[int, Row] = {}
        self._inputs: list[tuple[int, int, int, bytes]] = []

    def add(self, call: CallRecord, inputs: Sequence[InputRecord]) -> tuple[Row, Sequence[InputRecord] | None]:
        """Decide on one request: the call, and its new inputs (None: some were known, look again afterwards)."""
        row = self._rows.get(call.call_id)
        known = row.inputs if row else 0
        fresh = _fresh(call, row, known, inputs)
        if row is None:
            self._number += 1
            row = self._rows[call.call_id] = Row(
                self._number, call.call_id, call.function_id, call.function_name, call.app_id, call.method,
                call.kind, call.created_at_ms, None, 0, 0, 0, 0, 0,
            )  # fmt: skip
            self._new.append(row)
        elif fresh or call.inputs_complete > row.inputs_complete:
            self._changed[row.number] = row
        first = row.number << INDEX_BITS
        self._inputs += [(first | i.index, i.user_failures, i.crashes, i.payload) for i in fresh]
        row.inputs = known + len(fresh)
        row.inputs_complete |= call.inputs_complete
        row.end_if_done(call.created_at_ms)
        return row, fresh if len(fresh) == len(inputs) else None

    def write(self) -> None:
        """Record what was decided."""
        _insert_calls(self._db, [msgspec.structs.astuple(row) for row in self._new])
        _insert_inputs(self._db, self._inputs)
        new = {row.number for row in self._new}
        _update(self._db, (row for row in self._changed.values() if row.number not in new))

    def unfinished(self, row: Row, inputs: Sequence[InputRecord]) -> list[InputRecord]:
        """Those of the inputs that have no result, as recorded."""
        found = self._db.execute(
            SQL["inputs"],
            {"first": row.key(inputs[0].index), "end": row.key(inputs[-1].index) + 1, "limit": len(inputs)},
        )
        return [_input(row.call_id, item) for item in found.fetchall()]


def _fresh(call: CallRecord, row: Row | None, known: int, inputs: Sequence[InputRecord]) -> Sequence[InputRecord]:
    """The inputs that are not recorded yet.

    Raises:
        InvalidError: they do not fit what is recorded.
        CancelledError: there are some, and the call was cancelled.
    """
    first = inputs[0].index if inputs else known
    if not 0 <= first <= known:
        raise InvalidError(f"input {first:,} of call {call.call_id} came, and {known:,} are recorded: there is a gap")
    for at, item in enumerate(inputs, first):
        if item.index != at or item.call_id != call.call_id:
            raise InvalidError(f"inputs of call {call.call_id} are not in order: {item.index:,} in place of {at:,}")
    if first + len(inputs) > INPUTS_PER_CALL_MAX:
        raise InvalidError(f"a call may have {INPUTS_PER_CALL_MAX:,} inputs", hint="split it into several")
    if row is None:
        return inputs
    if (row.function_id, row.method, row.kind) != (call.function_id, call.method, call.kind):
        raise InvalidError(f"call {call.call_id} is recorded as one of another function, method or kind")
    fresh = inputs[known - first :]
    if fresh and row.cancelled:
        raise CancelledError(f"call {call.call_id} was cancelled", hint="no more inputs can be added")
    if fresh and row.inputs_complete:
        raise InvalidError(f"call {call.call_id} is complete with {known:,} inputs", hint="spawn another call")
    return fresh


def spawn(db: sqlite3.Connection, requests: Sequence[Spawn]) -> list[Spawned | JitneyError]:
    """`CallStore.spawn`."""
    batch = _Spawning(db, requests)
    decided: list[tuple[Row, Sequence[InputRecord] | None] | JitneyError] = []
    for request in requests:
        try:
            decided.append(batch.add(request.call, request.inputs))
        except JitneyError as refusal:
            decided.append(refusal)
    batch.write()
    answers: list[Spawned | JitneyError] = []
    for request, answer in zip(requests, decided, strict=True):
        if isinstance(answer, JitneyError):
            answers.append(answer)
            continue
        row, pending = answer
        found = batch.unfinished(row, request.inputs) if pending is None else list(pending)
        answers.append(Spawned(row.record(), found))
    return answers


# ---------------------------------------------------------------------------------------------------- finish


def finish(db: sqlite3.Connection, requests: Sequence[Sequence[Result]]) -> list[list[bool] | JitneyError]:
    """`CallStore.finish`. The first of several results for one input wins, also within a batch."""
    rows = _load(db, (result.call_id for results in requests for result in results))
    asked = [
        rows[result.call_id].key(result.output.index)
        for results in requests
        for result in results
        if _has(rows.get(result.call_id), result.output.index)
    ]
    unfinished, by_file = _unfinished(db, asked)
    ended: list[tuple[int, int, int, int, bytes]] = []
    changed: dict[int, Row] = {}
    answers: list[list[bool] | JitneyError] = []
    for results in requests:
        accepted = []
        for call_id, output, at_ms in results:
            row = rows.get(call_id)
            key = row.key(output.index) if row is not None and _has(row, output.index) else -1
            accepted.append(key in unfinished)
            if row is None or key not in unfinished:
                continue
            unfinished.remove(key)
            ended.append((key, output.status, at_ms, key in by_file, output.payload))
            if output.status == Status.SUCCESS:
                row.succeeded += 1
            else:
                row.failed += 1
            row.end_if_done(at_ms)
            changed[row.number] = row
        answers.append(accepted)
    if ended:
        db.execute(SQL["finish"], {"keys": _json([item[0] for item in ended])})
        _insert_outputs(db, ended)
        _update(db, changed.values())
    return answers


def _has(row: Row | None, index: int) -> bool:
    return row is not None and 0 <= index < row.inputs


def _unfinished(db: sqlite3.Connection, keys: list[int]) -> tuple[set[int], set[int]]:
    unfinished, by_file = db.execute(SQL["unfinished"], {"keys": _json(keys)}).fetchall()[0]
    return set(_numbers.decode(unfinished)), set(_numbers.decode(by_file))


def note_failures(db: sqlite3.Connection, requests: Sequence[Sequence[Failure]]) -> list[JitneyError | None]:
    """`CallStore.failures`."""
    rows = _load(db, (failure.call_id for failures in requests for failure in failures))
    noted = {
        rows[failure.call_id].key(failure.index): (failure.user_failures, failure.crashes)
        for failures in requests
        for failure in failures
        if _has(rows.get(failure.call_id), failure.index)
    }
    if noted:
        db.execute(SQL["failures"], {"failures": _json([(key, *counts) for key, counts in noted.items()])})
    return [None] * len(requests)


def cancel(db: sqlite3.Connection, request: tuple[str, int]) -> list[int]:
    """`CallStore.cancel`."""
    call_id, now_ms = request
    row = _load_one(db, call_id)
    if row.ended_at_ms is not None:
        return []
    span = {"first": row.key(0), "end": row.key(0) + row.inputs}
    found = _numbers.decode(db.execute(SQL["unfinished_of_call"], span).fetchall()[0][0])
    db.execute(SQL["terminate"], {**span, "status": int(Status.TERMINATED), "now_ms": now_ms})
    db.execute(SQL["finish_range"], span)
    row.failed += len(found)
    row.cancelled = row.inputs_complete = 1
    row.ended_at_ms = now_ms
    _update(db, [row])
    return sorted(key & INDEX_MASK for key in found)


# ---------------------------------------------------------------------------------------------------- dropping


def expire(db: sqlite3.Connection, request: tuple[int, int]) -> Dropped:
    """`CallStore.expire`."""
    before_ms, limit = request
    found = db.execute(SQL["old_outputs"], {"before_ms": before_ms, "limit": limit}).fetchall()
    db.execute(SQL["expire"], {"keys": _json([row[0] for row in found])})
    files = [name for key, call_id, had_input, has_output in found
             for name in _files(call_id, key & INDEX_MASK, had_input, has_output)]  # fmt: skip
    return Dropped(len(found), files)


def forget(db: sqlite3.Connection, request: tuple[int, int]) -> Dropped:
    """`CallStore.forget`."""
    before_ms, limit = request
    found = db.execute(SQL["old_calls"], {"before_ms": before_ms, "limit": limit}).fetchall()
    files: list[str] = []
    for number, call_id in found:
        span = {"first": number << INDEX_BITS, "end": (number + 1) << INDEX_BITS}
        for key, had_input, has_output in db.execute(SQL["files"], span).fetchall():
            files += _files(call_id, key & INDEX_MASK, had_input, has_output)
        db.execute(SQL["forget_outputs"], span)
        db.execute(SQL["forget_call"], {"number": number})
    return Dropped(len(found), files)


def _files(call_id: str, index: int, had_input: int, has_output: int) -> list[str]:
    names = []
    if had_input:
        names.append(payload_file(call_id, index, output=False))
    if has_output:
        names.append(payload_file(call_id, index, output=True))
    return names


# ---------------------------------------------------------------------------------------------------- reading


def _read_outputs(db: sqlite3.Connection, call_id: str, start: int, limit: int, bytes_max: int) -> list[Output]:
    row = _load_one(db, call_id)
    start = max(0, start)
    span = {"first": row.key(0) + min(start, row.inputs), "end": row.key(0) + min(start + limit, row.inputs)}
    outputs: list[Output] = []
    size = 0
    cursor = db.execute(SQL["outputs"], span)
    for key, status, payload in cursor:
        size += len(payload)
        if key & INDEX_MASK != start + len(outputs) or (outputs and size > bytes_max):
            break
        outputs.append(Output(key & INDEX_MASK, status, payload))
    cursor.close()
    return outputs


def _read_statuses(db: sqlite3.Connection, call_id: str, start: int, limit: int) -> list[tuple[int, int]]:
    row = _load(db, [call_id]).get(call_id)
    if row is None:
        return []
    start = max(0, start)
    span = {"first": row.key(0) + min(start, row.inputs), "end": row.key(0) + min(start + limit, row.inputs)}
    return sorted(_pairs.decode(db.execute(SQL["statuses"], span).fetchall()[0][0]))


def _read_pending(db: sqlite3.Connection, after: tuple[str, int] | None, limit: int) -> Pending:
    key = -1 if after is None else _load_one(db, after[0]).key(0) + min(max(after[1], -1), INDEX_MASK)
    found = db.execute(SQL["pending"], {"after": key, "limit": limit}).fetchall()
    numbers = {row[0] >> INDEX_BITS for row in found}
    text = db.execute(SQL["by_number"], {"numbers": _json(sorted(numbers))}).fetchall()[0][0]
    rows = {row.number: row for row in _rows.decode(text)}
    inputs = [_input(rows[row[0] >> INDEX_BITS].call_id, row) for row in found]
    return Pending(
        [rows[number].record() for number in sorted(numbers)],
        inputs,
        (inputs[-1].call_id, inputs[-1].index) if inputs else None,
    )


def _read_recent(db: sqlite3.Connection, app_id: str, limit: int) -> list[CallRecord]:
    name = "recent_of_app" if app_id else "recent"
    text = db.execute(SQL[name], {"app_id": app_id, "limit": limit} if app_id else {"limit": limit}).fetchall()[0][0]
    return [row.record() for row in sorted(_rows.decode(text), key=lambda row: -row.number)]


# ---------------------------------------------------------------------------------------------------- the port

SPAWN = Write(spawn, rank=10, grows=True)
FAILURES = Write(note_failures, rank=20)
FINISH = Write(finish, rank=30)
CANCEL = Write(one_by_one(cancel), rank=40)
EXPIRE = Write(one_by_one(expire))
FORGET = Write(one_by_one(forget))


class SqliteCalls:
    """`ports.store.CallStore`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def spawn(self, call: CallRecord, inputs: Sequence[InputRecord]) -> Spawned:
        ids.check(call.call_id, ids.CALL)
        size = sum(len(item.payload) for item in inputs)
        return await self._writer.submit(SPAWN, Spawn(call, inputs), size=size)

    async def finish(self, results: Sequence[Result]) -> list[bool]:
        size = sum(len(result.output.payload) for result in results)
        return await self._writer.submit(FINISH, results, size=size)

    async def failures(self, failures: Sequence[Failure]) -> None:
        await self._writer.submit(FAILURES, failures)

    async def cancel(self, call_id: str, now_ms: int) -> list[int]:
        return await self._writer.submit(CANCEL, (call_id, now_ms))

    async def expire(self, before_ms: int, *, limit: int = 10_000) -> Dropped:
        return await self._writer.submit(EXPIRE, (before_ms, limit))

    async def forget(self, before_ms: int, *, limit: int = 1_000) -> Dropped:
        return await self._writer.submit(FORGET, (before_ms, limit))

    async def get(self, call_id: str) -> CallRecord | None:
        row = await self._reader.ask(lambda db: _load(db, [call_id]).get(call_id))
        return row.record() if row else None

    async def recent(self, app_id: str = "", *, limit: int = 50) -> list[CallRecord]:
        return await self._reader.ask(lambda db: _read_recent(db, app_id, limit))

    async def outputs(
        self, call_id: str, *, start: int = 0, limit: int = 1, bytes_max: int = OUTPUTS_BYTES_MAX
    ) -> list[Output]:
        return await self._reader.ask(lambda db: _read_outputs(db, call_id, start, limit, bytes_max))

    async def statuses(self, call_id: str, *, start: int = 0, limit: int = 100) -> list[tuple[int, int]]:
        return await self._reader.ask(lambda db: _read_statuses(db, call_id, start, limit))

    async def pending(self, after: tuple[str, int] | None = None, *, limit: int = 1_000) -> Pending:
        return await self._reader.ask(lambda db: _read_pending(db, after, limit))
