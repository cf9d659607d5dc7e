"""Secrets in the store: both drivers obey the contract, and SQLite answers as the model does."""

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
from jitney.testing.conformance.store_secrets import SecretContract, entry, kept, rewrapped, secret_id
from jitney.values.apps import AppRecord, AppState
from jitney.values.secrets import Action


class TestMemorySecrets(SecretContract):
    def make(self, folder):
        return MemoryStore()


class TestSqliteSecrets(SecretContract):
    def make(self, folder):
        return SqliteStore(folder / "store.sqlite", ballast_bytes=64 * 1024)


numbers = st.integers(1, 3)
versions = st.integers(1, 4)
times = st.integers(0, 50)
limits = st.integers(1, 4)
key_ids = st.sampled_from(["k-1", "k-2"])
owners = st.sampled_from([{}, {}, {"name": "name-1"}, {"app_id": "ap-1"}, {"app_id": "ap-2"}])
secrets = st.builds(
    lambda n, v, key, owner, at, text: kept(n, v, key_id=key, text=text, created_at_ms=at, updated_at_ms=at, **owner),
    numbers,
    versions,
    key_ids,
    owners,
    times,
    st.sampled_from(["", "x"]),
)
uses = st.builds(
    lambda of, action, at, container: entry(of, action, at_ms=at, container_id=container),
    secrets,
    st.sampled_from([Action.USED, Action.BUILT]),
    times,
    st.sampled_from(["", "ta-1"]),
)


class SecretsAgree(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="secrets-"))
        self.runner = asyncio.Runner()
        self.model = MemoryStore()
        self.reopen()

    def reopen(self):
        self.store = SqliteStore(self.folder / "store.sqlite", ballast_bytes=0)

    def teardown(self):
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def same(self, *asks):
        async def all_of(store):
            return await asyncio.gather(*(ask(store) for ask in asks), return_exceptions=True)

        def plain(answers):
            return [type(one) if isinstance(one, JitneyError) else one for one in answers]

        assert plain(self.runner.run(all_of(self.store))) == plain(self.runner.run(all_of(self.model)))

    @rule(of=secrets, at_ms=times)
    def create(self, of, at_ms):
        self.same(lambda store: store.secrets.create(of, entry(of, Action.CREATED, at_ms=at_ms)))

    @rule(of=secrets, at_ms=times)
    def update(self, of, at_ms):
        self.same(lambda store: store.secrets.update(of, entry(of, Action.UPDATED, at_ms=at_ms)))

    @rule(of=secrets, at_ms=times)
    def delete(self, of, at_ms):
        self.same(lambda store: store.secrets.delete(of.record.secret_id, entry(of, Action.DELETED, at_ms=at_ms)))

    @rule(app_id=st.sampled_from(["ap-1", "ap-2", ""]))
    def drop(self, app_id):
        self.same(lambda store: store.secrets.drop(app_id))

    @rule(app_id=st.sampled_from(["ap-1", "ap-2"]), stopped=st.booleans())
    def put_app(self, app_id, stopped):
        record = AppRecord(app_id=app_id, state=AppState.STOPPED if stopped else AppState.DEPLOYED)
        self.same(lambda store: store.apps.put([record]))

    @rule(before_ms=times, limit=limits)
    def expire(self, before_ms, limit):
        self.same(lambda store: store.secrets.expire(before_ms, limit=limit))

    @rule(entries=st.lists(uses, max_size=3))
    def used(self, entries):
        self.same(lambda store: store.secrets.used(entries))

    @rule(before_ms=times, limit=limits)
    def forget(self, before_ms, limit):
        self.same(lambda store: store.secrets.forget(before_ms, limit=limit))

    @rule(changes=st.lists(st.builds(rewrapped, secrets, key_ids), max_size=3))
    def rewrap(self, changes):
        self.same(lambda store: store.secrets.rewrap(changes))

    @rule()
    def restart(self):
        self.runner.run(self.store.close())
        self.reopen()

    @invariant()
    def all_reads_agree(self):
        ids = [secret_id(number) for number in range(1, 4)]
        asks = [
            lambda store: store.secrets.get(ids),
            lambda store: store.secrets.by_name(["name-1", "name-3", ""]),
            lambda store: store.secrets.of_app("ap-1"),
            lambda store: store.secrets.names(),
            lambda store: store.secrets.recent(),
            lambda store: store.secrets.recent(before_ms=25, limit=2),
            lambda store: store.secrets.uses(),
            lambda store: store.secrets.uses(name="name-1", limit=2),
            lambda store: store.secrets.uses(secret_id=ids[1]),
            lambda store: store.secrets.key_ids(),
            lambda store: store.secrets.wrapped_by_others("k-1", limit=2),
        ]
        self.same(*asks, *(lambda store, one=one: store.secrets.versions(one) for one in ids))


checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
quick = settings(max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=checks)


def test_secrets_agree():
    run_state_machine_as_test(SecretsAgree, settings=quick)


@pytest.mark.slow
def test_secrets_agree_for_long():
    run_state_machine_as_test(SecretsAgree, settings=settings(quick, max_examples=300, stateful_step_count=50))
