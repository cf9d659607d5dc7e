"""Which files of a folder stay behind: patterns with the rules of a `.dockerignore` file.

A pattern is relative to the folder: `*.csv` is a file at its top, `**/*.csv` one at any depth, `data` the folder and
all that is in it. `*` and `?` stop at a slash, `[a-z]` is a set, `**` is any number of folders. A pattern that begins
with `!` takes back what an earlier one ignored: the last pattern that fits decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jitney.errors import InvalidError

Ignore = Callable[[Path], bool]

# What nobody means to ship: caches, environments, version control, editors' leftovers.
DEFAULT_IGNORE = (
    "**/*.pyc",
    "**/__pycache__",
    "**/.git",
    "**/.hg",
    "**/.svn",
    "**/.venv",
    "**/.tox",
    "**/.nox",
    "**/.mypy_cache",
    "**/.pytest_cache",
    "**/.ruff_cache",
    "**/.hypothesis",
    "**/.ipynb_checkpoints",
    "**/.jitney",
    "**/.idea",
    "**/.vscode",
    "**/.DS_Store",
    "**/node_modules",
    "**/*.egg-info",
    "**/*.swp",
    "**/*~",
)
NOT_PYTHON = ("**", "!**/*.py")  # Modal's default for `add_local_python_source`


class _Rule(NamedTuple):
    takes_back: bool
    expression: re.Pattern[str]


class FilePatternMatcher:
    """Whether a path fits patterns: callable with a path relative to the folder, and `~` gives the opposite.

    >>> matcher = FilePatternMatcher("**/*.py", "!keep.py")
    >>> matcher(Path("a/b.py")), matcher(Path("keep.py"))
    (True, False)

    Raises:
        InvalidError: a pattern that cannot be read.
    """

    def __init__(self, *patterns: str) -> None:
        self.patterns = patterns
        self._rules = [rule for rule in map(_compile, patterns) if rule]
        self._inverted = False

    @classmethod
    def from_file(cls, path: str | Path) -> FilePatternMatcher:
        """The patterns of a file such as `.dockerignore`, one a line; `#` begins a comment."""
        lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
        return cls(*(line for line in lines if line and not line.startswith("#")))

    def __call__(self, path: Path | str) -> bool:
        text = PurePosixPath(path).as_posix()
        fits = False
        for rule in self._rules:
            if rule.takes_back == fits and rule.expression.match(text):
                fits = not rule.takes_back
        return fits is not self._inverted

    def __invert__(self) -> FilePatternMatcher:
        opposite = FilePatternMatcher(*self.patterns)
        opposite._inverted = not self._inverted
        return opposite

    def __repr__(self) -> str:
        return f"{'~' if self._inverted else ''}FilePatternMatcher({', '.join(map(repr, self.patterns))})"

    @property
    def can_prune(self) -> bool:
        """Whether all that is in a folder that fits, fits as well: then nobody has to look into it."""
        return not self._inverted and not any(rule.takes_back for rule in self._rules)


def ignore_of(given: Sequence[str] | Ignore | None, default: Sequence[str] = ()) -> Ignore:
    """What an `ignore=` parameter means: patterns come after the default ones, a callable decides alone."""
    if given is None or not callable(given):
        if isinstance(given, str):
            raise InvalidError(f"ignore={given!r} is one string", hint=f"give a list: ignore=[{given!r}]")
        return FilePatternMatcher(*DEFAULT_IGNORE, *(default if given is None else given))
    return given


def _compile(pattern: str) -> _Rule | None:
    text = pattern.strip()
    takes_back = text.startswith("!")
    text = text.removeprefix("!").strip().strip("/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidError(f"the pattern {pattern!r} leads out of the folder")
    if not parts:
        return None
    # A folder that fits takes all that is in it along.
    expression = "".join(_part(part, is_last=number == len(parts) - 1) for number, part in enumerate(parts))
    try:
        return _Rule(takes_back, re.compile(rf"{expression}(?:/.*)?\Z", re.DOTALL))
    except re.error as error:
        raise InvalidError(f"the pattern {pattern!r} cannot be read: {error}") from None


def _part(part: str, *, is_last: bool) -> str:
    if part == "**":
        return ".*" if is_last else "(?:.*/)?"
    found = re.sub(r"\[[^\]]+\]|\*+|\?|.", _glob, part, flags=re.DOTALL)
    return found if is_last else found + "/"


def _glob(found: re.Match[str]) -> str:
    text = found[0]
    if text.startswith("*"):
        return "[^/]*"
    if text == "?":
        return "[^/]"
    if len(text) > 1:
        body = text[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("&&", r"&\&")
        return f"[^/{body[1:]}]" if body[0] in "^!" else f"(?!/)[{body}]"
    return re.escape(text)
