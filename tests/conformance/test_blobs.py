"""Both blob stores, by the contract of their port; and what only a disk can do."""

import asyncio

import pytest

from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.drivers.blobs.memory import MemoryBlobs
from jitney.errors import NotFoundError
from jitney.testing.conformance.blobs import BlobContract


class TestLocalBlobs(BlobContract):
    def make(self, folder):
        return LocalBlobs(folder)

    def test_3_a_damaged_content_counts_as_missing(self, blobs, run, tmp_path):
        first, second = run(blobs.put([b"first", b"second"]))
        for digest in (first, second):
            (tmp_path / "blobs" / digest).write_bytes(b"damaged")
        with pytest.raises(NotFoundError):
            run(blobs.read(first))
        with pytest.raises(NotFoundError):
            run(blobs.place(second, tmp_path / "x"))
        assert not (tmp_path / "x").exists()
        assert run(blobs.missing([first, second])) == [first, second]

    def test_2_half_written_files_of_a_killed_server_are_swept(self, blobs, run, tmp_path):
        [digest] = run(blobs.put([b"whole"]))
        (tmp_path / "blobs" / ".partial-0").write_bytes(b"hal")
        again = LocalBlobs(tmp_path / "blobs")
        assert run(again.digests()) == [digest]
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == [digest]

    def test_place_never_writes_through_a_link(self, blobs, run, tmp_path):
        [digest] = run(blobs.put([b"x"]))
        (tmp_path / "target").write_bytes(b"precious")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        with pytest.raises(Exception, match="exists"):
            run(blobs.place(digest, tmp_path / "link"))
        assert (tmp_path / "target").read_bytes() == b"precious"

    def test_putting_the_same_from_many_sides_is_fine(self, blobs, run):
        async def together():
            return await asyncio.gather(*(blobs.put([b"a", b"b"]) for _ in range(8)))

        assert len({tuple(digests) for digests in run(together())}) == 1


class TestMemoryBlobs(BlobContract):
    def make(self, folder):
        return MemoryBlobs()
