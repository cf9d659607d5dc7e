"""What every store must do with versions of volumes: see ports.volumes, whose numbers are in the names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.core.volumes import content_of, whole
from jitney.errors import AlreadyExistsError, InvalidError, NotFoundError
from jitney.ports.contents import Block
from jitney.ports.store import Store
from jitney.ports.volumes import Commit, Restore
from jitney.testing.conformance.running import Run, Running
from jitney.values import ids
from jitney.values.volumes import BLOCK_BYTES, Committed, Content, Entry, Kind, Retention

WORKSPACE = "main"


def volume_id(number: int = 1) -> str:
    """Some id of a volume."""
    return ids.make(ids.VOLUME, number.to_bytes(16, "big"))


def file(path: str, text: str = "x", **changes: Any) -> Entry:
    """A file that holds a text."""
    content = whole(text.encode())
    return Entry(path=path, size=content.size, digest=content.digest, **changes)


def folder(path: str, **changes: Any) -> Entry:
    """A folder."""
    return Entry(path=path, kind=Kind.DIR, **{"mode": 0o755, **changes})


def link(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path=path, kind=Kind.SYMLINK, target=target, mode=0o777)


def large(*blocks: bytes, tail: int = 0) -> Content:
    """A content of whole blocks with these digests, and `tail` bytes more."""
    digests = [block.ljust(32, b".") for block in blocks] + ([b"tail".ljust(32, b".")] if tail else [])
    return content_of(b"".join(digests), len(blocks) * BLOCK_BYTES + tail)


class VolumeContract(Running):
    """Subclass and say how a store is made."""

    def make(self, folder: Path) -> Store:
        """The store of this folder."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, run: Run, tmp_path: Path) -> Iterator[Store]:
        """A new store."""

        async def make() -> Store:
            return self.make(tmp_path)

        store = run(make())
        yield store
        run(store.close())

    @pytest.fixture
    def commit(self, store: Store, run: Run) -> Any:
        """Commit: `commit([puts], [removes], base=...)`."""

        def commit(puts: Any = (), removes: Any = (), *, base: int | None = None, **more: Any) -> Committed:
            base = run(store.volumes.heads([volume_id()]))[0].version if base is None else base
            done: Committed = run(store.volumes.commit(Commit(volume_id(), base, puts, removes, **more)))
            return done

        return commit

    @pytest.fixture
    def paths(self, store: Store, run: Run) -> Any:
        """All paths of a version, in the order of the listing."""

        def paths(version: int, folder: str = "", *, recursive: bool = True) -> list[str]:
            found = run(store.volumes.entries(volume_id(), version, folder, recursive=recursive))
            return [entry.path for entry in found]

        return paths

    def test_a_volume_that_nobody_committed_to_is_empty(self, store: Store, run: Run) -> None:
        [head] = run(store.volumes.heads([volume_id()]))
        assert (head.volume_id, head.version, head.files, head.size) == (volume_id(), 0, 0, 0)
        assert run(store.volumes.entries(volume_id(), 0)) == []
        assert run(store.volumes.entry(volume_id(), 0, "a")) is None
        assert run(store.volumes.history(volume_id())) == []
        assert run(store.volumes.version(volume_id(), 1)) is None
        nothing = run(store.volumes.version(volume_id(), 0))
        assert (nothing.version, nothing.files) == (0, 0)
        assert run(store.volumes.known()) == []

    def test_1_a_commit_is_one_version_more(self, store: Store, run: Run, commit: Any, paths: Any) -> None:
        puts = [file("a/b/c", "one"), link("a/l", "b/c"), file("top", "four", mode=0o755, mtime_ns=5)]
        done = commit(puts, message="first", at_ms=7)
        assert done == Committed(version=1, puts=5, removes=0)
        assert paths(1) == ["a", "top", "a/b", "a/l", "a/b/c"]
        assert paths(1, recursive=False) == ["a", "top"]
        assert paths(1, "a", recursive=False) == ["a/b", "a/l"]
        assert [run(store.volumes.entry(volume_id(), 1, one.path)) for one in puts] == puts
        assert run(store.volumes.entry(volume_id(), 1, "a/b")) == folder("a/b")
        [version] = run(store.volumes.history(volume_id()))
        assert (version.version, version.parent, version.message, version.at_ms) == (1, 0, "first", 7)
        assert (version.files, version.size, version.puts) == (2, 7, 5)
        [head] = run(store.volumes.heads([volume_id()]))
        assert (head.version, head.files, head.size, head.updated_at_ms) == (1, 2, 7, 7)

    def test_1_where_everything_is_so_already_there_is_no_version(self, commit: Any, paths: Any) -> None:
        commit([file("a/b", "one")])
        assert commit([file("a/b", "one")], ["gone"]) == Committed(version=1, changed=False)
        assert commit([folder("a")], ["a/b", "a"], base=0) != Committed(version=1, changed=False)
        assert paths(2) == ["a"]

    def test_2_commits_at_the_same_time_are_merged(self, store: Store, run: Run, commit: Any, paths: Any) -> None:
        commit([file("shared", "0")])

        async def race() -> list[Committed]:
            puts = [[file(f"own/{n}", str(n)), file("shared", str(n))] for n in range(1, 6)]
            return await asyncio.gather(*(store.volumes.commit(Commit(volume_id(), 1, put, ())) for put in puts))

        answers = run(race())
        assert sorted(answer.version for answer in answers) == [2, 3, 4, 5, 6]
        assert paths(6) == ["own", "shared", *(f"own/{n}" for n in range(1, 6))]
        by_version = sorted(answers, key=lambda answer: answer.version)
        assert [answer.conflicts for answer in by_version] == [(), *[("shared",)] * 4]
        last = 1 + answers.index(by_version[-1])
        assert run(store.volumes.entry(volume_id(), 6, "shared")) == file("shared", str(last))

    def test_2_what_others_changed_is_reported(self, store: Store, run: Run, commit: Any, paths: Any) -> None:
        commit([file("a"), file("b"), file("c"), file("d/x"), file("d/y"), file("e/z")])
        commit([file("a", "theirs"), file("d/new"), file("e/z", "theirs")], ["b"])
        mine = [file("a", "mine"), file("b", "mine"), file("c", "mine")]
        done = commit(mine, ["d", "e/z"], base=1)
        assert sorted(done.conflicts) == ["a", "b", "d/new", "e/z"]
        assert done.conflict_count == 4
        assert paths(3) == ["a", "b", "c", "d", "e", "d/new"]
        assert run(store.volumes.entry(volume_id(), 3, "a")) == mine[0]

    def test_3_a_commit_that_is_sent_again_is_done_once(self, store: Store, run: Run, commit: Any) -> None:
        first = commit([file("a", "1")], key="k1")
        commit([file("a", "2")], key="k2")
        assert commit([file("a", "1")], base=0, key="k1") == first
        assert run(store.volumes.entry(volume_id(), 2, "a")) == file("a", "2")
        restored = run(store.volumes.restore(Restore(volume_id(), 1, key="k3")))
        commit([file("a", "4")])
        assert run(store.volumes.restore(Restore(volume_id(), 1, key="k3"))) == restored
        assert run(store.volumes.heads([volume_id()]))[0].version == 4

    def test_4_versions_stay_as_they_are(self, store: Store, run: Run, commit: Any, paths: Any) -> None:
        commit([file("a/b", "1"), file("c")])
        commit([file("a/b", "2"), file("a/d")], ["c"])
        commit([], ["a"])
        commit([file("c", "again")])
        assert [paths(n) for n in range(5)] == [[], ["a", "c", "a/b"], ["a", "a/b", "a/d"], [], ["c"]]
        versions = run(store.volumes.history(volume_id()))
        assert [(v.version, v.files, v.puts, v.removes) for v in versions] == [
            (4, 1, 1, 0), (3, 0, 0, 3), (2, 2, 2, 1), (1, 2, 3, 0),
        ]  # fmt: skip
        assert [v.version for v in run(store.volumes.history(volume_id(), before=3, limit=1))] == [2]

    def test_a_version_is_restored_as_a_new_one(self, store: Store, run: Run, commit: Any, paths: Any) -> None:
        commit([file("a/b", "1"), file("kept")])
        commit([file("a", "now a file"), file("new/x")], ["a"])
        done = run(store.volumes.restore(Restore(volume_id(), 1, message="back", at_ms=9)))
        assert (done.version, done.changed, done.conflicts) == (3, True, ())
        assert run(store.volumes.entries(volume_id(), 3, recursive=True)) == run(
            store.volumes.entries(volume_id(), 1, recursive=True)
        )
        version = run(store.volumes.version(volume_id(), 3))
        assert (version.restored, version.message, version.at_ms, version.files, version.size) == (1, "back", 9, 2, 2)
        assert run(store.volumes.restore(Restore(volume_id(), 3))) == Committed(version=3, changed=False)
        assert run(store.volumes.restore(Restore(volume_id(), 0))).version == 4
        assert paths(4) == []
        with pytest.raises(NotFoundError):
            run(store.volumes.restore(Restore(volume_id(), 9)))

    def test_versions_differ_by_what_was_put_and_removed(self, store: Store, run: Run, commit: Any) -> None:
        commit([file("a/b", "1"), file("c"), file("same")])
        commit([file("a/b", "2"), file("d")], ["c"])
        commit([file("c")], ["d"])
        assert run(store.volumes.diff(volume_id(), 1, 3)) == ([file("a/b", "2")], [], "")
        assert run(store.volumes.diff(volume_id(), 1, 2)) == ([file("d"), file("a/b", "2")], ["c"], "")
        assert run(store.volumes.diff(volume_id(), 2, 1)) == ([file("c"), file("a/b", "1")], ["d"], "")
        first = run(store.volumes.diff(volume_id(), 1, 2, limit=2))
        assert first == ([file("d")], ["c"], "d")
        assert run(store.volumes.diff(volume_id(), 1, 2, after="d", limit=2)) == ([file("a/b", "2")], [], "")
        assert run(store.volumes.diff(volume_id(), 0, 1)).puts == [
            folder("a"), file("c"), file("same"), file("a/b", "1"),
        ]  # fmt: skip
        assert run(store.volumes.diff(volume_id(), 2, 2)) == ([], [], "")

    def test_4_versions_are_pruned_and_the_others_stay(self, store: Store, run: Run, commit: Any, paths: Any) -> None:
        one, two = large(b"A"), large(b"B")
        commit([Entry(path="w", size=one.size, digest=one.digest), file("kept")], contents=[one])
        commit([Entry(path="w", size=two.size, digest=two.digest)], contents=[two])
        commit([file("new")], ["w"])
        commit([file("new", "2")], key="k")
        assert run(store.volumes.prune(volume_id(), [0, 1, 1, 3, 4, 9])) == 2
        assert run(store.volumes.prune(volume_id(), [1])) == 0
        assert [v.version for v in run(store.volumes.history(volume_id()))] == [4, 2]
        assert run(store.volumes.version(volume_id(), 1)) is None
        while run(store.volumes.sweep(limit=1)):
            pass
        assert (paths(2), paths(4)) == (["kept", "w"], ["kept", "new"])
        assert run(store.volumes.diff(volume_id(), 2, 4)) == ([file("new", "2")], ["w"], "")
        assert run(store.volumes.referenced(WORKSPACE, [one.digest, two.digest])) == {two.digest}
        with pytest.raises(NotFoundError):
            run(store.volumes.restore(Restore(volume_id(), 3)))
        assert run(store.volumes.restore(Restore(volume_id(), 2))).version == 5
        assert commit([file("late")], base=3).version == 6  # its author saw a version that is gone

    def test_what_is_kept_is_set_for_each_volume(self, store: Store, run: Run, commit: Any) -> None:
        commit([file("a")])
        assert run(store.volumes.retention(volume_id())) is None
        for kept in (Retention(versions=3, days=0), Retention(versions=1, days=5)):
            run(store.volumes.keep(volume_id(), kept))
            assert run(store.volumes.retention(volume_id())) == kept
        assert run(store.volumes.retention(volume_id(2))) is None
        run(store.volumes.delete(volume_id()))
        assert run(store.volumes.retention(volume_id())) is None

    def test_6_pages_of_a_listing_have_each_entry_once(self, store: Store, run: Run, commit: Any) -> None:
        names = ["f", "f!", "f-a", "f/b", "f/b/\x01odd", "f/0", "f0", "f0/x", "ä", "\U0010ffff/z", " /q"]
        commit([file(f"{name}/leaf") for name in names])

        def pages(folder: str, recursive: bool, limit: int) -> list[str]:
            found: list[str] = []
            while True:
                after = found[-1] if found else ""
                page = run(
                    store.volumes.entries(
                        volume_id(), 1, folder, recursive=recursive, after=after, limit=limit
                    )
                )  # fmt: skip
                found += [entry.path for entry in page]
                if len(page) < limit:
                    return found

        for folder_, recursive in (("", True), ("", False), ("f", True), ("f", False), ("f/b", True)):
            whole_ = pages(folder_, recursive, 1_000)
            assert pages(folder_, recursive, 1) == pages(folder_, recursive, 3) == whole_
            assert len(set(whole_)) == len(whole_)
        odd = "f/b/\x01odd"
        assert pages("f", True, 100) == ["f/0", "f/b", "f/leaf", "f/0/leaf", odd, "f/b/leaf", f"{odd}/leaf"]
        assert pages("f", False, 100) == ["f/0", "f/b", "f/leaf"]
        assert len(pages("", True, 100)) == 11 + 13

    @pytest.mark.parametrize(
        "puts, removes",
        [
            pytest.param([file("../x")], [], id="out"),
            pytest.param([file("/x")], [], id="absolute"),
            pytest.param([file("a"), file("a")], [], id="twice"),
            pytest.param([file("a"), file("a/b")], [], id="below a file of its own"),
            pytest.param([file("there/x")], [], id="below a file"),
            pytest.param([file("dir")], [], id="in place of a folder"),
            pytest.param([link("l", "../out")], [], id="link out"),
            pytest.param([], ["a//b"], id="remove of no path"),
        ],
    )
    def test_what_cannot_be_is_refused_and_changes_nothing(
        self, store: Store, run: Run, commit: Any, puts: list[Entry], removes: list[str]
    ) -> None:
        commit([file("there"), file("dir/x")])
        with pytest.raises(InvalidError):
            commit([file("fine"), *puts], removes)
        assert run(store.volumes.heads([volume_id()]))[0].version == 1
        with pytest.raises(NotFoundError):
            commit([file("fine")], base=2)

    def test_where_only_new_files_are_wanted_none_is_replaced(self, commit: Any, paths: Any) -> None:
        commit([file("d/a"), link("d/l", "a")])
        for put in (file("d/a"), file("d/a", "other"), file("d/l")):
            with pytest.raises(AlreadyExistsError):
                commit([file("fine"), put], new_only=True)
        assert commit([folder("d"), file("d/new"), file("d/a", "other")], ["d/a"], new_only=True).version == 2
        assert paths(2) == ["d", "d/a", "d/l", "d/new"]

    def test_names_are_kept_as_they_are(self, commit: Any, paths: Any) -> None:
        names = ["A", "a", "caf\u00e9", "cafe\u0301", "n" * 255, "sp ace", "new\nline", "\\", "'; DROP TABLE x", "%_"]
        commit([file(name, name) for name in names])
        assert paths(1) == sorted(names)

    def test_volumes_are_apart_and_may_be_deleted(self, store: Store, run: Run, commit: Any) -> None:
        commit([file("a")])
        run(store.volumes.commit(Commit(volume_id(2), 0, [file("b"), file("c")], ())))
        assert run(store.volumes.known()) == sorted([volume_id(1), volume_id(2)])
        assert run(store.volumes.delete(volume_id())) is True
        assert run(store.volumes.delete(volume_id())) is False
        assert run(store.volumes.entries(volume_id(), 0)) == []
        assert run(store.volumes.sweep()) == 1
        assert run(store.volumes.sweep()) == 0
        assert [e.path for e in run(store.volumes.entries(volume_id(2), 1))] == ["b", "c"]
        assert commit([file("anew")], base=0).version == 1

    def test_5_contents_are_known_by_their_blocks(self, store: Store, run: Run, commit: Any) -> None:
        one, two = large(b"A", b"B", tail=5), large(b"B", b"C")
        puts = [Entry(path=path, size=c.size, digest=c.digest) for path, c in (("one", one), ("two", two))]
        commit(puts, contents=[one, two])
        assert run(store.volumes.contents(WORKSPACE, ["0" * 64, two.digest, one.digest])) == [two, one]
        wanted = [one.block(0), one.block(1), one.block(2), two.block(1)]
        assert run(store.volumes.blocks(WORKSPACE, wanted)) == {
            wanted[0]: Block(one.digest, 0), wanted[1]: Block(one.digest, 1), wanted[3]: Block(two.digest, 1),
        }  # fmt: skip
        assert run(store.volumes.contents("other", [one.digest])) == []
        assert run(store.volumes.blocks("other", wanted)) == {}

    def test_5_what_an_entry_refers_to_is_not_forgotten(self, store: Store, run: Run, commit: Any) -> None:
        one = large(b"A")
        commit([Entry(path="one", size=one.size, digest=one.digest)], contents=[one])
        commit([], ["one"])
        run(store.volumes.forget_contents(WORKSPACE, [one.digest, "0" * 64]))
        assert run(store.volumes.referenced(WORKSPACE, [one.digest, "0" * 64])) == {one.digest}
        assert run(store.volumes.contents(WORKSPACE, [one.digest])) == [one]
        run(store.volumes.delete(volume_id()))
        assert run(store.volumes.referenced(WORKSPACE, [one.digest])) == set()
        run(store.volumes.forget_contents("other", [one.digest]))
        assert run(store.volumes.contents(WORKSPACE, [one.digest])) == [one]
        run(store.volumes.forget_contents(WORKSPACE, [one.digest]))
        assert run(store.volumes.contents(WORKSPACE, [one.digest])) == []
        assert run(store.volumes.blocks(WORKSPACE, [one.block(0)])) == {}

    def test_5_what_one_workspace_refers_to_is_nothing_to_another(self, store: Store, run: Run, commit: Any) -> None:
        one = large(b"A")
        put = Entry(path="one", size=one.size, digest=one.digest)
        commit([put], contents=[one], workspace="theirs")
        run(store.volumes.commit(Commit(volume_id(2), 0, [put], (), [one], workspace="mine")))
        run(store.volumes.delete(volume_id(2)))
        run(store.volumes.sweep())
        assert run(store.volumes.referenced("mine", [one.digest])) == set()
        run(store.volumes.forget_contents("mine", [one.digest]))
        assert run(store.volumes.contents("mine", [one.digest])) == []
        assert run(store.volumes.blocks("mine", [one.block(0)])) == {}
        run(store.volumes.forget_contents("theirs", [one.digest]))
        assert run(store.volumes.referenced("theirs", [one.digest])) == {one.digest}
        assert run(store.volumes.contents("theirs", [one.digest])) == [one]
        assert run(store.volumes.blocks("theirs", [one.block(0)])) == {one.block(0): Block(one.digest, 0)}
