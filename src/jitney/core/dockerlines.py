"""The text of a Dockerfile as instructions and words: continuation lines, comments, here-documents, quotes, variables.

The rules are those of the Dockerfile reference. Words are split as a shell would, and variables are put in (`$NAME`,
`${NAME}`, `${NAME:-default}`, `${NAME:+instead}`), where an instruction asks for it: RUN does not, as its shell does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from jitney.errors import InvalidError

TEXT_CHARS_MAX = 1024 * 1024
INSTRUCTIONS_MAX = 2_000

_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(\S+)\s*")
_HEREDOC = re.compile(r"(?<!<)<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^}]*))?\})")


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction: its name in capitals, its flags, and the rest of its logical line."""

    line: int
    name: str
    text: str
    flags: dict[str, str] = {}
    documents: tuple[str, ...] = ()  # bodies of here-documents


def read(text: str) -> list[Instruction]:
    """All instructions.

    Raises:
        InvalidError: the text has no form of a Dockerfile, or is too long; the message names the line.
    """
    if "\0" in text or len(text) > TEXT_CHARS_MAX:
        raise InvalidError("the Dockerfile is too long, or not text")
    lines = text.lstrip("\ufeff").splitlines()
    escape, at = _directives(lines)
    found: list[Instruction] = []
    while at < len(lines):
        start, logical, at = _logical(lines, at, escape)
        if not logical:
            continue
        name, _, rest = logical.partition(" ")
        if not re.fullmatch(r"[A-Za-z]+", name):
            raise InvalidError(f"line {start + 1}: {logical[:80]!r} is no instruction of a Dockerfile")
        name, rest = name.upper(), rest.strip()
        documents: list[str] = []
        if name in ("RUN", "COPY", "ADD"):
            documents, at = _documents(lines, at, rest, start)
        flags: dict[str, str] = {}
        while name in ("RUN", "COPY", "ADD", "FROM", "HEALTHCHECK") and (flag := _FLAG.match(rest)):
            flags[flag[1]] = flag[2] or ""
            rest = rest[flag.end() :]
        found.append(Instruction(line=start + 1, name=name, text=rest, flags=flags, documents=tuple(documents)))
        if len(found) > INSTRUCTIONS_MAX:
            raise InvalidError(f"a Dockerfile may have {INSTRUCTIONS_MAX:,} instructions")
    return found


def _directives(lines: Sequence[str]) -> tuple[str, int]:
    """The escape character, and the first line after the directives."""
    escape = "\\"
    for number, line in enumerate(lines):
        found = _DIRECTIVE.fullmatch(line.strip())
        if not found or found[1].lower() not in ("escape", "syntax", "check"):
            return escape, number
        if found[1].lower() == "escape":
            if found[2] not in ("\\", "`"):
                raise InvalidError(f"line {number + 1}: the escape character {found[2][:8]!r} is neither \\ nor `")
            escape = found[2]
    return escape, len(lines)


def _logical(lines: Sequence[str], at: int, escape: str) -> tuple[int, str, int]:
    """A line with its continuations: where it began, itself, and where the next one is."""
    start = at
    parts: list[str] = []
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.lstrip().startswith("#") or (parts and not line.strip()):
            if not parts:
                break  # a comment between instructions
            continue  # comments and empty lines within an instruction are passed over
        stripped = line.rstrip()
        if stripped.endswith(escape) and stripped.strip() != "":
            parts.append(stripped[:-1])
            continue
        parts.append(line)
        break
    return start, re.sub(r"^(\S+)\s+", r"\1 ", "".join(parts).strip()), at


def _documents(lines: Sequence[str], at: int, text: str, start: int) -> tuple[list[str], int]:
    bodies = []
    for dash, _, word in _HEREDOC.findall(text):
        body = []
        while True:
            if at >= len(lines):
                raise InvalidError(f"line {start + 1}: the here-document {word!r} does not end")
            line = lines[at].lstrip("\t") if dash else lines[at]
            at += 1
            if line.rstrip("\r") == word:
                break
            body.append(line)
        bodies.append("\n".join(body) + "\n")
    return bodies, at


def is_only_heredoc(text: str) -> bool:
    """Whether a RUN is nothing but one here-document: a script."""
    return bool(_HEREDOC.fullmatch(text.strip()))


def json_words(text: str) -> list[str] | None:
    """The words of `["a", "b"]`; None when it is not of that form."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None  # then it is a shell command that begins so, as for Docker
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def expand(text: str, variables: Mapping[str, str]) -> str:
    r"""`text` with its variables put in; `\$` is a dollar sign.

    >>> expand("$A-${B:-two}-${A:+set}-\\$A", {"A": "one"})
    'one-two-set-$A'
    """
    parts = re.split(r"(\\\$)", text)
    return "".join("$" if part == "\\$" else _VARIABLE.sub(_Replacement(variables), part) for part in parts)


class _Replacement:
    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def __call__(self, found: re.Match[str]) -> str:
        value = self._variables.get(found[1] or found[2], "")
        match found[3]:
            case "-":
                return value or expand(found[4], self._variables)
            case "+":
                return expand(found[4], self._variables) if value else ""
        return value


def words(text: str, variables: Mapping[str, str], line: int) -> list[str]:
    r"""The words of an instruction, without their quotes and with their variables put in.

    >>> words("a \"b $X\" '$X' c\\ d", {"X": "1"}, 1)
    ['a', 'b 1', '$X', 'c d']

    Raises:
        InvalidError: a quote is not closed.
    """
    as_json = json_words(text)
    if as_json is not None:
        return [expand(word, variables) for word in as_json]
    return [unquoted(raw, variables) for raw in raw_words(text, line)]


def raw_words(text: str, line: int) -> list[str]:
    """Words as they are written: quotes and all."""
    pattern = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""")
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        word = pattern.match(text, at)
        if not word:
            if text[at] == "\\":
                raise InvalidError(f"line {line}: it ends with a backslash")
            raise InvalidError(f"line {line}: a quote is not closed in {text[:80]!r}")
        found.append(word[0])
        at = word.end()
        while at < len(text) and text[at].isspace():
            at += 1
    return found


def unquoted(raw: str, variables: Mapping[str, str]) -> str:
    """One word without its quotes, with its variables put in."""
    pattern = re.compile(r"""\\.|"(?:[^"\\]|\\.)*"|'[^']*'|[^\\"']+""", re.DOTALL)
    parts = []
    for part in pattern.findall(raw):
        if part.startswith("'"):
            parts.append(part[1:-1])
        elif part.startswith('"'):
            parts.append(re.sub(r'\\(["\\])', r"\1", expand(part[1:-1], variables)))
        elif part.startswith("\\"):
            parts.append(part[1:])
        else:
            parts.append(_VARIABLE.sub(_Replacement(variables), part))
    return "".join(parts)
