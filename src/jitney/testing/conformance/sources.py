"""What every store of sources must do. Numbers in the names are those of the sentences in ports.sources."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jitney.errors import InvalidError, NotFoundError, UnsupportedError
from jitney.ports.sources import SourceStore
from jitney.testing.conformance.running import Run, Running
from jitney.values import ids
from jitney.values.sources import SourceFile

FOR_EVER = 1 << 60


class SourceContract(Running):
    """Subclass and say how one is made."""

    def make(self, folder: Path) -> SourceStore:
        """The store of this folder."""
        raise NotImplementedError

    @pytest.fixture
    def sources(self, tmp_path: Path) -> SourceStore:
        """A new one."""
        return self.make(tmp_path / "home")

    @pytest.fixture
    def files(self, sources: SourceStore, run: Run) -> list[SourceFile]:
        """Three files whose contents were put."""
        digests = run(sources.put([b"import pkg.mod\n", b"x = 1\n", b"#!/bin/sh\n"]))
        paths = ["main.py", "pkg/mod.py", "pkg/bin/tool"]
        return [SourceFile(path, digest, "bin" in path) for path, digest in zip(paths, digests, strict=True)]

    def test_2_equal_trees_are_one_source(self, sources: SourceStore, run: Run, files: list[SourceFile]) -> None:
        async def together() -> tuple[str, ...]:
            return await asyncio.gather(sources.create(files), sources.create(files[::-1]), sources.create(files))

        [source_id] = set(run(together()))
        assert ids.is_id(source_id, ids.SOURCE)
        assert run(sources.create(files)) == source_id
        assert run(sources.create(files[:2])) != source_id
        assert run(sources.path(source_id)) is not None

    def test_below_root_is_below_the_import_root(self, sources: SourceStore, run: Run, files: list[SourceFile]) -> None:
        absolute = [SourceFile("/root/" + file.path, file.digest, file.executable) for file in files]
        assert run(sources.create(absolute)) == run(sources.create(files))

    def test_a_source_of_nothing_is_one(self, sources: SourceStore, run: Run) -> None:
        assert run(sources.path(run(sources.create([])))) is not None

    def test_a_missing_content_is_said_so(self, sources: SourceStore, run: Run, files: list[SourceFile]) -> None:
        lost = SourceFile("lost.py", "0" * 64)
        assert run(sources.missing([files[0].digest, lost.digest])) == [lost.digest]
        with pytest.raises(NotFoundError):
            run(sources.create([*files, lost]))

    def test_3_hostile_paths_are_refused(self, sources: SourceStore, run: Run, files: list[SourceFile]) -> None:
        for path in ("../x", "a/../../x", "", "a//b", "/root/../etc/x", "a\0b", "./x", "/root/"):
            with pytest.raises(InvalidError):
                run(sources.create([SourceFile(path, files[0].digest)]))
        with pytest.raises(UnsupportedError):
            run(sources.create([SourceFile("/etc/x", files[0].digest)]))

    def test_an_unknown_source_has_no_path(self, sources: SourceStore, run: Run) -> None:
        assert run(sources.path(ids.make(ids.SOURCE, b"u" * 16))) is None
        with pytest.raises(InvalidError):
            run(sources.path("so-../../../../../../etc"))

    def test_swept_sources_are_gone_with_what_only_they_had(
        self, sources: SourceStore, run: Run, files: list[SourceFile]
    ) -> None:
        kept, dropped = run(sources.create(files[:2])), run(sources.create(files))
        assert run(sources.sweep({kept}, 0)) == 0
        assert run(sources.sweep({kept}, FOR_EVER)) == 1
        assert run(sources.path(dropped)) is None
        assert run(sources.path(kept)) is not None
        assert run(sources.missing([file.digest for file in files])) == [files[2].digest]

    def test_contents_that_never_were_in_a_source_are_swept_too(
        self, sources: SourceStore, run: Run, files: list[SourceFile]
    ) -> None:
        kept = run(sources.create(files[:1]))
        assert run(sources.sweep({kept}, 0)) == 0
        assert run(sources.missing([file.digest for file in files])) == []
        assert run(sources.sweep({kept}, FOR_EVER)) == 0
        assert run(sources.missing([file.digest for file in files])) == [file.digest for file in files[1:]]
