"""Lines and the rate limit of the process runtime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.drivers.runtime.forking.output import (
    BURST_BYTES,
    CONTINUATION,
    LINE_BYTES_MAX,
    NOTE,
    RATE_BYTES_PER_S,
    SHARE_PERCENT,
    LineCutter,
    OutputGate,
)


def cut(*chunks: bytes) -> list[str]:
    cutter = LineCutter()
    lines = [line for chunk in chunks for line in cutter.feed(chunk)]
    return lines + cutter.flush()


@pytest.mark.parametrize(
    "chunks, lines",
    [
        ([b""], []),
        ([b"a\n"], ["a"]),
        ([b"a\nb"], ["a", "b"]),
        ([b"\n\n"], ["", ""]),
        ([b"a\r\nb\r\n"], ["a", "b"]),
        ([b"ab", b"c\nd", b"\n"], ["abc", "d"]),
        (["é\n".encode()[:1], "é\n".encode()[1:]], ["é"]),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        ([b"\0\n"], ["\0"]),
    ],
)
def test_lines(chunks, lines):
    assert cut(*chunks) == lines


@given(st.binary(max_size=2_000), st.lists(st.integers(1, 50), max_size=30))
def test_lines_are_the_same_however_the_bytes_arrive(data, sizes):
    chunks, rest = [], data
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    chunks.append(rest)
    assert cut(*chunks) == cut(data)


@given(st.lists(st.text(alphabet="aé€😀", max_size=30), max_size=4), st.integers(1, 5))
def test_a_long_line_is_cut_and_loses_nothing(parts, times):
    text = ("x" * (LINE_BYTES_MAX - 7) + "".join(parts)) * times
    pieces = cut(text.encode(), b"\nnext\n")
    assert pieces.pop() == "next"
    assert all(len(piece.removeprefix(CONTINUATION).encode()) <= LINE_BYTES_MAX for piece in pieces)
    assert all(piece.startswith(CONTINUATION) for piece in pieces[1:])
    assert "".join(piece.removeprefix(CONTINUATION) for piece in pieces) == text


def test_a_line_of_ten_megabytes_is_kept_in_bounded_memory():
    cutter, size = LineCutter(), 10 * 1024 * 1024
    pieces = []
    for _ in range(size // LINE_BYTES_MAX):
        pieces += cutter.feed(b"y" * LINE_BYTES_MAX)
        assert len(cutter._rest) <= LINE_BYTES_MAX
    pieces += cutter.feed(b"\n")
    assert sum(len(piece.removeprefix(CONTINUATION)) for piece in pieces) == size
    assert cutter.feed(b"short\n") == ["short"]


def test_a_flood_is_dropped_and_counted_once_a_second():
    gate = OutputGate("ta-1", 1, 0.0)
    chunk = b"x" * 1023 + b"\n"
    sent = kept = 0
    notes = []
    for step in range(100_000):  # 100 MB in ten seconds
        now_s = step / 10_000
        sent += 1
        for line in gate.feed(chunk, at_ms=step, now_s=now_s):
            if line.fd == NOTE:
                notes.append(line.text)
            else:
                kept += 1
    notes += [line.text for line in gate.finish(at_ms=0) if line.fd == NOTE]
    dropped = sum(int(note.split()[1].replace(",", "")) for note in notes)
    assert kept + dropped == sent
    share = SHARE_PERCENT[1] / 100
    assert kept * 1024 <= (BURST_BYTES + 10 * RATE_BYTES_PER_S) * share
    assert kept * 1024 >= RATE_BYTES_PER_S * 8 * share
    assert 1 <= len(notes) <= 11


def test_what_the_reader_refuses_is_counted_and_so_is_a_refused_note():
    gate = OutputGate("ta-1", 1, 0.0)
    first = gate.feed(b"a\nb\n", at_ms=1, now_s=0.0)
    gate.refused(first)
    second = gate.feed(b"c\n", at_ms=2, now_s=0.0)
    assert [line.fd for line in second] == [NOTE, 1]
    gate.refused(second)
    [note, line] = gate.feed(b"d\n", at_ms=3, now_s=0.0)
    assert note.text.startswith("jitney: 3 lines (6 bytes)")
    assert line.text == "d"
    assert gate.finish(at_ms=4) == []


def test_a_flood_of_output_leaves_room_for_the_traceback():
    out, err = OutputGate("ta-1", 1, 0.0), OutputGate("ta-1", 2, 0.0)
    for _ in range(400):
        out.feed(b"x" * 65_535 + b"\n", at_ms=1, now_s=0.0)
    assert out.is_dropping
    assert [line.text for line in err.feed(b"Traceback\n", at_ms=1, now_s=0.0)] == ["Traceback"]
    [note] = out.finish(at_ms=2)
    assert "of standard output were dropped" in note.text
