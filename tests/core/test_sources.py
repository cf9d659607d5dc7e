"""Which paths may be, and what a tree of them is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.sources import FILES_MAX, manifest, relative, source_id
from jitney.errors import InvalidError, UnsupportedError
from jitney.values.sources import SourceFile

ONE, TWO = "1" * 64, "2" * 64


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/", "a/..", "../a", "a/./b", "a//b", "a/", "//a", "a\0", "a\nb", "a\\b", "\x7f", "\ud800",
     "a" * 256, "/".join(["ab"] * 400), "/root", "/root/", "/root/../a", "/root//a", "./a"],
)  # fmt: skip
def test_paths_that_may_not_be(path):
    with pytest.raises(InvalidError):
        manifest([SourceFile(path, ONE)])


@pytest.mark.parametrize("path", ["/data/x", "/rootless/x", "/etc/passwd", "/root2/x"])
def test_absolute_paths_outside_root_are_not_supported_and_say_what_is(path):
    with pytest.raises(UnsupportedError, match="/root"):
        relative(path)


@pytest.mark.parametrize("path", ["a", "a.py", ".hidden", "..a", "a..", "a b/ü.py", "a" * 255, "~/x", "-r", "a:b"])
def test_paths_that_may_be_are_left_as_they_are(path):
    assert relative(path) == relative("/root/" + path) == path


@pytest.mark.parametrize(
    "paths",
    [("a", "a/b"), ("a/b", "a"), ("a.py", "A.py"), ("pkg/a", "PKG/b"), ("é", "e\u0301"), ("ß", "ss"), ("a", "A/b")],
)
def test_files_in_each_others_way_are_refused(paths):
    with pytest.raises(InvalidError):
        manifest([SourceFile(path, ONE) for path in paths])


def test_the_same_file_twice_is_one_and_two_files_at_one_path_are_refused():
    assert manifest([SourceFile("a", ONE), SourceFile("/root/a", ONE)]) == (SourceFile("a", ONE),)
    for other in (SourceFile("a", TWO), SourceFile("/root/a", ONE, True)):
        with pytest.raises(InvalidError):
            manifest([SourceFile("a", ONE), other])


@pytest.mark.parametrize("digest", ["", "1" * 63, "G" * 64, "../" + "1" * 61, "1" * 64 + "\n"])
def test_what_is_no_digest_is_refused(digest):
    with pytest.raises(InvalidError):
        manifest([SourceFile("a", digest)])


def test_too_many_files_are_refused():
    with pytest.raises(InvalidError):
        manifest([SourceFile("a", ONE)] * (FILES_MAX + 1))


names = st.text("abcxyz._-", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
files = st.lists(
    st.builds(SourceFile, st.lists(names, min_size=1, max_size=3).map("/".join), st.sampled_from([ONE, TWO]),
              st.booleans()),
    max_size=5, unique_by=lambda file: file.path,
)  # fmt: skip


@given(files, st.randoms())
def test_the_id_is_of_the_content_and_not_of_the_order(tree, random):
    shuffled = list(tree)
    random.shuffle(shuffled)
    try:
        expected = manifest(tree)
    except InvalidError:
        with pytest.raises(InvalidError):
            manifest(shuffled)
        return
    assert manifest(shuffled) == expected
    assert [file.path for file in expected] == sorted(file.path for file in tree)
    for other in (expected[1:], *[expected[:i] + expected[i + 1 :] for i in range(1, len(expected))]):
        assert not expected or source_id(other) != source_id(expected)


@given(st.text(max_size=30))
def test_whatever_is_accepted_stays_below_the_root(path):
    try:
        found = relative(path)
    except InvalidError:
        return
    assert not found.startswith("/")
    assert not {"", ".", ".."} & set(found.split("/"))
