"""Files of variables (`.env`): what most programs that read them agree on.

A line is `NAME=value`, with `export ` before it or not; '#' begins a comment where a value could. A value in single
quotes is taken as it is, one in double quotes has `\\n`, `\\t`, `\\r`, `\\"` and `\\\\`; both may go over lines.
Nothing is expanded: a value with `$` in it is that value.
"""

from __future__ import annotations

import re

from jitney.errors import InvalidError

_LINE = re.compile(
    r"""
    [ \t]* (?:export[ \t]+)? (?P<name>[A-Za-z_][A-Za-z0-9_]*) [ \t]* = [ \t]*
    (?: '(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<bare>[^'"\s#][^\n]*?|) )
    [ \t]* (?:(?<![^\s'"=])\#[^\n]*)? (?:\n|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_COMMENT = re.compile(r"[ \t]+#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_MEANT = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


def parse(text: str, where: str = ".env") -> dict[str, str]:
    """The variables of a file. Messages name the line, and never show what is in it.

    >>> parse("# comment\\nexport A=1\\nB='x # y' # z\\nC=\\"two\\\\nlines\\"\\n")
    {'A': '1', 'B': 'x # y', 'C': 'two\\nlines'}

    Raises:
        InvalidError: a line is no variable.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        blank = _BLANK.match(text, at)
        if blank is not None:
            at = blank.end()
            continue
        line = _LINE.match(text, at)
        if line is None:
            number = text.count("\n", 0, at) + 1
            raise InvalidError(f"{where}: line {number} is not NAME=value", hint="is a quotation mark missing?")
        found[line["name"]] = _value(line)
        at = line.end()
    return found


def _value(line: re.Match[str]) -> str:
    if line["single"] is not None:
        return line["single"]
    if line["double"] is not None:
        return _ESCAPE.sub(lambda match: _MEANT.get(match[1], match[0]), line["double"])
    return _COMMENT.sub("", line["bare"]).rstrip()
