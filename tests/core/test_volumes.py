"""Paths, links, contents and merges of volumes."""

import posixpath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jitney.core import volumes
from jitney.core.volumes import Row
from jitney.errors import AlreadyExistsError, InvalidError
from jitney.testing.conformance.store_volumes import file, folder, link
from jitney.values.volumes import BLOCK_BYTES, Entry, Kind, VolumeMount

# ---------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "a/./b",
        "a\0b",
        "\udcff",
        "n" * 256,
        "\u20ac" * 86,
        "a/" * 2_100 + "b",
    ],
)
def test_paths_that_lead_out_or_cannot_be_are_refused(path):
    with pytest.raises(InvalidError):
        volumes.check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b",
        "...",
        "..a",
        "a..",
        " ",
        "a b",
        "-rf",
        "\\",
        "C:\\x",
        "con",
        "a\nb",
        "\x7f",
        "n" * 255,
        "\u20ac" * 85,
        "cafe\u0301",
        "caf\u00e9",
        "\u202e",
        "~",
        "$(x)",
        "%2e%2e",
        "*",
    ],
)
def test_all_other_names_are_kept_as_they_are(path):
    assert volumes.check_path(path) == path


@given(st.text(alphabet="ab./\0 ~", max_size=12))
def test_what_is_accepted_stays_inside(text):
    try:
        path = volumes.check_path(text)
    except InvalidError:
        return
    assert posixpath.normpath(posixpath.join("/root", path)) == f"/root/{path}"
    assert volumes.plain_path(f"/{path}") == path


def test_what_people_write_becomes_a_path_of_a_volume():
    assert [volumes.plain_path(text) for text in ("/", "", ".", "/a/", "./a//b", "a/./b")] == [
        "",
        "",
        "",
        "a",
        "a/b",
        "a/b",
    ]
    with pytest.raises(InvalidError):
        volumes.plain_path("/a/../b")


link_paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
targets = st.lists(st.sampled_from(["..", "..", ".", "a", "b", ""]), min_size=1, max_size=4).map("/".join)


def resolve(links, path):
    """Where a kernel ends: the parts from the root; None if it leaves the volume; '' where links never end."""
    todo, at = path.split("/")[::-1], []
    for _ in range(200):
        if not todo:
            return at
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if not at:
                return None
            at.pop()
            continue
        at.append(name)
        target = links.get("/".join(at))
        if target is not None:
            at.pop()
            todo += target.split("/")[::-1]
    return ""


@settings(max_examples=300)
@given(st.dictionaries(link_paths, targets, max_size=8))
@example({"a/a": "..", "a/b": "a/../b"})
def test_no_links_that_are_accepted_lead_out_together(links):
    accepted = {}
    for at, target in links.items():
        try:
            volumes.check_target(at, target)
        except InvalidError:
            continue
        if not any(volumes.is_below(at, other) or volumes.is_below(other, at) for other in accepted):
            accepted[at] = target  # nothing is below a link
    for at in accepted:
        assert resolve(accepted, at) is not None


@pytest.mark.parametrize("target", ["/etc", "../x", "a/../../x", "b/../c", "", "a\0", "\udcff", "x" * 4_096])
def test_links_that_may_lead_out_are_refused(target):
    with pytest.raises(InvalidError):
        volumes.check_entry(link("top", target))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(path="a"),
        Entry(path="a", digest="x" * 64),
        Entry(path="a", digest="A" * 64),
        file("a", mode=0o4755),
        file("a", mtime_ns=-1),
        folder("a", size=1),
        Entry(path="a", kind=Kind.DIR, target="b"),
        Entry(path="a", kind=Kind.SYMLINK, target="b", digest="0" * 64),
    ],
)
def test_entries_that_cannot_be_are_refused(entry):
    with pytest.raises(InvalidError):
        volumes.check_entry(entry)


def test_a_mount_has_a_path_of_its_own():
    for path in ("data", "/", "/a/..", "/a//b", "/a/", "/\0"):
        with pytest.raises(InvalidError):
            VolumeMount(path=path, volume_id="vo-1")
    with pytest.raises(InvalidError, match="read-only"):
        VolumeMount(path="/a", volume_id="vo-1", version=3)


# ---------------------------------------------------------------------------------------------------- contents


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_contents_are_equal_if_and_only_if_their_bytes_are(one, other):
    assert (volumes.whole(one).digest == volumes.whole(other).digest) == (one == other)
    assert volumes.check_content(volumes.whole(one)).size == len(one)


