"""Volumes in the store: both drivers obey the contract, and SQLite answers as the model does."""

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
from jitney.ports.volumes import Commit, Diff, Restore
from jitney.testing.conformance.store_volumes import (
    WORKSPACE,
    VolumeContract,
    file,
    folder,
    large,
    link,
    volume_id,
)
from jitney.values.volumes import Entry, Retention


class TestMemoryVolumes(VolumeContract):
    def make(self, folder):
        return MemoryStore()


class TestSqliteVolumes(VolumeContract):
    def make(self, folder):
        return SqliteStore(folder / "store.sqlite", ballast_bytes=64 * 1024)


paths = st.sampled_from(["a", "b", "a/b", "a/c", "a/b/c", "a!", "b/a", "b/a/a", "c"])
contents = [large(b"A"), large(b"A", b"B"), large(b"B", tail=3)]


def of(path, content):
    return Entry(path=path, size=content.size, digest=content.digest)


entries = st.one_of(
    st.builds(file, paths, st.sampled_from(["1", "2"])),
    st.builds(of, paths, st.sampled_from(contents)),
    st.builds(folder, paths, mode=st.sampled_from([0o755, 0o700])),
    st.builds(lambda path: link(path, "x"), paths),
)
volumes = st.integers(1, 2)
versions = st.integers(0, 8)


async def pages(store, volume, old, new, limit):
    """A difference, page by page."""
    puts, removes, after = [], [], ""
    while True:
        page = await store.diff(volume, old, new, after=after, limit=limit)
        assert len(page.puts) + len(page.removes) <= limit
        puts, removes, after = puts + page.puts, removes + page.removes, page.after
        if not after:
            return Diff(puts, removes)


class VolumesAgree(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="volumes-"))
        self.runner = asyncio.Runner()
        self.model = MemoryStore()
        self.store = SqliteStore(self.folder / "store.sqlite", ballast_bytes=0)

    def teardown(self):
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def same(self, *asks):
        async def all_of(store):
            return [await asyncio.gather(ask(store.volumes), return_exceptions=True) for ask in asks]

        def plain(answers):
            return [(type(one) if isinstance(one, JitneyError) else one) for [one] in answers]

        expected = plain(self.runner.run(all_of(self.model)))
        assert plain(self.runner.run(all_of(self.store))) == expected
        return expected

    @rule(
        volume=volumes,
        behind=st.integers(0, 3),
        puts=st.lists(entries, max_size=4, unique_by=lambda entry: entry.path),
        removes=st.lists(paths, max_size=3),
        key=st.sampled_from(["", "", "", "k"]),
    )
    def commit(self, volume, behind, puts, removes, key):
        [head] = self.runner.run(self.model.volumes.heads([volume_id(volume)]))
        base = max(0, head.version - behind)
        used = [c for c in contents if c.digest in {entry.digest for entry in puts}]
        commit = Commit(volume_id(volume), base, puts, removes, used, "m", head.version, key)
        self.same(lambda store: store.commit(commit))

    @rule(volume=volumes, version=versions)
    def restore(self, volume, version):
        self.same(lambda store: store.restore(Restore(volume_id(volume), version, "r", 3)))

    @rule(volume=volumes)
    def delete(self, volume):
        self.same(lambda store: store.delete(volume_id(volume)), lambda store: store.sweep())

    @rule()
    def forget(self):
        self.same(lambda store: store.forget_contents(WORKSPACE, [c.digest for c in contents]))

    def is_there(self, volume, version):
        return self.runner.run(self.model.volumes.version(volume_id(volume), version)) is not None

    @rule(volume=volumes, gone=st.lists(versions, max_size=5))
    def prune(self, volume, gone):
        self.same(lambda store: store.prune(volume_id(volume), gone))
        for store in (self.model, self.store):
            while self.runner.run(store.volumes.sweep(limit=2)):
                pass

    @rule(volume=volumes, kept=st.none() | st.builds(Retention, versions=st.integers(1, 3), days=st.integers(0, 3)))
    def keep(self, volume, kept):
        self.same(lambda store: store.keep(volume_id(volume), kept))

    @rule(volume=volumes, old=versions, new=versions, limit=st.integers(1, 3))
    def diff(self, volume, old, new, limit):
        [head] = self.runner.run(self.model.volumes.heads([volume_id(volume)]))
        old, new = min(old, head.version), min(new, head.version)
        if not (self.is_there(volume, old) and self.is_there(volume, new)):
            return
        [diff] = self.same(lambda store: store.diff(volume_id(volume), old, new))
        for store in (self.model, self.store):
            assert self.runner.run(pages(store.volumes, volume_id(volume), old, new, limit)) == diff
        before, after = (self.listed(volume, version) for version in (old, new))
        made = {path: entry for path, entry in before.items() if path not in diff.removes}
        assert {**made, **{entry.path: entry for entry in diff.puts}} == after

    def listed(self, volume, version):
        found = self.runner.run(self.store.volumes.entries(volume_id(volume), version, recursive=True))
        return {entry.path: entry for entry in found}

    @rule(volume=volumes, version=versions, folder=paths, after=paths, limit=st.integers(0, 3), recursive=st.booleans())
    def page(self, volume, version, folder, after, limit, recursive):
        if not self.is_there(volume, version):
            return
        inside = after if after.startswith(folder + "/") else ""
        self.same(
            lambda store: store.entries(
                volume_id(volume), version, folder, recursive=recursive, after=inside, limit=limit
            )
        )

    @invariant()
    def all_reads_agree(self):
        for volume in (1, 2):
            self.same(
                lambda store, v=volume: store.heads([volume_id(v)]),
                lambda store, v=volume: store.history(volume_id(v)),
                lambda store, v=volume: store.retention(volume_id(v)),
                *(lambda store, v=volume, n=n: store.version(volume_id(v), n) for n in range(9)),
                *(
                    lambda store, v=volume, n=n: store.entries(volume_id(v), n, recursive=True)
                    for n in range(9)
                    if self.is_there(volume, n)
                ),
            )
        self.same(
            lambda store: store.known(),
            lambda store: store.contents(WORKSPACE, [c.digest for c in contents]),
            lambda store: store.referenced(WORKSPACE, [c.digest for c in contents]),
            lambda store: store.blocks(WORKSPACE, [c.block(i) for c in contents for i in range(2)]),
        )

    @invariant()
    def every_version_is_a_tree(self):
        for volume in (1, 2):
            [head] = self.runner.run(self.store.volumes.heads([volume_id(volume)]))
            found = self.listed(volume, head.version)
            for path in found:
                above = path.rpartition("/")[0]
                assert not above or found[above].kind == "dir"
            assert head.size == sum(entry.size for entry in found.values())
            assert head.files == sum(entry.kind == "file" for entry in found.values())


checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
quick = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=checks)


def test_stores_agree_on_volumes():
    run_state_machine_as_test(VolumesAgree, settings=quick)


def test_stores_agree_on_what_is_left_of_a_pruned_volume():
    state = VolumesAgree()
    for puts, removes in ([file("c", "1")], []), ([file("a", "1")], []), ([], ["a"]):
        state.commit(volume=1, behind=0, puts=puts, removes=removes, key="")
    state.prune(volume=1, gone=[2])
    state.delete(volume=1)
    state.teardown()


@pytest.mark.slow
def test_stores_agree_on_volumes_for_long():
    run_state_machine_as_test(VolumesAgree, settings=settings(quick, max_examples=300, stateful_step_count=50))
