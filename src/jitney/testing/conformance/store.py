"""What every store must do. A driver's tests subclass `StoreContract` and say how one is made.

    class TestMine(StoreContract):
        def make(self, folder): return MyStore(folder / "store")

Numbers in the names are those of the sentences in ports.store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.errors import AlreadyExistsError, CancelledError, InvalidError, NotFoundError
from jitney.ports.store import Failure, Result, Store
from jitney.testing.conformance.running import Run, Running
from jitney.testing.conformance.store_objects import ObjectContract
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState, DeploymentRecord
from jitney.values.calls import CallKind, CallRecord, InputRecord, Output, Status
from jitney.values.containers import ContainerRecord, Exit, Phase
from jitney.values.functions import FunctionSpec


def call_id(number: int) -> str:
    """Some id of a call."""
    return ids.make(ids.CALL, number.to_bytes(16, "big"))


def call(number: int, **changes: Any) -> CallRecord:
    """Some call."""
    fields = {"function_id": "fu-1", "app_id": "ap-1", "kind": CallKind.SPAWN_MAP, "created_at_ms": 1_000 + number}
    return CallRecord(call_id=call_id(number), **{**fields, **changes})


def inputs(number: int, first: int, count: int, payload: bytes = b"") -> list[InputRecord]:
    """Inputs of call `number`."""
    return [InputRecord(call_id(number), i, payload or b"P%d" % i) for i in range(first, first + count)]


def result(number: int, index: int, *, status: int = 1, payload: bytes = b"Pr", at_ms: int = 2_000) -> Result:
    """The result of an input of call `number`."""
    return Result(call_id(number), Output(index, status, payload), at_ms)


class _Contract(Running):
    def make(self, folder: Path) -> Store:
        """The store of this folder: a new one, or the one that was closed there."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, run: Run, tmp_path: Path) -> Iterator[Store]:
        """A new store."""

        async def make() -> Store:
            return self.make(tmp_path)

        store = run(make())
        yield store
        run(store.close())


