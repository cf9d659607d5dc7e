"""A disk that is full, slow, locked or failing; statements that fail; more work than the disk takes."""

import asyncio
import itertools
import os
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest

from jitney.drivers.store.sqlite import SqliteStore, database, inspect, writer
from jitney.errors import InternalError, ResourceExhaustedError, StorageError
from jitney.ports.store import Failure
from jitney.testing.conformance.store import call, call_id, inputs, result
from jitney.values.apps import AppRecord, DeploymentRecord
from jitney.values.containers import ContainerRecord
from jitney.values.functions import FunctionSpec


class Misbehaving(sqlite3.Connection):
    """A connection that does as `plan` says before (or after) a statement; the plan is of the class a test makes."""

    plan = staticmethod(lambda sql, after: None)

    def execute(self, sql, *arguments):
        self.plan(sql, False)
        cursor = super().execute(sql, *arguments)
        self.plan(sql, True)
        return cursor


def misbehaving(plan):
    return type("Misbehaving", (Misbehaving,), {"plan": staticmethod(plan)})


def disk_error(name="SQLITE_IOERR_FSYNC"):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


def open_store(path, plan=None, **options):
    connection = misbehaving(plan) if plan else sqlite3.Connection
    return SqliteStore(path, **{"ballast_bytes": 0, **options}, connection=connection)


# ---------------------------------------------------------------------------------------------------- group commit


def test_many_writes_share_a_commit_and_none_is_acknowledged_before_it(tmp_path):
    commits, gate, in_commit = itertools.count(), threading.Event(), threading.Event()
    gate.set()

    def plan(sql, after):
        if sql == "COMMIT" and not after:
            next(commits)
            in_commit.set()
            assert gate.wait(30)

    async def story():
        store = open_store(tmp_path / "store.sqlite", plan)
        before = next(commits)
        gate.clear()
        in_commit.clear()
        first = asyncio.create_task(store.calls.spawn(call(1), inputs(1, 0, 1)))
        await asyncio.to_thread(in_commit.wait)
        rest = [asyncio.create_task(store.calls.spawn(call(n), inputs(n, 0, 1))) for n in range(2, 300)]
        assert await store.calls.get(call_id(1)) is None  # reads go on, and see nothing that is not committed
        assert not first.done()
        gate.set()
        await asyncio.gather(first, *rest)
        found = await store.calls.recent(limit=1_000)
        await store.close()
        return next(commits) - before - 1, len(found)

    assert asyncio.run(story()) == (2, 299)


def test_a_statement_that_fails_takes_no_other_write_with_it(tmp_path):
    async def story():
        store = open_store(tmp_path / "store.sqlite")
        spawns = [
            store.calls.spawn(call(n, function_name="\ud800" if n == 7 else "f"), inputs(n, 0, 2)) for n in range(20)
        ]
        answers = await asyncio.gather(*spawns, return_exceptions=True)
        found = {record.call_id for record in await store.calls.recent()}
        healthy = store.healthy()
        await store.close()
        return answers, found, healthy

    answers, found, healthy = asyncio.run(story())
    assert [number for number, answer in enumerate(answers) if isinstance(answer, Exception)] == [7]
    assert isinstance(answers[7], InternalError)
    assert found == {call_id(number) for number in range(20) if number != 7}
    assert healthy


def test_work_beyond_the_bound_is_refused_and_the_rest_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "WAITING_MAX", 10)
    gate, in_commit = threading.Event(), threading.Event()
    gate.set()

    def plan(sql, after):
        if sql == "COMMIT" and not after:
            in_commit.set()
            assert gate.wait(30)

    async def story():
        store = open_store(tmp_path / "store.sqlite", plan)
        gate.clear()
        in_commit.clear()
        first = asyncio.create_task(store.calls.spawn(call(0), []))
        await asyncio.to_thread(in_commit.wait)
        rest = [asyncio.create_task(store.calls.spawn(call(n), [])) for n in range(1, 31)]
        await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(first, *rest, return_exceptions=True)
        found = len(await store.calls.recent())
        await store.close()
        return [isinstance(answer, ResourceExhaustedError) for answer in answers], found

    refused, found = asyncio.run(story())
    assert refused == [False] * 11 + [True] * 20
    assert found == 11


def test_work_that_waits_is_done_before_closing(tmp_path):
    async def story():
        store = open_store(tmp_path / "store.sqlite")
        tasks = [asyncio.create_task(store.calls.spawn(call(n), [])) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*tasks)
        with pytest.raises(StorageError, match="closed"):
            await store.calls.spawn(call(99), [])
        with pytest.raises(StorageError, match="closed"):
            await store.calls.get(call_id(1))
        again = open_store(tmp_path / "store.sqlite")
        found = len(await again.calls.recent())
        await again.close()
        return found

    assert asyncio.run(story()) == 20


def test_a_bug_in_the_writer_leaves_nobody_waiting(tmp_path, monkeypatch):
    async def story():
        store = open_store(tmp_path / "store.sqlite")
        monkeypatch.setattr(writer.Writer, "_commit", lambda *arguments, **options: 1 // 0)
        with pytest.raises(InternalError):
            await store.calls.spawn(call(1), [])
        assert not store.healthy()
        assert await store.calls.get(call_id(1)) is None
        await store.close()

    asyncio.run(story())


# ---------------------------------------------------------------------------------------------------- locked


def test_a_database_that_another_program_holds_is_waited_for_then_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MS", 30)

    async def story():
        store = open_store(tmp_path / "store.sqlite")
        other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResourceExhaustedError, match="another program"):
            await store.calls.spawn(call(1), inputs(1, 0, 1))
        other.execute("ROLLBACK")
        other.close()
        assert store.healthy()
        spawned = await store.calls.spawn(call(1), inputs(1, 0, 1))
        await store.close()
        return spawned.call.inputs

    assert asyncio.run(story()) == 1


