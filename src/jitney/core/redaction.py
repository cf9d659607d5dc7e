"""Values of secrets in lines of output: found as the lines pass, and replaced.

A program prints a value as it is, or encoded; in one line, or broken over several. So a value has several *forms*, and
they are looked for in the text without its line breaks. Long forms are cut into blocks that are looked for one by one:
what is found then has a bounded length, and parts of a long value are found too.

There are two ways to look for blocks. One regular expression, which costs more the more there are. Or a stride: only
each n-th place of the text is looked at, for what stands there is near the beginning of a block or of none; this costs
the same for any number of blocks, and less the longer they are. Short blocks are found in the first way and long ones
in the second; what is short is decided by the cost.

A line that ends with the beginning of a block is held back until the next line tells; whoever feeds lines must
`release` what is held after a moment. What it held is remembered then, so that the rest of the value is still replaced
when it comes.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote, quote_plus

import msgspec

from jitney.values.containers import CONTINUATION, LogLine

MARK = "***"
VALUE_CHARS_MIN = 6  # shorter ones are parts of too much else
GRAM_CHARS = 6  # that are looked up at a place
STRIDE_MAX = 32
BLOCK_CHARS_MAX = 128
LONG_FORM_CHARS, LONG_BLOCK_CHARS_MAX = 4_096, 1_024  # of long forms blocks are longer: they are to cost little memory
EXPRESSION_COST, EXPRESSION_COST_EACH, PLACE_COST = 5.0, 0.5, 140.0  # measured, in ns: of a character, and of a place
HELD_LINES_MAX = 256

_LINE_BREAKS = re.compile(r"\r\n|\r|\n")
_ESCAPES = re.compile(r"%[0-9A-F]{2}")
_URL_SAFE = str.maketrans("+/", "-_")

Interval = tuple[int, int]


def forms(value: str) -> set[str]:
    """What a value looks like in a text without line breaks."""
    raw = value.encode("utf-8", "surrogatepass")
    found = {value, value.strip(), *_LINE_BREAKS.split(value)}
    found |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    quoted = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    found |= quoted | {_ESCAPES.sub(lambda match: match[0].lower(), text) for text in quoted}
    found |= {raw.hex(), raw.hex().upper()}
    for text in _base64(raw):
        found |= {text, text.translate(_URL_SAFE)}
    return {text for form in found if len(text := _LINE_BREAKS.sub("", form)) >= VALUE_CHARS_MIN}


def _base64(raw: bytes) -> Iterator[str]:
    """Base64 of bytes that have 0, 1 or 2 others before them (modulo 3): as far as only these decide it.

    And where these are the last ones, to the end.
    """
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw).decode()
        first = (0, 2, 3)[before]
        yield text[first : (before + len(raw)) * 8 // 6]
        yield text[first:]


def blocks(form: str) -> Iterator[str]:
    """A form, cut into parts of nearly the same length."""
    count = -(-len(form) // (BLOCK_CHARS_MAX if len(form) < LONG_FORM_CHARS else LONG_BLOCK_CHARS_MAX))
    for number in range(count):
        yield form[number * len(form) // count : (number + 1) * len(form) // count]


class Patterns:
    """What is looked for: made once for a set of values."""

    def __init__(self, values: Iterable[str]) -> None:
        worth = {value for value in values if len(value) >= VALUE_CHARS_MIN}
        found = {block for value in worth for form in forms(value) for block in blocks(form)}
        short, self._stride = _cheapest(sorted(map(len, found)))
        self._short: dict[str, list[str]] = {}  # by their first characters
        self._grams: dict[str, list[tuple[str, int]]] = {}  # part of a block -> the block, and where the part is in it
        for block in sorted(found, key=lambda block: (-len(block), block)):
            if len(block) < short:
                self._short.setdefault(block[:GRAM_CHARS], []).append(block)
                continue
            for offset in range(self._stride):
                self._grams.setdefault(block[offset : offset + GRAM_CHARS], []).append((block, offset))
        # One that is still open at the end of a text and not longer than this may have no place that is looked at.
        self._unseen_max = self._stride + GRAM_CHARS
        self._starts = {block[:size] for block in found for size in range(1, min(len(block), self._unseen_max + 1))}
        self._expression = re.compile(_any_of(sorted(self._short))) if self._short else None
        self.looks = 0  # comparisons in full, ever

    def __bool__(self) -> bool:
        return bool(self._starts)

    def search(self, text: str) -> tuple[list[Interval], int]:
        """(where values are, where one may begin that goes on after the end: the length of the text if none does)."""
        found: list[Interval] = []
        open_at = len(text)
        for block, at in self._candidates(text):
            self.looks += 1
            if text.startswith(block, at):
                found.append((at, at + len(block)))
            elif at + len(block) > len(text) and block.startswith(text[at:]):
                open_at = min(open_at, at)
        for size in range(min(self._unseen_max, len(text)), 0, -1):
            if text[-size:] in self._starts:
                open_at = min(open_at, len(text) - size)
                break
        return _merged(found), open_at

    def _candidates(self, text: str) -> Iterator[tuple[str, int]]:
        """(a block that may be in the text, where): the rest is to be compared."""
        if self._expression is not None:
            match = self._expression.search(text)
            while match is not None:
                for block in self._short[match[0]]:
                    yield block, match.start()
                match = self._expression.search(text, match.start() + 1)
        grams = self._grams
        if not grams:
            return
        for index in [i for i in range(0, len(text), self._stride) if text[i : i + GRAM_CHARS] in grams]:
            for block, offset in grams[text[index : index + GRAM_CHARS]]:
                if offset <= index:
                    yield block, index - offset


def _cheapest(lengths: Sequence[int]) -> tuple[int, int]:
    """(from what length on blocks are found by a stride, the stride), for sorted lengths of blocks."""
    choices = []
    for short in sorted({*lengths, LONG_BLOCK_CHARS_MAX + 1}):
        count = bisect_left(lengths, short)
        cost = EXPRESSION_COST + EXPRESSION_COST_EACH * count if count else 0.0
        stride = 1
        if count < len(lengths):
            stride = min(STRIDE_MAX, lengths[count] - GRAM_CHARS + 1)
            cost += PLACE_COST / stride
        choices.append((cost, short, stride))
    _, short, stride = min(choices)
    return short, stride


def _merged(found: list[Interval]) -> list[Interval]:
    """In order, with those that touch as one."""
    merged: list[Interval] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _any_of(words: Sequence[str]) -> str:
    """A pattern for any of these words, which are sorted and of one length: as a tree, so that it is fast."""
    if len(words) == 1:
        return re.escape(words[0])
    by_first: dict[str, list[str]] = {}
    for word in words:
        by_first.setdefault(word[:1], []).append(word[1:])
    if all(rests == [""] for rests in by_first.values()):
        return f"[{''.join(map(re.escape, by_first))}]"
    branches = [re.escape(first) + _any_of(rests) for first, rests in by_first.items()]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


class Redactor:
    """The lines of one descriptor, in and out in order. `is_holding`: some are held back."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._held: list[LogLine] = []
        self._seen = ""  # the beginning of a value, as it seems, in lines that were released already

    @property
    def is_holding(self) -> bool:
        """Whether lines are held back, which somebody is to release soon."""
        return bool(self._held)

    def feed(self, lines: Sequence[LogLine]) -> list[LogLine]:
        """The lines that can go on, without values."""
        lines = [*self._held, *lines] if self._held else list(lines)
        self._held = []
        text, found, open_at = self._look(lines)
        if not found and open_at == len(text):
            self._seen = ""
            return lines
        ends = self._ends(lines)
        first = next((number for number, end in enumerate(ends) if end > open_at), len(lines))
        if first < len(lines):
            first = _before_intervals(found, [len(self._seen), *ends], first)
        self._held = lines[first:] if len(lines) - first <= HELD_LINES_MAX else []
        if not self._held:
            first = len(lines)
        out = self._replaced(lines[:first], found)
        if first:
            self._seen = text[open_at:] if not self._held else ""
        return out

    def release(self) -> list[LogLine]:
        """What is held: nothing came after it, so far."""
        lines, self._held = self._held, []
        if not lines:
            return []
        text, found, open_at = self._look(lines)
        out = self._replaced(lines, found)
        self._seen = text[open_at:]
        return out

    def _look(self, lines: Sequence[LogLine]) -> tuple[str, list[Interval], int]:
        text = "".join([line.text for line in lines])
        if "\r" in text or CONTINUATION in text:
            text = "".join([_flat(line.text) for line in lines])
        text = self._seen + text
        return (text, *self._patterns.search(text))

    def _ends(self, lines: Sequence[LogLine]) -> list[int]:
        at, ends = len(self._seen), []
        for line in lines:
            at += len(_flat(line.text))
            ends.append(at)
        return ends

    def _replaced(self, lines: Sequence[LogLine], found: Sequence[Interval]) -> list[LogLine]:
        if not found:
            return list(lines)
        out, start, number = [], len(self._seen), 0
        for line in lines:
            end = start + len(_flat(line.text))
            while number < len(found) and found[number][1] <= start:
                number += 1
            own = []
            for low, high in found[number:]:
                if low >= end:
                    break
                if start < end:
                    own.append((max(low, start) - start, min(high, end) - start))
            out.append(msgspec.structs.replace(line, text=_without(line.text, own)) if own else line)
            start = end
        return out


def _before_intervals(found: Sequence[Interval], borders: Sequence[int], first: int) -> int:
    """The number of the first line to hold, so that no interval is cut: it would not be found again."""
    for low, high in reversed(found):
        while low < borders[first] < high and first:
            first -= 1
    return first


def _flat(text: str) -> str:
    """A line as it is looked at: without what says that it is a piece of a longer one, and without carriage returns."""
    text = text.removeprefix(CONTINUATION)
    return text.replace("\r", "") if "\r" in text else text


def _without(text: str, intervals: Sequence[Interval]) -> str:
    """A line with intervals of its flat text replaced."""
    marker = CONTINUATION if text.startswith(CONTINUATION) else ""
    rest = text[len(marker) :]
    places = [index for index, char in enumerate(rest) if char != "\r"] if "\r" in rest else range(len(rest))
    parts, at = [marker], 0
    for low, high in intervals:
        parts += [rest[at : places[low]], MARK]
        at = places[high - 1] + 1
    return "".join([*parts, rest[at:]])