def test_a_content_knows_its_blocks():
    content = volumes.whole(bytes(BLOCK_BYTES) + b"x")
    assert (content.count, content.length(0), content.length(1)) == (2, BLOCK_BYTES, 1)
    assert content.block(1) == volumes.block_digest(b"x")
    for size in (-1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1):
        with pytest.raises(InvalidError):
            volumes.check_content(type(content)(digest=content.digest, size=size, blocks=content.blocks))


# ---------------------------------------------------------------------------------------------------- merges


class Tree:
    """A volume for `merge`: entries with the version since when, and what was removed last."""

    def __init__(self, *entries):
        self.version = 0
        self.rows = {}
        self.commit(entries)

    def newest(self, path):
        return self.rows.get(path)

    def below(self, path):
        return [row for at, row in self.rows.items() if row.is_there and volumes.is_below(at, path)]

    def commit(self, puts=(), removes=(), *, base=None, **options):
        delta = volumes.merge(self, self.version if base is None else base, puts, removes, **options)
        self.version += 1
        for path, row in delta.ends.items():
            self.rows[path] = row._replace(until=self.version)
        for path, entry in delta.begins.items():
            self.rows[path] = Row(entry, self.version, None)
        return delta.conflicts

    @property
    def paths(self):
        return sorted(path for path, row in self.rows.items() if row.is_there)


def test_a_put_into_a_folder_that_others_removed_brings_it_back():
    tree = Tree(file("a/b/c"))
    tree.commit(removes=["a"])
    assert tree.commit([file("a/b/new")], base=1) == ["a", "a/b"]
    assert tree.paths == ["a", "a/b", "a/b/new"]


def test_a_put_below_what_others_made_a_file_wins():
    tree = Tree(folder("x"))
    tree.commit([file("a")])
    assert tree.commit([file("a/b")], base=1) == ["a"]
    assert tree.paths == ["a", "a/b", "x"]
    with pytest.raises(InvalidError, match="nothing can be below"):
        tree.commit([file("a/b/c")])


def test_a_file_in_place_of_what_others_made_a_folder_wins_and_says_what_is_lost():
    tree = Tree(folder("x"))
    tree.commit([file("a/b")])
    assert tree.commit([file("a")], base=1) == ["a", "a/b"]
    assert tree.paths == ["a", "x"]
    with pytest.raises(InvalidError, match="is a folder"):
        tree.commit([file("x")])
    assert tree.commit([file("x")], ["x"]) == []


def test_one_commit_may_replace_a_folder_by_another():
    tree = Tree(file("a/b/c"), file("a/d"))
    assert tree.commit([file("a/b", "now a file"), folder("a")], ["a"]) == []
    assert tree.paths == ["a", "a/b"]
    assert tree.commit([file("a/b/c"), folder("a/b")]) == []
    assert tree.paths == ["a", "a/b", "a/b/c"]


def test_new_files_only_means_links_too_and_not_folders():
    tree = Tree(link("l", "x"), folder("d"))
    tree.commit([folder("d", mode=0o700), file("d/x")], new_only=True)
    with pytest.raises(AlreadyExistsError):
        tree.commit([file("l")], new_only=True)


leaves = st.dictionaries(st.sampled_from(["a", "d/b", "d/c", "e/f"]), st.sampled_from(["1", "2", None]), max_size=4)


@given(leaves, leaves, leaves)
def test_of_two_writers_each_file_is_as_the_one_who_changed_it_or_the_later_left_it(start, first, second):
    """None removes a file."""
    tree = Tree(folder("d"), folder("e"), *(file(path, text) for path, text in start.items() if text))
    before = dict(start)

    def write(changes):
        puts = [file(path, text) for path, text in changes.items() if text]
        return tree.commit(puts, [path for path, text in changes.items() if not text], base=1)

    assert write(first) == []
    conflicts = write(second)
    wanted = {**before, **first, **second}
    assert [path for path in tree.paths if path not in ("d", "e")] == sorted(p for p, text in wanted.items() if text)
    assert all(tree.rows[path].entry == file(path, text) for path, text in wanted.items() if text)
    touched = {path for path, text in first.items() if text != before.get(path)}
    changed_again = {path for path, text in second.items() if text != {**before, **first}.get(path)}
    assert set(conflicts) == touched & changed_again