# ---------------------------------------------------------------------------------------------------- failing


DEPLOYMENT = DeploymentRecord(app_id="ap-1", name="n", version=1, deployed_at_ms=1)
CONTAINER = ContainerRecord(container_id="ta-1", function_id="fu-1", ended_at_ms=1)
# A bit of everything, each step right to repeat.
STEPS = [
    lambda store: store.apps.publish(AppRecord(app_id="ap-1"), DEPLOYMENT, {"fu-1": FunctionSpec(name="f")}),
    lambda store: store.functions.put("ap-1", {"fu-2": FunctionSpec(name="f")}),
    lambda store: store.calls.spawn(call(1, inputs_complete=False), inputs(1, 0, 3)),
    lambda store: store.calls.spawn(call(1, inputs_complete=False), inputs(1, 3, 3)),
    lambda store: store.calls.failures([Failure(call_id(1), 0, 1, 1)]),
    lambda store: store.calls.finish([result(1, i) for i in range(4)]),
    lambda store: store.calls.spawn(call(2), inputs(2, 0, 2)),
    lambda store: store.calls.finish([result(1, 3), result(2, 0)]),
    lambda store: store.calls.cancel(call_id(1), 3_000),
    lambda store: store.calls.expire(2_001),
    lambda store: store.containers.put([CONTAINER]),
    lambda store: store.apps.stop("ap-1", 9),
]
ALL = len(STEPS)


async def use(store, steps=ALL):
    """Take steps until one fails: how many did not."""
    for done, step in enumerate(STEPS[:steps]):
        try:
            await step(store)
        except StorageError:
            return done
    return steps


async def everything(store):
    return (
        await store.calls.recent(),
        await store.calls.pending(),
        [await store.calls.outputs(c.call_id, limit=9) for c in await store.calls.recent()],
        await store.apps.recent(),
        await store.apps.history("n"),
        await store.functions.of_app("ap-1"),
        await store.functions.get("fu-2"),
        await store.containers.recent(),
    )


async def states_of_a_good_run(folder):
    """What everything is after 0, 1, 2, ... steps."""
    states = []
    for steps in range(ALL + 1):
        store = open_store(folder / f"good{steps}")
        assert await use(store, steps) == steps
        states.append(await everything(store))
        await store.close()
    return states


def statements_of(folder):
    """How many statements a good run has, after opening."""
    counter = itertools.count()
    seen = []

    async def story():
        store = open_store(folder / "counted", lambda sql, after: None if after else next(counter))
        seen.append(next(counter))
        await use(store)
        seen.append(next(counter))
        await store.close()

    asyncio.run(story())
    return seen[1] - seen[0]


@pytest.fixture
def memory_disk(tmp_path):
    """A folder in memory where there is one: what is tested is what we make of errors, and fsync is slow."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("applied", [False, True])
def test_whichever_statement_fails_the_store_fails_closed_and_doing_it_again_is_right(memory_disk, applied):
    """The disk fails at the Nth statement, or just after it, for every N: nothing is half done, nothing is lost."""
    states = asyncio.run(states_of_a_good_run(memory_disk))
    total = statements_of(memory_disk)
    assert total > 40

    async def story(nth):
        path = memory_disk / f"n{nth}"
        counter, armed = itertools.count(1), []

        def plan(sql, after):
            if armed and after == applied and next(counter) == nth:
                raise disk_error()

        store = open_store(path, plan)
        armed.append(True)
        done = await use(store)
        if done < ALL:
            assert not store.healthy()
            assert "disk" in store.problem()
            with pytest.raises(StorageError):
                await store.calls.finish([result(1, 0)])
        armed.clear()
        await store.close()
        again = open_store(path)
        found = await everything(again)
        # All that was acknowledged, and of the step that failed everything or nothing.
        assert found in states[done : done + 2]
        assert await use(again) == ALL
        final = await everything(again)
        await again.close()
        assert inspect(path)[1] == ""
        return final

    for nth in range(1, total + 1):
        assert asyncio.run(story(nth)) == states[-1], nth


def test_a_slow_disk_only_takes_its_time(tmp_path):
    gate, in_commit = threading.Event(), threading.Event()

    def plan(sql, after):
        if sql == "COMMIT" and in_commit.is_set() and not after:
            assert gate.wait(30)

    async def story():
        store = open_store(tmp_path / "store.sqlite", plan)
        in_commit.set()
        task = asyncio.create_task(store.calls.spawn(call(1), inputs(1, 0, 1)))
        for _ in range(20):
            assert await store.calls.get(call_id(1)) is None
        assert not task.done()
        assert store.healthy()
        gate.set()
        await task
        await store.close()

    asyncio.run(story())


def test_a_read_that_meets_a_failing_disk_ends_the_writing_too(tmp_path):
    broken = []

    def plan(sql, after):
        if broken and "outputs" in sql and not after:
            raise disk_error("SQLITE_IOERR_READ")

    async def story():
        store = open_store(tmp_path / "store.sqlite", plan)
        await store.calls.spawn(call(1), inputs(1, 0, 1))
        broken.append(True)
        with pytest.raises(StorageError):
            await store.calls.outputs(call_id(1))
        assert not store.healthy()
        with pytest.raises(StorageError):
            await store.calls.finish([result(1, 0)])
        await store.close()

    asyncio.run(story())
