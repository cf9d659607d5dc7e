"""Patterns with the rules of .dockerignore."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.client.ignore import DEFAULT_IGNORE, FilePatternMatcher, ignore_of
from jitney.errors import InvalidError


@pytest.mark.parametrize(
    "patterns,fits,does_not",
    [
        (["*.csv"], ["a.csv", "a.csv/b"], ["d/a.csv", "a.csvx"]),
        (["**/*.csv"], ["a.csv", "d/a.csv", "d/e/a.csv"], ["a.txt"]),
        (["data"], ["data", "data/a", "data/b/c"], ["database", "x/data"]),
        (["data/"], ["data", "data/a"], ["database"]),
        (["/data"], ["data/a"], ["x/data"]),
        (["data/**"], ["data/a", "data/b/c"], ["database"]),
        (["a/**/z"], ["a/z", "a/b/z", "a/b/c/z"], ["a/b", "b/a/z"]),
        (["**"], ["a", "a/b"], []),
        (["a?c"], ["abc"], ["ac", "a/c", "abbc"]),
        (["[a-c]x"], ["ax", "cx"], ["dx", "/x"]),
        (["[^a-c]x"], ["dx"], ["ax"]),
        (["**/*.py", "!keep.py"], ["a.py", "d/keep.py"], ["keep.py"]),
        (["**", "!**/*.py"], ["a.txt", "d/a.txt"], ["a.py", "d/a.py"]),
        (["**/*.md", "!README.md", "README*"], ["README.md", "a.md"], ["a.py"]),
        (["a+b(1).txt"], ["a+b(1).txt"], ["aab1.txt"]),
        (["", "  ", "/", "./"], [], ["a"]),
        (["./a/./b"], ["a/b"], ["a"]),
    ],
)
def test_patterns(patterns, fits, does_not):
    matcher = FilePatternMatcher(*patterns)
    assert [path for path in fits if not matcher(Path(path))] == []
    assert [path for path in does_not if matcher(Path(path))] == []
    opposite = ~matcher
    assert [opposite(path) for path in [*fits, *does_not]] == [False] * len(fits) + [True] * len(does_not)
    assert (~opposite)(fits[0] if fits else "x") is bool(fits)


@given(st.text("a*?[]!^-/.\\", max_size=12), st.text("ab/.", min_size=1, max_size=8))
def test_any_pattern_is_read_or_refused(pattern, path):
    try:
        matcher = FilePatternMatcher(pattern)
    except InvalidError:
        return
    assert matcher(path) in (True, False)


def test_patterns_of_a_file(tmp_path):
    file = tmp_path / ".dockerignore"
    file.write_text("# caches\n**/*.tmp\n\n!keep.tmp\n")
    matcher = FilePatternMatcher.from_file(file)
    assert repr(matcher) == "FilePatternMatcher('**/*.tmp', '!keep.tmp')"
    assert (matcher("d/a.tmp"), matcher("keep.tmp")) == (True, False)


def test_defaults_come_first_and_can_be_taken_back():
    assert ignore_of(None)(Path("d/__pycache__/a.pyc"))
    assert ignore_of([])(Path(".git/config"))
    assert not ignore_of(["!**/.git"])(Path(".git/config"))
    assert ignore_of(["data"])(Path("data/a"))
    assert not ignore_of(lambda _: False)(Path(".git/config"))
    assert FilePatternMatcher(*DEFAULT_IGNORE).can_prune


def test_a_string_is_not_a_list():
    with pytest.raises(InvalidError, match="give a list"):
        ignore_of("*.csv")
    with pytest.raises(InvalidError, match="leads out"):
        ignore_of(["../x"])