class CallContract(_Contract):
    """Durable calls."""

    def test_a_spawned_call_reads_back(self, store: Store, run: Run) -> None:
        spawned = run(store.calls.spawn(call(1, method="m", function_name="f"), inputs(1, 0, 3)))
        record = run(store.calls.get(call_id(1)))
        assert spawned.call == record
        assert spawned.pending == inputs(1, 0, 3)
        assert (record.inputs, record.inputs_complete, record.succeeded, record.failed) == (3, True, 0, 0)
        assert (record.method, record.function_name, record.kind) == ("m", "f", CallKind.SPAWN_MAP)
        assert record.state == "pending"

    def test_6_spawning_again_adds_nothing(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 3)))
        run(store.calls.finish([result(1, 1)]))
        again = run(store.calls.spawn(call(1), inputs(1, 0, 3)))
        assert again.call.inputs == 3
        assert [item.index for item in again.pending] == [0, 2]
        assert [item.index for item in run(store.calls.pending()).inputs] == [0, 2]

    def test_chunks_make_one_call(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1, inputs_complete=False), inputs(1, 0, 2)))
        overlapping = run(store.calls.spawn(call(1, inputs_complete=False), inputs(1, 1, 3)))
        assert overlapping.call.inputs == 4
        assert not overlapping.call.inputs_complete
        run(store.calls.finish([result(1, i) for i in range(4)]))
        assert run(store.calls.get(call_id(1))).ended_at_ms is None
        done = run(store.calls.spawn(call(1, created_at_ms=5_000), []))
        assert (done.call.inputs_complete, done.call.ended_at_ms, done.call.created_at_ms) == (True, 5_000, 1_001)

    def test_a_map_of_nothing_is_done(self, store: Store, run: Run) -> None:
        assert run(store.calls.spawn(call(1), [])).call.state == "done"

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param((call(1), inputs(1, 3, 1)), id="gap"),
            pytest.param((call(1), inputs(1, 2, 1)), id="after the end"),
            pytest.param((call(1), [*inputs(1, 0, 1), *inputs(1, 2, 1)]), id="out of order"),
            pytest.param((call(1), inputs(2, 0, 1)), id="input of another call"),
            pytest.param((call(1), [InputRecord(call_id(1), -1, b"")]), id="negative"),
            pytest.param((call(1, function_id="fu-2"), inputs(1, 0, 1)), id="another function"),
            pytest.param((call(1, kind=CallKind.SPAWN), inputs(1, 0, 1)), id="another kind"),
            pytest.param((CallRecord(call_id="fc-../../x", function_id="fu-1"), []), id="no id"),
        ],
    )
    def test_2_what_does_not_fit_is_refused_and_changes_nothing(
        self, store: Store, run: Run, wrong: tuple[CallRecord, list[InputRecord]]
    ) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 2)))
        before = run(store.calls.pending()), run(store.calls.recent())
        with pytest.raises(InvalidError):
            run(store.calls.spawn(*wrong))
        assert (run(store.calls.pending()), run(store.calls.recent())) == before

    def test_the_first_result_wins(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 2)))
        mixed = [result(1, 0, payload=b"a"), result(1, 0, payload=b"b"), result(1, 1, status=2), result(1, 2)]
        assert run(store.calls.finish([*mixed, result(9, 0)])) == [True, False, True, False, False]
        assert run(store.calls.finish([result(1, 0, payload=b"c", at_ms=9_000)])) == [False]
        assert run(store.calls.outputs(call_id(1), limit=9)) == [Output(0, 1, b"a"), Output(1, 2, b"Pr")]
        record = run(store.calls.get(call_id(1)))
        assert (record.succeeded, record.failed, record.ended_at_ms, record.state) == (1, 1, 2_000, "failed")

    def test_results_are_counted_once_however_they_race(self, store: Store, run: Run) -> None:
        async def race() -> list[list[bool]]:
            await store.calls.spawn(call(1), inputs(1, 0, 10))
            return await asyncio.gather(
                *(store.calls.finish([result(1, i, payload=b"%d" % n) for i in range(10)]) for n in range(8))
            )

        accepted = run(race())
        assert [sum(column) for column in zip(*accepted, strict=True)] == [1] * 10
        winner = accepted.index([True] * 10)
        assert run(store.calls.outputs(call_id(1), limit=10)) == [Output(i, 1, b"%d" % winner) for i in range(10)]
        assert run(store.calls.get(call_id(1))).succeeded == 10

    def test_one_refusal_does_not_touch_the_others(self, store: Store, run: Run) -> None:
        async def together() -> list[object]:
            spawns = [store.calls.spawn(call(n), inputs(n, n % 2, 1)) for n in range(20)]
            return await asyncio.gather(*spawns, return_exceptions=True)

        answers = run(together())
        assert [isinstance(answer, InvalidError) for answer in answers] == [n % 2 == 1 for n in range(20)]
        assert {record.call_id for record in run(store.calls.recent())} == {call_id(n) for n in range(0, 20, 2)}

    def test_9_a_cancelled_waiter_does_not_undo_the_write(self, store: Store, run: Run) -> None:
        async def abandon() -> None:
            task = asyncio.create_task(store.calls.spawn(call(1), inputs(1, 0, 1)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.calls.spawn(call(2), inputs(2, 0, 1))

        run(abandon())
        assert run(store.calls.get(call_id(2))) is not None

    def test_outputs_have_no_gaps(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 6)))
        run(store.calls.finish([result(1, i) for i in (0, 1, 3, 4, 5)]))
        assert [o.index for o in run(store.calls.outputs(call_id(1), limit=9))] == [0, 1]
        assert [o.index for o in run(store.calls.outputs(call_id(1), start=3, limit=2))] == [3, 4]
        assert run(store.calls.outputs(call_id(1), start=2, limit=9)) == []
        assert run(store.calls.outputs(call_id(1), start=6, limit=9)) == []
        assert run(store.calls.statuses(call_id(1), start=1, limit=4)) == [(1, 1), (3, 1), (4, 1)]
        with pytest.raises(NotFoundError):
            run(store.calls.outputs(call_id(2)))

    def test_outputs_are_bounded_in_bytes_but_never_stuck(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 3)))
        run(store.calls.finish([result(1, i, payload=b"x" * 100) for i in range(3)]))
        sizes = [len(run(store.calls.outputs(call_id(1), limit=9, bytes_max=n))) for n in (1, 100, 200, 299, 300)]
        assert sizes == [1, 1, 2, 2, 3]

    def test_cancelling_ends_what_has_no_result(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1, inputs_complete=False), inputs(1, 0, 4)))
        run(store.calls.finish([result(1, 2)]))
        assert run(store.calls.cancel(call_id(1), 3_000)) == [0, 1, 3]
        assert run(store.calls.cancel(call_id(1), 4_000)) == []
        record = run(store.calls.get(call_id(1)))
        assert (record.state, record.inputs_complete, record.ended_at_ms) == ("cancelled", True, 3_000)
        assert (record.succeeded, record.failed) == (1, 3)
        statuses = [output.status for output in run(store.calls.outputs(call_id(1), limit=9))]
        assert statuses == [Status.TERMINATED, Status.TERMINATED, Status.SUCCESS, Status.TERMINATED]
        assert run(store.calls.finish([result(1, 0)])) == [False]
        assert run(store.calls.pending()).inputs == []
        with pytest.raises(NotFoundError):
            run(store.calls.cancel(call_id(2), 1))

    def test_a_cancelled_call_takes_no_more_inputs_but_knows_those_it_had(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1, inputs_complete=False), inputs(1, 0, 2)))
        run(store.calls.cancel(call_id(1), 3_000))
        with pytest.raises(CancelledError):
            run(store.calls.spawn(call(1), inputs(1, 2, 1)))
        assert run(store.calls.spawn(call(1), inputs(1, 0, 2))).pending == []

    def test_cancelling_what_has_ended_changes_nothing(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 1)))
        run(store.calls.finish([result(1, 0)]))
        assert run(store.calls.cancel(call_id(1), 3_000)) == []
        assert run(store.calls.get(call_id(1))).state == "done"

    def test_failures_are_kept_with_the_input(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 3)))
        run(store.calls.finish([result(1, 2)]))
        notes = [Failure(call_id(1), 0, 1, 0), Failure(call_id(1), 2, 5, 5), Failure(call_id(1), 7, 1, 1)]
        run(store.calls.failures([*notes, Failure(call_id(8), 0, 1, 1)]))
        run(store.calls.failures([Failure(call_id(1), 0, 2, 1)]))
        found = [(item.index, item.user_failures, item.crashes) for item in run(store.calls.pending()).inputs]
        assert found == [(0, 2, 1), (1, 0, 0)]

    def test_pending_pages_through_all_in_order(self, store: Store, run: Run) -> None:
        for number in (5, 3, 4):
            run(store.calls.spawn(call(number), inputs(number, 0, 5)))
        run(store.calls.finish([result(3, i) for i in range(5)]))
        run(store.calls.finish([result(5, 1)]))
        found, after = [], None
        while (page := run(store.calls.pending(after, limit=2))).inputs:
            assert [record.call_id for record in page.calls] == list(dict.fromkeys(i.call_id for i in page.inputs))
            found += page.inputs
            after = page.after
        expected = [item for item in inputs(5, 0, 5) if item.index != 1] + inputs(4, 0, 5)
        assert found == expected

    def test_expired_results_say_so_and_name_their_files(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), [*inputs(1, 0, 1, b"F-in"), *inputs(1, 1, 3)]))
        run(store.calls.finish([result(1, 0, at_ms=10), result(1, 1, payload=b"F-out", at_ms=20)]))
        run(store.calls.finish([result(1, 2, at_ms=30)]))
        first = run(store.calls.expire(30, limit=1))
        second = run(store.calls.expire(30))
        assert (first.count, first.files) == (1, [f"{call_id(1)}.0.in"])
        assert (second.count, second.files) == (1, [f"{call_id(1)}.1.out"])
        assert run(store.calls.expire(30)).count == 0
        outputs = run(store.calls.outputs(call_id(1), limit=9))
        assert outputs == [Output(0, Status.EXPIRED, b""), Output(1, Status.EXPIRED, b""), Output(2, 1, b"Pr")]
        assert run(store.calls.finish([result(1, 0)])) == [False]
        assert [item.index for item in run(store.calls.pending()).inputs] == [3]

    def test_10_forgotten_calls_are_gone(self, store: Store, run: Run) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, 2, b"F")))
        run(store.calls.spawn(call(2), inputs(2, 0, 1)))
        run(store.calls.cancel(call_id(1), 100))
        assert run(store.calls.forget(100)).count == 0
        dropped = run(store.calls.forget(101))
        assert (dropped.count, dropped.files) == (1, [f"{call_id(1)}.0.in", f"{call_id(1)}.1.in"])
        assert run(store.calls.get(call_id(1))) is None
        assert [record.call_id for record in run(store.calls.recent())] == [call_id(2)]
        assert run(store.calls.spawn(call(1), inputs(1, 0, 1))).call.inputs == 1

    def test_11_lists_are_newest_first(self, store: Store, run: Run) -> None:
        for number, app_id in ((3, "ap-1"), (1, "ap-2"), (2, "ap-1")):
            run(store.calls.spawn(call(number, app_id=app_id), []))
        assert [c.call_id for c in run(store.calls.recent())] == [call_id(n) for n in (2, 1, 3)]
        assert [c.call_id for c in run(store.calls.recent("ap-1"))] == [call_id(2), call_id(3)]
        assert [c.call_id for c in run(store.calls.recent("ap-1", limit=1))] == [call_id(2)]

    @pytest.mark.parametrize("count", [1, 3, 255, 256, 257, 700])
    def test_a_batch_of_any_size_is_whole(self, store: Store, run: Run, count: int) -> None:
        run(store.calls.spawn(call(1), inputs(1, 0, count)))
        assert run(store.calls.finish([result(1, i, payload=b"%d" % i) for i in range(count)])) == [True] * count
        assert run(store.calls.outputs(call_id(1), limit=count)) == [Output(i, 1, b"%d" % i) for i in range(count)]
        assert run(store.calls.get(call_id(1))).state == "done"


