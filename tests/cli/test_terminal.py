"""What may reach the terminal."""

import doctest

import pytest

from jitney.cli import loading, screen, terminal
from jitney.cli.terminal import ago, parse_since, safe_line, span


@pytest.mark.parametrize("module", [terminal, screen, loading], ids=lambda module: module.__name__)
def test_the_examples_are_true(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("plain", "plain"),
        ("a\tb", "a\tb"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
        ("\x1b[38;5;9mx\x1b[m", "\x1b[38;5;9mx\x1b[m"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;aGk=", ""),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b[?1049hx", "x"),
        ("\x1bcx", "x"),
        ("\x1b(0x", "x"),
        ("cut \x1b[3", "cut "),
        ("cut \x1b", "cut "),
        ("10%\r20%\r", "20%"),
        ("a\x08b\x07c\x00", "abc"),
        ("\x9b31mx", "31mx"),
        ("two\nlines", "two lines"),
        ("a\u202eb", "ab"),
        ("日本 ✓", "日本 ✓"),
    ],
)
def test_safe_line(raw, shown):
    assert safe_line(raw) == shown


@pytest.mark.parametrize("text, at_ms", [("30s", 970_000), ("10m", 400_000), ("1970-01-01T00:00:01+00:00", 1_000)])
def test_parse_since(text, at_ms):
    assert parse_since(text, 1_000_000) == at_ms


def test_parse_since_refuses_other_text():
    with pytest.raises(ValueError, match="Invalid isoformat"):
        parse_since("soon", 0)


def test_spans():
    assert [span(59_949), span(60_000), span(3_600_000)] == ["59.9 s", "1 min", "1 h"]
    assert ago(None) == "-"


def test_tables_align_and_say_when_they_are_empty(capsys):
    terminal.table(("id", "name"), [("a", "\x1b[2Jx"), ("long", "y")], empty="none")
    terminal.table(("id",), [], empty="none")
    assert capsys.readouterr().out == "ID    NAME\na     x\nlong  y\nnone\n"


def test_errors_say_what_why_and_next(capsys):
    terminal.error("it broke", why="one\ntwo", fix="mend it")
    assert capsys.readouterr().err == "error: it broke\n  why:  one\n        two\n  next: mend it\n"
