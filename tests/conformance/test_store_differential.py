"""Whatever is done to a store, in whatever order: SQLite answers as the model does."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jitney.drivers.store.memory import MemoryStore
from jitney.drivers.store.sqlite import SqliteStore
from jitney.errors import JitneyError
from jitney.ports.store import Failure, Result
from jitney.testing.conformance.store import call_id
from jitney.values.apps import AppRecord, AppState, DeploymentRecord
from jitney.values.calls import CallKind, CallRecord, InputRecord, Output
from jitney.values.containers import ContainerRecord
from jitney.values.functions import FunctionSpec

numbers = st.integers(0, 3)
indices = st.integers(-1, 6)
times = st.integers(0, 50)
limits = st.integers(0, 4)
app_ids = st.sampled_from(["ap-1", "ap-2"])
payloads = st.sampled_from([b"", b"Pa", b"Fa", b"P" + bytes(300)])
statuses = st.sampled_from([1, 1, 2, 4, 7])
spawns = st.tuples(numbers, st.integers(0, 4), st.integers(0, 4), payloads, st.booleans(), times, app_ids)
results = st.builds(
    lambda n, i, s, p, at: Result(call_id(n), Output(i, s, p), at), numbers, indices, statuses, payloads, times
)
failures = st.builds(
    lambda n, i, u, c: Failure(call_id(n), i, u, c), numbers, indices, st.integers(0, 3), st.integers(0, 3)
)
specs = st.dictionaries(
    st.sampled_from(["fu-1", "fu-2", "fu-3"]),
    st.builds(lambda name: FunctionSpec(name=name), st.sampled_from("ab")),
    max_size=3,
)
containers = st.builds(
    lambda n, app, at, ready, ended, busy: ContainerRecord(
        container_id=f"ta-{n}",
        function_id="fu-1",
        app_id=app,
        created_at_ms=at,
        ready_at_ms=ready,
        ended_at_ms=ended,
        busy_ms=busy,
        inputs_done=n,
    ),
    numbers,
    app_ids,
    times,
    st.none() | times,
    st.none() | times,
    times,
)


def spawn_arguments(number, first, count, payload, complete, at_ms, app_id):
    call = CallRecord(
        call_id=call_id(number),
        function_id="fu-1",
        function_name="f",
        app_id=app_id,
        kind=CallKind.SPAWN_MAP,
        created_at_ms=at_ms,
        inputs_complete=complete,
    )
    return call, [InputRecord(call_id(number), i, payload) for i in range(first, first + count)]


class StoresAgree(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.runner = asyncio.Runner()
        self.model = MemoryStore()
        self.boot = 0
        self.reopen()

    def reopen(self):
        self.store = SqliteStore(self.folder / "store.sqlite", ballast_bytes=0)
        self.boot += 1
        assert self.runner.run(self.store.meta()).boot == self.boot

    def teardown(self):
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def same(self, *asks):
        """Ask both the same things, all at once."""

        async def all_of(store):
            return await asyncio.gather(*(ask(store) for ask in asks), return_exceptions=True)

        expected = self.runner.run(all_of(self.model))
        found = self.runner.run(all_of(self.store))
        plain = [(type(a) if isinstance(a, JitneyError) else a) for a in expected]
        assert [(type(a) if isinstance(a, JitneyError) else a) for a in found] == plain

    @rule(spawn=st.lists(spawns, min_size=1, max_size=5))
    def spawn(self, spawn):
        arguments = [spawn_arguments(*one) for one in spawn]
        if len({(call.call_id) for call, _ in arguments}) < len(arguments):
            for one in arguments:  # what is told of a call that changes meanwhile may be of before or after
                self.same(lambda store, one=one: store.calls.spawn(*one))
        else:
            self.same(*(lambda store, one=one: store.calls.spawn(*one) for one in arguments))

    @rule(batches=st.lists(st.lists(results, max_size=6), min_size=1, max_size=4))
    def finish(self, batches):
        self.same(*(lambda store, batch=batch: store.calls.finish(batch) for batch in batches))

    @rule(batches=st.lists(st.lists(failures, max_size=4), min_size=1, max_size=3))
    def fail(self, batches):
        self.same(*(lambda store, batch=batch: store.calls.failures(batch) for batch in batches))

    @rule(number=numbers, at_ms=times)
    def cancel(self, number, at_ms):
        self.same(lambda store: store.calls.cancel(call_id(number), at_ms))

    @rule(before_ms=times, limit=limits)
    def expire(self, before_ms, limit):
        self.same(lambda store: store.calls.expire(before_ms, limit=limit))

    @rule(before_ms=times, limit=limits)
    def forget(self, before_ms, limit):
        self.same(lambda store: store.calls.forget(before_ms, limit=limit))

    @rule(number=numbers, start=indices, limit=limits, size=st.sampled_from([0, 2, 400, 10**6]))
    def read_outputs(self, number, start, limit, size):
        self.same(
            lambda store: store.calls.outputs(call_id(number), start=start, limit=limit, bytes_max=size),
            lambda store: store.calls.statuses(call_id(number), start=start, limit=limit),
        )

    @rule(number=numbers, index=indices, limit=limits)
    def read_pending(self, number, index, limit):
        self.same(lambda store: store.calls.pending((call_id(number), index), limit=limit))

    @rule(app_id=app_ids, version=st.none() | st.integers(1, 2), functions=specs, stopped=st.booleans())
    def publish(self, app_id, version, functions, stopped):
        app = AppRecord(app_id=app_id, state=AppState.STOPPED if stopped else AppState.DEPLOYED)
        deployment = version and DeploymentRecord(app_id=app_id, name="n", version=version, deployed_at_ms=1)
        self.same(lambda store: store.apps.publish(app, deployment, functions))

    @rule(app_id=app_ids, functions=specs)
    def bind(self, app_id, functions):
        self.same(lambda store: store.functions.put(app_id, functions))

    @rule(app_id=app_ids, at_ms=times)
    def stop(self, app_id, at_ms):
        self.same(lambda store: store.apps.stop(app_id, at_ms))

    @rule(records=st.lists(containers, max_size=4))
    def put_containers(self, records):
        self.same(lambda store: store.containers.put(records))

    @rule(before_ms=times, limit=limits)
    def forget_containers(self, before_ms, limit):
        self.same(lambda store: store.containers.forget(before_ms, limit=limit))

    @rule()
    def restart(self):
        self.runner.run(self.store.close())
        self.reopen()

    @invariant()
    def all_reads_agree(self):
        asks = [
            lambda store: store.calls.pending(limit=100),
            lambda store: store.calls.recent(limit=100),
            lambda store: store.calls.recent("ap-1", limit=2),
            lambda store: store.apps.recent(limit=100),
            lambda store: store.apps.recent(include_stopped=False, limit=1),
            lambda store: store.apps.by_name("n"),
            lambda store: store.apps.history("n"),
            lambda store: store.functions.of_app("ap-1"),
            lambda store: store.functions.unlisted("ap-1"),
            lambda store: store.functions.get("fu-1"),
            lambda store: store.containers.recent(),
            lambda store: store.containers.recent("ap-2", limit=2),
            lambda store: store.containers.summary("ap-1"),
        ]
        asks += [lambda store, n=n: store.calls.outputs(call_id(n), limit=100) for n in range(4)]
        asks += [lambda store, n=n: store.calls.get(call_id(n)) for n in range(4)]
        self.same(*asks)

    @invariant()
    def inputs_are_conserved(self):
        for call in self.runner.run(self.model.calls.recent(limit=100)):
            ended = len(self.runner.run(self.store.calls.statuses(call.call_id, limit=1_000)))
            page = self.runner.run(self.store.calls.pending(limit=1_000))
            waiting = sum(item.call_id == call.call_id for item in page.inputs)
            assert (ended, ended + waiting) == (call.succeeded + call.failed, call.inputs)


checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
quick = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=checks)


def test_stores_agree():
    run_state_machine_as_test(StoresAgree, settings=quick)


@pytest.mark.slow
def test_stores_agree_for_long():
    run_state_machine_as_test(StoresAgree, settings=settings(quick, max_examples=400, stateful_step_count=60))
