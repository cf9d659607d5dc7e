"""Versions of volumes laid out as folders: what layers look like, what is shared, and what is read from a mount."""

import asyncio
import contextlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.drivers.trees.localdir import EMPTY, PARTIAL, STACK, LocalTrees
from jitney.drivers.trees.localdir.layer import DEPTH_MAX, open_below, read_changes
from jitney.errors import NotFoundError, StorageFullError
from jitney.values.volumes import Entry, Kind

VOLUME = f"vo-{'0' * 22}"


class Place:
    def __init__(self, root):
        self.root = root
        self.contents = root / "contents"
        self.contents.mkdir(parents=True)
        self.trees = self.again()

    def again(self):
        """As after a restart."""
        return LocalTrees(self.root / "trees", lambda digest: self.contents / digest)

    def file(self, path, text="x", mode=0o644):
        (self.contents / text).write_text(text)
        return Entry(path=path, digest=text, size=len(text), mode=mode)

    def layer(self, version):
        return self.trees.folder(VOLUME) / self.trees.layers(VOLUME, version)[-1]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def run(work):
    return asyncio.run(work)


def whited_out(path):
    seen = path.lstat()
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def test_a_volume_without_a_version_is_an_empty_folder(place):
    assert place.trees.laid_out(VOLUME) == 0
    assert place.trees.layers(VOLUME, 0) == (EMPTY,)
    assert list((place.trees.folder(VOLUME) / EMPTY).iterdir()) == []


def test_a_layer_has_what_changed_and_files_are_shared(place):
    link = Entry(path="l", kind=Kind.SYMLINK, target="a/b")
    run(place.trees.extend(VOLUME, 3, [Entry(path="a", kind=Kind.DIR, mode=0o700), place.file("a/b"), link], ["old"]))
    layer = place.layer(3)
    assert (layer / "a/b").stat().st_ino == (place.contents / "x").stat().st_ino
    assert stat.S_IMODE((layer / "a").stat().st_mode) == 0o700
    assert os.readlink(layer / "l") == "a/b"
    assert whited_out(layer / "old")
    assert place.trees.layers(VOLUME, 3)[0] == EMPTY
    assert len(place.trees.layers(VOLUME, 3)) == 2


def test_what_is_removed_and_put_anew_is_there(place):
    run(place.trees.extend(VOLUME, 1, [place.file("a")], ["a"]))
    assert (place.layer(1) / "a").read_text() == "x"


def test_a_content_that_runs_in_one_place_is_copied_for_the_other(place):
    run(place.trees.extend(VOLUME, 1, [place.file("plain"), place.file("script", mode=0o755)], []))
    layer = place.layer(1)
    assert not os.access(layer / "plain", os.X_OK)
    assert os.access(layer / "script", os.X_OK)
    assert (layer / "script").stat().st_nlink == 1


def test_a_stack_outlives_a_restart_and_grows(place):
    run(place.trees.extend(VOLUME, 1, [place.file("a")], []))
    run(place.trees.extend(VOLUME, 5, [place.file("b")], []))
    run(place.trees.extend(VOLUME, 4, [place.file("never")], []))  # it has been passed
    layers = place.trees.layers(VOLUME, 5)
    assert len(layers) == 3
    assert place.trees.layers(VOLUME, 1) == layers[:2]
    assert place.trees.layers(VOLUME, 4) == ()
    assert place.again().layers(VOLUME, 5) == layers
    assert place.again().laid_out(VOLUME) == 5


def test_a_stack_is_made_anew_and_what_is_in_use_stays(place):
    for version in (1, 2, 3):
        run(place.trees.extend(VOLUME, version, [place.file(f"f{version}")], []))
    old = place.trees.layers(VOLUME, 3)
    run(place.trees.restack(VOLUME, 4, [place.file(f"f{n}") for n in (1, 2, 3, 4)]))
    assert len(place.trees.layers(VOLUME, 4)) == 2
    assert run(place.trees.collect(VOLUME, old[:2])) == 2
    names = {path.name for path in place.trees.folder(VOLUME).iterdir()}
    assert names == {STACK, EMPTY, old[1], place.trees.layers(VOLUME, 4)[-1]}


def test_one_version_is_laid_out_on_its_own(place):
    run(place.trees.lay_out(VOLUME, 2, [place.file("a")]))
    run(place.trees.lay_out(VOLUME, 2, []))
    assert (place.layer(2) / "a").is_file()
    assert place.trees.laid_out(VOLUME) == 0


