"""What every blob store must do. Numbers in the names are those of the sentences in ports.blobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from jitney.errors import InvalidError, NotFoundError
from jitney.ports.blobs import BlobStore
from jitney.testing.conformance.running import Run, Running

NONE = "0" * 64
FOR_EVER = 10**15
HOSTILE = ("", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 32 + "/" + "a" * 31, "\0" * 64)


class BlobContract(Running):
    """Subclass and say how one is made."""

    def make(self, folder: Path) -> BlobStore:
        """The blob store of this folder."""
        raise NotImplementedError

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        """A new one."""
        return self.make(tmp_path / "blobs")

    def test_what_is_put_is_there(self, blobs: BlobStore, run: Run) -> None:
        contents = [b"", b"one", b"two", b"one", os.urandom(3_000_000)]
        digests = run(blobs.put(contents))
        assert digests == [hashlib.sha256(content).hexdigest() for content in contents]
        assert [run(blobs.read(digest)) for digest in digests] == contents
        assert run(blobs.missing([NONE, digests[1], NONE])) == [NONE]
        assert run(blobs.old(FOR_EVER)) == sorted(set(digests))

    def test_2_putting_again_does_nothing(self, blobs: BlobStore, run: Run) -> None:
        assert run(blobs.put([b"x"])) == run(blobs.put([b"x"]))
        assert run(blobs.put([])) == []

    @pytest.mark.parametrize("digest", HOSTILE)
    def test_1_no_path_is_made_of_what_is_no_digest(self, blobs: BlobStore, run: Run, digest: str) -> None:
        for ask in (blobs.missing([digest]), blobs.read(digest), blobs.remove([digest])):
            with pytest.raises(InvalidError):
                run(ask)
        with pytest.raises(InvalidError):
            run(blobs.place(digest, Path(os.devnull)))

    def test_what_is_not_there_is_said_so(self, blobs: BlobStore, run: Run, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            run(blobs.read(NONE))
        with pytest.raises(NotFoundError):
            run(blobs.place(NONE, tmp_path / "x"))
        assert not (tmp_path / "x").exists()

    def test_4_a_placed_file_is_its_own(self, blobs: BlobStore, run: Run, tmp_path: Path) -> None:
        [digest] = run(blobs.put([b"#!/bin/sh\n"]))
        run(blobs.place(digest, tmp_path / "plain"))
        run(blobs.place(digest, tmp_path / "program", executable=True))
        assert [os.stat(tmp_path / name).st_mode & 0o777 for name in ("plain", "program")] == [0o444, 0o555]
        (tmp_path / "plain").chmod(0o644)
        (tmp_path / "plain").write_bytes(b"changed")
        assert run(blobs.read(digest)) == (tmp_path / "program").read_bytes() == b"#!/bin/sh\n"

    def test_4_no_file_is_placed_over_another(self, blobs: BlobStore, run: Run, tmp_path: Path) -> None:
        [digest] = run(blobs.put([b"x"]))
        (tmp_path / "there").write_bytes(b"precious")
        with pytest.raises(Exception, match="exists"):
            run(blobs.place(digest, tmp_path / "there"))
        assert (tmp_path / "there").read_bytes() == b"precious"

    def test_6_what_is_old_is_told(self, blobs: BlobStore, run: Run) -> None:
        digests = run(blobs.put([b"a", b"b"]))
        assert run(blobs.old(-1)) == []
        assert run(blobs.old(FOR_EVER)) == sorted(digests)
        run(blobs.remove(digests[:1]))
        assert run(blobs.old(FOR_EVER)) == digests[1:]

    def test_putting_the_same_from_many_sides_is_fine(self, blobs: BlobStore, run: Run) -> None:
        async def together() -> list[list[str]]:
            return await asyncio.gather(*(blobs.put([b"a", b"b"]) for _ in range(8)))

        assert len({tuple(digests) for digests in run(together())}) == 1

    def test_removed_is_missing(self, blobs: BlobStore, run: Run) -> None:
        [digest] = run(blobs.put([b"x"]))
        run(blobs.remove([digest, NONE]))
        assert run(blobs.missing([digest])) == [digest]
