"""One file of an app's log: a header, then a line of text for each line of output.

    #log 1 <bytes before this file> <lines before this file>
    <at_ms> <container id> <descriptor> <function> <text>

A file is read by people with a pager as well as by us. Backslashes, line breaks and, before the text, spaces are
escaped. The header makes positions that count from the first byte that the app ever wrote.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jitney.values.containers import LogLine

_HEADER = re.compile(rb"#log 1 (\d{1,19}) (\d{1,19})\n")
_LINE = re.compile(rb"(\d{1,19}) (\S+) ([012]) (\S+) (.*)\n", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", " ": "\\s"}
_PLAIN = {"\\": "\\", "n": "\n", "r": "\r", "s": " "}
_NOTHING = "-"
BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Header:
    """Where a file begins in the whole log."""

    bytes_before: int
    lines_before: int
    size: int  # of the header itself; 0 in a file without one

    @property
    def line(self) -> bytes:
        """As written."""
        return b"#log 1 %d %d\n" % (self.bytes_before, self.lines_before)


def new_header(bytes_before: int, lines_before: int) -> Header:
    """The header of a file that begins there."""
    return Header(bytes_before, lines_before, len(Header(bytes_before, lines_before, 0).line))


def read_header(file: BinaryIO) -> Header:
    """The header of a file; of one that has none, that of a beginning."""
    file.seek(0)
    first = file.readline(64)
    match = _HEADER.fullmatch(first)
    return Header(int(match[1]), int(match[2]), len(first)) if match else Header(0, 0, 0)


def encode(line: LogLine, text: str, function: str) -> bytes:
    """A line as written."""
    text = _escape(text, "\\\n\r")
    words = f"{line.at_ms} {_word(line.container_id)} {line.fd} {_word(function)} {text}\n"
    return words.encode("utf-8", "backslashreplace")


def decode(raw: bytes) -> tuple[LogLine, str] | None:
    """(line, function); None for what is no whole line."""
    match = _LINE.fullmatch(raw)
    if match is None:
        return None
    container_id, function, text = (_unescape(match[n].decode("utf-8", "replace")) for n in (2, 4, 5))
    line = LogLine(int(match[1]), "" if container_id == _NOTHING else container_id, int(match[3]), text)
    return line, "" if function == _NOTHING else function


def whole_size(path: Path) -> tuple[Header, int, int]:
    """(header, bytes up to the last whole line, lines) of a file."""
    with path.open("rb") as file:
        header = read_header(file)
        file.seek(header.size)
        size = whole = header.size
        lines = 0
        while block := file.read(BLOCK_BYTES):
            found = block.count(b"\n")
            if found:
                lines += found
                whole = size + block.rindex(b"\n") + 1
            size += len(block)
    return header, whole, lines


def backwards(file: BinaryIO, start: int) -> Iterator[bytes]:
    """The whole lines of a file, last first, down to `start`; in memory one block and one line at a time."""
    at = file.seek(0, os.SEEK_END)
    rest = b""
    whole = False  # whether what is in `rest` ends with a line break
    while at > start:
        begin = max(start, at - BLOCK_BYTES)
        file.seek(begin)
        pieces = (file.read(at - begin) + rest).split(b"\n")
        at = begin
        rest = pieces[0]
        for piece in reversed(pieces[1:]):
            if whole:
                yield piece + b"\n"
            whole = True
    if whole and rest:
        yield rest + b"\n"


def _word(text: str) -> str:
    return _escape("".join(text.split("\0")), "\\\n\r ") if text and not text.isspace() else _NOTHING


def _escape(text: str, characters: str) -> str:
    for character in characters:
        if character in text:
            text = text.replace(character, _ESCAPES[character])
    return text


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: _PLAIN.get(match[1], match[0]), text) if "\\" in text else text
