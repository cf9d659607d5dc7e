"""Contents of sources are collected while others make sources of them: what one has is never gone."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.drivers.blobs.memory import MemoryBlobs
from jitney.drivers.sources.localdir import COLLECT_EVERY_MS, LocalSources
from jitney.errors import NotFoundError, StorageCorruptError
from jitney.testing.conformance.running import Running
from jitney.values.sources import SourceFile

TRIES = 50


class SlowBlobs(MemoryBlobs):
    """One that takes some turns of the loop. All contents were put at 0 ms."""

    def __init__(self, turns):
        super().__init__()
        self._turns = list(turns)

    async def _wait(self):
        for _ in range(self._turns.pop() if self._turns else 1):
            await asyncio.sleep(0)

    async def missing(self, digests):
        found = await super().missing(digests)
        await self._wait()
        return found

    async def put(self, contents):
        await self._wait()
        return await super().put(contents)

    async def place(self, digest, target, *, executable=False):
        await self._wait()
        await super().place(digest, target, executable=executable)

    async def old(self, before_ms):
        found = await super().old(before_ms)
        await self._wait()
        return found

    async def remove(self, digests):
        for digest in digests:
            await self._wait()
            await super().remove([digest])


async def ship(sources, contents):
    """As a client does it: see client.source."""
    digests = await MemoryBlobs().put(contents)
    files = [SourceFile(f"f{at}", digest) for at, digest in enumerate(digests)]
    for _ in range(TRIES):
        missing = set(await sources.missing(digests))
        await sources.put([c for c, digest in zip(contents, digests, strict=True) if digest in missing])
        try:
            return await sources.create(files), digests
        except NotFoundError:
            pass
    raise AssertionError("never made")


CONTENT = st.sampled_from([b"a", b"b", b"c", b"d"])


@settings(max_examples=60, deadline=None)
@given(
    writers=st.lists(st.tuples(st.lists(CONTENT, min_size=1, max_size=3), st.integers(0, 9)), min_size=1, max_size=5),
    collections=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    turns=st.lists(st.integers(0, 6), max_size=40),
    left=st.lists(CONTENT),
)
def test_what_a_source_has_is_never_collected(writers, collections, turns, left):
    async def write(sources, contents, wait):
        for _ in range(wait):
            await asyncio.sleep(0)
        return await ship(sources, contents)

    async def collect(sources, days, wait):
        for _ in range(wait):
            await asyncio.sleep(0)
        await sources.sweep(set(), days * COLLECT_EVERY_MS)  # before all sources, and after all contents

    async def story(folder):
        blobs = SlowBlobs(turns)
        sources = LocalSources(folder, blobs)
        await blobs.put(left)
        collecting = [collect(sources, days, wait) for days, wait in enumerate(collections, 1)]
        writing = [write(sources, contents, wait) for contents, wait in writers]
        made = (await asyncio.gather(*writing, *collecting))[: len(writing)]
        had = {digest for _, digests in made for digest in digests}
        assert await blobs.missing(sorted(had)) == []
        await sources.sweep(set(), 1_000 * COLLECT_EVERY_MS)
        assert await blobs.old(10**15) == sorted(had)
        again = LocalSources(folder, blobs)
        for source_id, _ in made:
            for file in (folder / source_id).iterdir():
                file.unlink()
            assert await again.path(source_id) is not None

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))


class GatedBlobs(MemoryBlobs):
    """One that removes when it is let."""

    def __init__(self):
        super().__init__()
        self.removing, self.gate = asyncio.Event(), asyncio.Event()

    async def remove(self, digests):
        self.removing.set()
        await self.gate.wait()
        await super().remove(digests)


class TestCollecting(Running):
    @pytest.fixture
    def blobs(self):
        return MemoryBlobs()

    def test_a_manifest_that_cannot_be_read_stops_it(self, blobs, run, tmp_path):
        sources = LocalSources(tmp_path, blobs)
        source_id, digests = run(ship(sources, [b"a"]))
        (tmp_path / f"{source_id}.json").write_bytes(b"{")
        with pytest.raises(StorageCorruptError, match="damaged"):
            run(sources.sweep({source_id}, COLLECT_EVERY_MS))
        assert run(blobs.missing(digests)) == []

    def test_who_makes_a_source_of_what_is_going_waits_and_sends_it_again(self, run, tmp_path):
        async def story():
            blobs = GatedBlobs()
            sources = LocalSources(tmp_path, blobs)
            await blobs.put([b"a"])
            collecting = asyncio.create_task(sources.sweep(set(), COLLECT_EVERY_MS))
            await blobs.removing.wait()
            shipping = asyncio.create_task(ship(sources, [b"a"]))
            await asyncio.wait([shipping], timeout=0.2)  # it waits; or is done, and then has what goes now
            blobs.gate.set()
            await collecting
            _, digests = await shipping
            assert await blobs.missing(digests) == []

        run(story())

    def test_it_is_done_once_a_day_when_no_source_is_dropped(self, blobs, run, tmp_path):
        sources = LocalSources(tmp_path, blobs)
        run(sources.sweep(set(), COLLECT_EVERY_MS))
        digests = run(sources.put([b"never in one"]))
        run(sources.sweep(set(), 2 * COLLECT_EVERY_MS - 1))
        assert run(blobs.missing(digests)) == []
        run(sources.sweep(set(), 2 * COLLECT_EVERY_MS))
        assert run(blobs.missing(digests)) == digests

    def test_a_source_that_is_created_again_is_as_new_as_one_that_was_not_there(self, blobs, run, tmp_path):
        sources = LocalSources(tmp_path, blobs)
        source_id, _ = run(ship(sources, [b"a"]))
        os.utime(tmp_path / f"{source_id}.json", (1, 1))
        assert run(ship(sources, [b"a"]))[0] == source_id
        assert run(sources.sweep(set(), 2_000)) == 0
        os.utime(tmp_path / f"{source_id}.json", (1, 1))
        assert run(sources.sweep(set(), 2_000)) == 1
        assert run(sources.path(source_id)) is None