def test_what_cannot_be_made_leaves_nothing(place, monkeypatch):
    with pytest.raises(NotFoundError, match="'gone' is not on this machine"):
        run(place.trees.extend(VOLUME, 1, [place.file("a"), Entry(path="gone", digest="nothing", size=1)], []))
    entries = [place.file("a")]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageFullError):
        run(place.trees.extend(VOLUME, 1, entries, []))
    assert place.trees.laid_out(VOLUME) == 0
    assert [path.name for path in place.trees.folder(VOLUME).iterdir()] == [EMPTY]


def test_what_a_killed_run_left_is_removed(place):
    run(place.trees.reap())
    folder = place.trees.folder(VOLUME)
    (folder / f"{PARTIAL}1").mkdir()
    (folder / f"{PARTIAL}1" / "a").write_text("x")
    (folder / f"{PARTIAL}2").write_text("x")
    assert run(place.again().reap()) == 2
    assert [path.name for path in folder.iterdir()] == [EMPTY]


def test_what_was_laid_out_before_the_machine_was_started_is_laid_out_again(place):
    boots = ["first"]
    trees = LocalTrees(place.root / "trees", lambda digest: place.contents / digest, boot=lambda: boots[-1])
    run(trees.reap())
    run(trees.extend(VOLUME, 1, [place.file("a")], []))
    assert run(trees.reap()) == 0
    assert trees.laid_out(VOLUME) == 1
    boots.append("second")
    assert run(trees.reap()) == 1
    assert trees.laid_out(VOLUME) == 0
    run(trees.extend(VOLUME, 1, [place.file("a")], []))
    assert run(trees.reap()) == 0
    assert trees.laid_out(VOLUME) == 1


def test_a_missing_layer_means_an_empty_stack(place):
    run(place.trees.extend(VOLUME, 1, [place.file("a")], []))
    place.layer(1).rename(place.root / "away")
    assert place.again().laid_out(VOLUME) == 0


# ------------------------------------------------------------------------------------------------ changes