class RecordContract(_Contract):
    """Apps, functions, containers, and the store itself."""

    def test_apps_read_back_newest_first(self, store: Store, run: Run) -> None:
        apps = [AppRecord(app_id=f"ap-{n}", name="x", tags={"a": "b"}, created_at_ms=n) for n in range(3)]
        run(store.apps.put(apps))
        assert run(store.apps.get("ap-1")) == apps[1]
        assert run(store.apps.get("ap-9")) is None
        assert run(store.apps.recent()) == apps[::-1]
        assert run(store.apps.recent(limit=1)) == apps[2:]

    def test_stopping_keeps_its_first_time(self, store: Store, run: Run) -> None:
        run(store.apps.put([AppRecord(app_id="ap-1"), AppRecord(app_id="ap-2")]))
        stopped = run(store.apps.stop("ap-1", 50))
        assert (stopped.state, stopped.stopped_at_ms) == (AppState.STOPPED, 50)
        assert run(store.apps.stop("ap-1", 60)) == stopped == run(store.apps.get("ap-1"))
        assert [app.app_id for app in run(store.apps.recent(include_stopped=False))] == ["ap-2"]
        with pytest.raises(NotFoundError):
            run(store.apps.stop("ap-3", 50))

    def test_a_publish_is_found_by_name_id_and_app(self, store: Store, run: Run) -> None:
        functions = {"fu-b": FunctionSpec(name="b"), "fu-a": FunctionSpec(name="a", env={"x": "y"})}
        for version, app_id in ((1, "ap-1"), (2, "ap-2")):
            app = AppRecord(app_id=app_id, name="n", state=AppState.DEPLOYED, version=version)
            deployment = DeploymentRecord(app_id=app_id, name="n", version=version, deployed_at_ms=version)
            mine = {f"{key}{version}": spec for key, spec in functions.items()}
            run(store.apps.publish(app, deployment, mine))
            run(store.apps.publish(app, deployment, mine))
        assert run(store.apps.by_name("n")).app_id == "ap-2"
        assert run(store.apps.by_name("m")) is None
        assert [d.version for d in run(store.apps.history("n"))] == [2, 1]
        assert list(run(store.functions.of_app("ap-1")).items()) == [
            ("fu-b1", functions["fu-b"]),
            ("fu-a1", functions["fu-a"]),
        ]
        assert run(store.functions.get("fu-a2")) == ("ap-2", functions["fu-a"])
        assert run(store.functions.get("fu-c")) is None

    def test_a_publish_replaces_the_functions_of_the_app(self, store: Store, run: Run) -> None:
        app = AppRecord(app_id="ap-1")
        run(store.apps.publish(app, None, {"fu-1": FunctionSpec(name="old"), "fu-2": FunctionSpec(name="kept")}))
        run(store.functions.put("ap-1", {"fu-4": FunctionSpec(name="bound"), "fu-2": FunctionSpec(name="kept2")}))
        assert list(run(store.functions.of_app("ap-1"))) == ["fu-1", "fu-2"]
        run(store.apps.publish(app, None, {"fu-3": FunctionSpec(name="new"), "fu-2": FunctionSpec(name="kept3")}))
        assert list(run(store.functions.of_app("ap-1"))) == ["fu-3", "fu-2"]
        assert list(run(store.functions.unlisted("ap-1"))) == ["fu-1", "fu-4"]
        assert run(store.functions.unlisted("ap-2")) == {}
        assert run(store.functions.get("fu-1"))[1].name == "old"
        assert run(store.functions.get("fu-4"))[1].name == "bound"
        assert run(store.functions.get("fu-2"))[1].name == "kept3"

    def test_2_a_publish_that_is_refused_changes_nothing(self, store: Store, run: Run) -> None:
        first = DeploymentRecord(app_id="ap-1", name="n", version=1, deployed_at_ms=1)
        run(store.apps.publish(AppRecord(app_id="ap-1", name="n"), first, {"fu-1": FunctionSpec(name="a")}))
        second = DeploymentRecord(app_id="ap-2", name="n", version=1, deployed_at_ms=2)
        with pytest.raises(AlreadyExistsError):
            run(store.apps.publish(AppRecord(app_id="ap-2"), second, {"fu-2": FunctionSpec(name="b")}))
        with pytest.raises(AlreadyExistsError):
            run(store.apps.publish(AppRecord(app_id="ap-2"), None, {"fu-1": FunctionSpec(name="b")}))
        with pytest.raises(AlreadyExistsError):
            run(store.functions.put("ap-2", {"fu-3": FunctionSpec(name="c"), "fu-1": FunctionSpec(name="b")}))
        assert run(store.apps.get("ap-2")) is None
        assert run(store.functions.get("fu-2")) is None
        assert run(store.functions.get("fu-3")) is None
        assert run(store.apps.history("n")) == [first]

    def test_containers_read_back_and_add_up(self, store: Store, run: Run) -> None:
        records = [
            ContainerRecord(
                container_id=f"ta-{n}",
                function_id="fu-1",
                app_id="ap-1" if n < 3 else "ap-2",
                phase=Phase.STOPPED,
                created_at_ms=100 - n // 2,
                ready_at_ms=110 if n else None,
                ended_at_ms=200 + n,
                inputs_done=n,
                busy_ms=50,
                exit=Exit(signal=9, oom_killed=True, max_rss_kib=5),
            )
            for n in range(4)
        ]
        run(store.containers.put(records))
        run(store.containers.put(records[:2]))
        assert run(store.containers.get("ta-2")) == records[2]
        assert run(store.containers.get("ta-9")) is None
        assert [c.container_id for c in run(store.containers.recent())] == ["ta-1", "ta-0", "ta-3", "ta-2"]
        assert [c.container_id for c in run(store.containers.recent("ap-1", limit=2))] == ["ta-1", "ta-0"]
        summary = run(store.containers.summary("ap-1"))
        assert (summary.containers, summary.cold_starts, summary.inputs, summary.busy_ms) == (3, 2, 3, 150)
        assert (summary.idle_ms, summary.wall_ms, summary.failed) == (41 + 42, 103, 0)
        assert run(store.containers.summary("ap-9")).containers == 0
        assert run(store.containers.forget(202, limit=1)) == 1
        assert run(store.containers.forget(202)) == 1
        assert [c.container_id for c in run(store.containers.recent())] == ["ta-3", "ta-2"]

    def test_a_new_store_is_healthy_and_knows_itself(self, store: Store, run: Run) -> None:
        meta = run(store.meta())
        assert meta.boot >= 1
        assert meta.server_id
        assert store.healthy()
        assert store.problem() == ""

    def test_closing_twice_is_fine(self, store: Store, run: Run) -> None:
        run(store.close())
        run(store.close())


class StoreContract(CallContract, RecordContract, ObjectContract):
    """All of it."""
