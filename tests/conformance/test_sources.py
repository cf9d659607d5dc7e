"""Both stores of sources, by the contract of their port; and what only a disk can do."""

import os
import shutil

import pytest

from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.drivers.blobs.memory import MemoryBlobs
from jitney.drivers.sources.localdir import LocalSources
from jitney.drivers.sources.memory import MemorySources
from jitney.errors import NotFoundError
from jitney.testing.conformance.sources import SourceContract


class TestMemorySources(SourceContract):
    def make(self, folder):
        return MemorySources(MemoryBlobs())


class TestLocalSources(SourceContract):
    def make(self, folder):
        return LocalSources(folder / "sources", LocalBlobs(folder / "files"))

    def test_the_tree_is_as_told(self, sources, run, files):
        root = run(sources.path(run(sources.create(files))))
        found = {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mode & 0o777) for p in root.rglob("*.*")}
        assert found == {"main.py": (b"import pkg.mod\n", 0o444), "pkg/mod.py": (b"x = 1\n", 0o444)}
        assert os.access(root / "pkg/bin/tool", os.X_OK)
        (root / "pkg" / "__pycache__").mkdir()

    def test_4_changing_one_source_changes_no_other(self, sources, run, files):
        first = run(sources.path(run(sources.create(files))))
        (first / "main.py").chmod(0o644)
        (first / "main.py").write_bytes(b"changed")
        second = run(sources.path(run(sources.create(files[:1]))))
        assert (second / "main.py").read_bytes() == b"import pkg.mod\n"

    @pytest.mark.parametrize("harm", ["truncated", "file gone", "folder gone"])
    def test_1_a_damaged_tree_is_made_anew(self, sources, run, files, tmp_path, harm):
        source_id = run(sources.create(files))
        root = run(sources.path(source_id))
        if harm == "truncated":
            os.truncate(root / "main.py", 0)
        elif harm == "file gone":
            (root / "pkg" / "mod.py").unlink()
        else:
            shutil.rmtree(root)
        again = self.make(tmp_path / "home")
        assert run(again.path(source_id)) == root
        assert (root / "main.py").read_bytes() == b"import pkg.mod\n"
        assert (root / "pkg" / "mod.py").read_bytes() == b"x = 1\n"

    def test_1_a_damaged_tree_without_its_contents_counts_as_not_there(self, sources, run, files, tmp_path):
        source_id = run(sources.create(files))
        shutil.rmtree(run(sources.path(source_id)))
        shutil.rmtree(tmp_path / "home" / "files")
        again = self.make(tmp_path / "home")
        assert run(again.path(source_id)) is None
        with pytest.raises(NotFoundError):
            run(again.create(files))
        again_files = [b"import pkg.mod\n", b"x = 1\n", b"#!/bin/sh\n"]
        run(again.put(again_files))
        assert run(again.create(files)) == source_id

    def test_1_what_a_killed_server_left_is_swept(self, sources, run, files, tmp_path):
        run(sources.create(files))
        left = tmp_path / "home" / "sources" / ".partial-00"
        (left / "pkg").mkdir(parents=True)
        self.make(tmp_path / "home")
        assert not left.exists()
        assert not list((tmp_path / "home" / "sources").glob(".*"))