def test_what_a_mount_has_written_is_read_once(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("one")
    os.symlink("d/f", tmp_path / "l")
    os.mknod(tmp_path / "gone", stat.S_IFCHR, 0)
    os.mkfifo(tmp_path / "pipe")
    found = read_changes(tmp_path, {})
    assert [(entry.path, entry.kind) for entry in found.puts] == [
        ("d", Kind.DIR), ("d/f", Kind.FILE), ("l", Kind.SYMLINK),
    ]  # fmt: skip
    assert found.removes == ["gone"]
    assert found.files == {"d/f"}
    assert read_changes(tmp_path, found.stamps).is_empty
    (tmp_path / "d/f").write_text("another")
    (tmp_path / "l").unlink()
    again = read_changes(tmp_path, found.stamps)
    assert [entry.path for entry in again.puts] == ["d/f"]
    assert again.removes == ["l"]


def test_what_no_volume_can_hold_is_passed_over(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    (tmp_path / "kept").write_text("kept")
    os.symlink(b"\xff", os.fsencode(tmp_path) + b"/l")
    deep = tmp_path
    for _ in range(DEPTH_MAX + 5):
        deep = deep / "d"
        deep.mkdir()
    found = read_changes(tmp_path, {})
    assert {entry.path for entry in found.puts if "d" not in entry.path.split("/")} == {"kept"}
    assert max(entry.path.count("/") for entry in found.puts) < DEPTH_MAX
    for entry in found.puts:
        entry.path.encode()


@pytest.mark.parametrize("path", ["d/secret", "link", "pipe", "../outside/secret"])
def test_no_link_leads_out_of_what_is_read(tmp_path, path):
    upper, outside = tmp_path / "upper", tmp_path / "outside"
    for folder in (upper, outside):
        folder.mkdir()
    (outside / "secret").write_text("of the machine")
    os.symlink(outside, upper / "d")
    os.symlink(outside / "secret", upper / "link")
    os.mkfifo(upper / "pipe")
    with pytest.raises(OSError, match=r"secret|link|pipe|d'"):
        os.close(open_below(upper, path))


def test_a_folder_that_becomes_a_link_while_it_is_read_is_not_followed(tmp_path, monkeypatch):
    upper, outside = tmp_path / "upper", tmp_path / "outside"
    for folder in (upper / "d", outside):
        folder.mkdir(parents=True)
    (outside / "secret").write_text("of the machine")
    real = os.scandir

    def swapping(what):
        found = list(real(what))
        if (upper / "d").is_dir() and not (upper / "d").is_symlink():
            (upper / "d").rmdir()
            os.symlink(outside, upper / "d")
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", swapping)
    assert "d/secret" not in {entry.path for entry in read_changes(upper, {}).puts}


def test_an_opaque_folder_replaces_what_was_there(tmp_path):
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "user.overlay.opaque", b"y")
    found = read_changes(tmp_path, {})
    assert found.removes == ["d"]
    assert [entry.path for entry in found.puts] == ["d"]


names = st.sampled_from(["a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(names, st.sampled_from(["put", "remove"]), st.text("xy", max_size=3)), max_size=4),
                max_size=5))  # fmt: skip
def test_layers_show_what_the_versions_have(tmp_path_factory, commits):
    place = Place(tmp_path_factory.mktemp("trees"))
    files: dict[str, str] = {}
    for version, changes in enumerate(commits, 1):
        before = dict(files)
        for name, what, text in changes:
            if what == "put":
                files[name] = f"t{text}"
            else:
                files.pop(name, None)
        puts = [place.file(name, text) for name, text in files.items() if before.get(name) != text]
        run(place.trees.extend(VOLUME, version, puts, [name for name in before if name not in files]))
        seen: dict[str, str] = {}
        for layer in place.trees.layers(VOLUME, version):
            for path in (place.trees.folder(VOLUME) / layer).iterdir():
                if whited_out(path):
                    seen.pop(path.name, None)
                else:
                    seen[path.name] = path.read_text()
        assert seen == files


@pytest.mark.parametrize("removes", [["d", "d/e", "d/e/f", "d/g"], ["d/e/f", "d/g", "d/e", "d"]])
def test_a_folder_is_removed_with_all_that_was_in_it(place, removes):
    run(place.trees.extend(VOLUME, 1, [place.file("d/e/f"), place.file("d/g")], []))
    run(place.trees.extend(VOLUME, 2, [], removes))
    assert [path.name for path in place.layer(2).iterdir()] == ["d"]
    assert whited_out(place.layer(2) / "d")


def test_what_was_in_a_folder_that_is_something_else_now_is_not_looked_for_in_it(place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    run(place.trees.extend(VOLUME, 1, [place.file("link/secret"), place.file("file/x")], []))
    link = Entry(path="link", kind=Kind.SYMLINK, target=str(outside))
    run(place.trees.extend(VOLUME, 2, [link, place.file("file")], ["link/secret", "file/x"]))
    assert sorted(path.name for path in place.layer(2).iterdir()) == ["file", "link"]
    assert list(outside.iterdir()) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700


def overlaid(place, version):
    """What a mount of these layers shows: the kind at each path."""
    seen: dict[str, Kind] = {}
    for layer in place.trees.layers(VOLUME, version):
        root = place.trees.folder(VOLUME) / layer
        for at, folders, others in os.walk(root):
            for name in (*folders, *others):
                full = os.path.join(at, name)
                path = os.path.relpath(full, root)
                kind = Kind.SYMLINK if os.path.islink(full) else Kind.DIR if os.path.isdir(full) else Kind.FILE
                if kind is not Kind.DIR or seen.get(path) is not Kind.DIR:  # folders are merged
                    for hidden in [one for one in seen if one == path or one.startswith(f"{path}/")]:
                        del seen[hidden]
                if not whited_out(Path(full)):
                    seen[path] = kind
    return seen


paths = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b"])
trees = st.dictionaries(
    paths, st.sampled_from(Kind)
).map(
    lambda tree: {  # what is below something that is no folder cannot be
        path: kind
        for path, kind in tree.items()
        if all(tree.get(path[:at]) is Kind.DIR for at, letter in enumerate(path) if letter == "/")
    }
)


@settings(max_examples=80, deadline=None)
@given(st.lists(trees, max_size=4), st.randoms())
def test_layers_of_folders_show_what_the_versions_have(tmp_path_factory, versions, dice):
    place = Place(tmp_path_factory.mktemp("trees"))
    before: dict[str, Kind] = {}
    for version, tree in enumerate(versions, 1):
        changed = sorted(path for path in tree if before.get(path) is not tree[path])
        puts = [
            place.file(path) if tree[path] is Kind.FILE else Entry(path=path, kind=tree[path], target="/nowhere")
            for path in changed
        ]
        removes = [path for path in before if path not in tree]
        dice.shuffle(removes)
        run(place.trees.extend(VOLUME, version, puts, removes))
        assert overlaid(place, version) == tree
        before = tree
