"""Blob stores of this machine, by the contract of their port; and what only a disk can do."""

import os

import pytest

from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.drivers.blobs.memory import MemoryBlobs
from jitney.errors import NotFoundError
from jitney.testing.conformance.blobs import FOR_EVER, BlobContract


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
        assert run(again.old(FOR_EVER)) == [digest]
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == [digest]

    def test_place_never_writes_through_a_link(self, blobs, run, tmp_path):
        [digest] = run(blobs.put([b"x"]))
        (tmp_path / "target").write_bytes(b"precious")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        with pytest.raises(Exception, match="exists"):
            run(blobs.place(digest, tmp_path / "link"))
        assert (tmp_path / "target").read_bytes() == b"precious"

    def test_6_putting_again_makes_it_new(self, blobs, run, tmp_path):
        digests = run(blobs.put([b"a", b"b"]))
        for digest in digests:
            os.utime(tmp_path / "blobs" / digest, (1, 1))
        run(blobs.put([b"b"]))
        assert run(blobs.old(2_000)) == digests[:1]

    def test_trimming_keeps_what_was_read_last(self, blobs, run, tmp_path):
        digests = run(blobs.put([bytes([one]) * 100 for one in range(5)]))
        for at, digest in enumerate(digests):
            os.utime(tmp_path / "blobs" / digest, (at + 1, 1))
        run(blobs.read(digests[0]))
        run(blobs.place(digests[1], tmp_path / "x"))
        assert run(blobs.trim(300)) == 2
        assert run(blobs.missing(digests)) == digests[2:4]
        assert run(blobs.trim(300)) == 0
        large = run(blobs.put([bytes(301)]))
        assert run(blobs.trim(300)) == 1  # what does not fit takes nothing else along
        assert run(blobs.missing(large)) == large
        assert run(blobs.old(2_000)) == sorted([digests[0], digests[1], digests[4]])  # being read makes nothing new


class TestMemoryBlobs(BlobContract):
    def make(self, folder):
        return MemoryBlobs()
