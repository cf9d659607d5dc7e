"""Contents far away with a part of them near: what is asked of which, and what becomes of failures and of removals."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.drivers.blobs.cached import CachedBlobs
from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.drivers.blobs.memory import MemoryBlobs
from jitney.errors import BucketUnavailableError, NotFoundError, StorageError, StorageFullError
from jitney.testing.conformance.blobs import BlobContract
from jitney.testing.conformance.running import Running


class Far(MemoryBlobs):
    """One that notes what it is asked, may take some turns of the loop for it, and may fail."""

    def __init__(self, turns=()):
        super().__init__()
        self.asked = []
        self.failing = False
        self._turns = list(turns)

    async def _ask(self, what):
        self.asked.append(what)
        for _ in range(self._turns.pop() if self._turns else 0):
            await asyncio.sleep(0)
        if self.failing:
            raise BucketUnavailableError("as planned")

    async def missing(self, digests):
        await self._ask("missing")
        return await super().missing(digests)

    async def put(self, contents):
        await self._ask("put")
        done = await super().put(contents)
        await self._ask("has put")
        return done

    async def read(self, digest):
        await self._ask("read")
        content = await super().read(digest)
        await self._ask("has read")
        return content

    async def remove(self, digests):
        await self._ask("remove")
        await super().remove(digests)
        await self._ask("has removed")


class FullBlobs(LocalBlobs):
    """One whose disk is full."""

    async def put(self, contents):
        raise StorageFullError("as planned")


class UnreadableBlobs(LocalBlobs):
    """One whose disk fails."""

    async def read(self, digest):
        raise StorageError("as planned")


class TestCachedBlobs(BlobContract):
    def make(self, folder):
        return CachedBlobs(Far(), LocalBlobs(folder, synced=False))


class TestWithAFullDiskNear(BlobContract):
    def make(self, folder):
        return CachedBlobs(Far(), FullBlobs(folder))


class TestWhatIsAsked(Running):
    @pytest.fixture
    def far(self):
        return Far()

    @pytest.fixture
    def near(self, tmp_path):
        return tmp_path / "near"

    @pytest.fixture
    def blobs(self, far, near):
        return CachedBlobs(far, LocalBlobs(near, synced=False))

    def test_what_was_put_here_is_not_asked_for_far_away(self, blobs, far, run, tmp_path):
        [digest] = run(blobs.put([b"x"]))
        far.failing = True
        far.asked.clear()
        assert run(blobs.missing([digest])) == []
        assert run(blobs.read(digest)) == b"x"
        run(blobs.place(digest, tmp_path / "x"))
        assert far.asked == []
        with pytest.raises(BucketUnavailableError):
            run(blobs.put([b"y"]))

    @pytest.mark.parametrize("harm", ["gone", "damaged"])
    def test_what_is_not_near_is_fetched_once(self, blobs, far, near, run, tmp_path, harm):
        [digest] = run(blobs.put([b"x"]))
        if harm == "gone":
            (near / digest).unlink()
        else:
            (near / digest).write_bytes(b"")  # by a loss of power: it was not synced
        far.asked.clear()
        run(blobs.place(digest, tmp_path / "a"))
        run(blobs.place(digest, tmp_path / "b"))
        assert run(blobs.read(digest)) == (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"x"
        assert far.asked == ["read", "has read"]

    def test_what_could_not_be_put_far_away_is_not_near(self, blobs, far, near, run):
        far.failing = True
        with pytest.raises(BucketUnavailableError):
            run(blobs.put([b"x"]))
        assert os.listdir(near) == []

    def test_a_removal_that_failed_far_away_leaves_it_there(self, blobs, far, near, run):
        [digest] = run(blobs.put([b"x"]))
        far.failing = True
        with pytest.raises(BucketUnavailableError):
            run(blobs.remove([digest]))
        far.failing = False
        assert os.listdir(near) == []
        assert run(blobs.read(digest)) == b"x"

    def test_what_cannot_be_read_near_is_read_far_away(self, far, run, tmp_path):
        blobs = CachedBlobs(far, UnreadableBlobs(tmp_path / "near"))
        [digest] = run(blobs.put([b"x"]))
        assert run(blobs.read(digest)) == b"x"

    def test_what_is_near_is_bounded(self, far, near, run):
        blobs = CachedBlobs(far, LocalBlobs(near, synced=False), near_bytes_max=10_000)
        digests = []
        for one in range(100):
            digests += run(blobs.put([bytes([one]) * 1_000]))
            assert sum(path.stat().st_size for path in near.iterdir()) <= 10_000
        assert [run(blobs.read(digest))[0] for digest in digests] == list(range(100))
        assert sum(path.stat().st_size for path in near.iterdir()) <= 10_000
        [large] = run(blobs.put([bytes(20_000)]))
        assert len(run(blobs.read(large))) == 20_000

    def test_another_bound_holds_from_the_first_content_on(self, far, near, run):
        run(CachedBlobs(far, LocalBlobs(near)).put([bytes([one]) * 1_000 for one in range(20)]))
        run(CachedBlobs(far, LocalBlobs(near), near_bytes_max=5_000).put([b"x"]))
        assert sum(path.stat().st_size for path in near.iterdir()) <= 5_000


CONTENTS = [b"a", b"b", b"c"]
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "read", "place", "remove"]), st.sampled_from(CONTENTS), st.integers(0, 6)),
    min_size=2,
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.lists(st.integers(0, 8), max_size=40))
def test_what_is_near_is_far_too_whatever_comes_together(steps, turns):
    """Else `missing` would say of what is gone that it is there."""

    async def step(blobs, folder, number, what, content, wait):
        for _ in range(wait):
            await asyncio.sleep(0)
        [digest] = await MemoryBlobs().put([content])
        try:
            if what == "put":
                await blobs.put([content])
            elif what == "remove":
                await blobs.remove([digest])
            elif what == "read":
                assert await blobs.read(digest) == content
            else:
                await blobs.place(digest, folder / str(number))
        except NotFoundError:
            pass

    async def story(folder):
        far = Far(turns)
        blobs = CachedBlobs(far, LocalBlobs(folder / "near", synced=False))
        await asyncio.gather(*(step(blobs, folder, number, *one) for number, one in enumerate(steps)))
        assert await far.missing(os.listdir(folder / "near")) == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))
