"""Values of secrets in output: none is left, however it is written and broken, and nothing else is touched."""

import base64
import json
import re
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jitney.core.redaction import MARK, VALUE_CHARS_MIN, Patterns, Redactor, forms
from jitney.values.containers import CONTINUATION, LogLine

PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END KEY-----\n"


def line(text, fd=1):
    return LogLine(1, "ta-1", fd, text)


def texts(lines):
    return [one.text for one in lines]


def redacted(values, written, *, release_after=()):
    """The lines that come out, `release` called after those with the given numbers."""
    redactor = Redactor(Patterns(values))
    out = []
    for number, text in enumerate(written):
        out += redactor.feed([line(text)])
        if number in release_after:
            out += redactor.release()
    return texts(out + redactor.release())


ENCODERS = {
    "raw": lambda raw: raw.decode(),
    "base64": lambda raw: base64.b64encode(raw).decode(),
    "base64 after one byte": lambda raw: base64.b64encode(b"u" + raw + b"--").decode(),
    "base64 after two bytes": lambda raw: base64.b64encode(b"u:" + raw + b"-").decode(),
    "url-safe base64": lambda raw: base64.urlsafe_b64encode(b"user:" + raw).decode(),
    "url": lambda raw: quote(raw, safe=""),
    "url path": quote,
    "form": quote_plus,
    "lower-case url": lambda raw: re.sub("%..", lambda match: match[0].lower(), quote(raw, safe="")),
    "hex": lambda raw: raw.hex(),
    "HEX": lambda raw: raw.hex().upper(),
    "json": lambda raw: json.dumps({"key": raw.decode()}),
    "json in utf-8": lambda raw: json.dumps({"key": raw.decode()}, ensure_ascii=False),
    "repr": lambda raw: repr({"key": raw.decode()}),
}
SECRETS = [
    "hunter2-hunter2",
    "s3cr3t",
    "p@ss/w+rd=1&%",
    'quo"ted\\back\\slash',
    "gäh-ümlaut-秘密-🔑",
    "tab\tand space",
    "é" * 6,
]


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("value", SECRETS)
def test_every_form_of_a_value_is_replaced(encoding, value):
    written = ENCODERS[encoding](value.encode())
    (out,) = redacted([value], [f"before {written} after"])
    assert out.startswith("before ")
    assert out.endswith(" after")
    assert MARK in out
    core = base64.b64encode(value.encode()).decode()[:-4] if encoding == "base64" else written
    assert core not in out
    assert value not in out


def test_each_line_of_a_value_with_lines_is_replaced_also_alone():
    rows = PEM.splitlines()
    assert redacted([PEM], rows) == [MARK] * len(rows)
    assert redacted([PEM], ["key: " + rows[2]]) == ["key: " + MARK]
    assert MARK in redacted([PEM], [json.dumps(PEM)])[0]
    assert "MIIEvQ" not in redacted([PEM], [repr(PEM)])[0]


@pytest.mark.parametrize("at", range(1, len("hunter2-hunter2")))
def test_a_value_that_is_cut_anywhere_is_replaced_on_both_sides(at):
    value = "hunter2-hunter2"
    out = redacted([value], [f"x {value[:at]}", f"{value[at:]} y", "z"])
    assert out == [f"x {MARK}", f"{MARK} y", "z"]


def test_wrapped_base64_is_found():
    value = "a-long-secret-value-" * 8
    rows = base64.encodebytes(value.encode()).decode().splitlines()
    assert len(rows) > 2
    assert redacted([value], ["-----", *rows, "-----"]) == ["-----", *[MARK] * len(rows), "-----"]


def test_one_character_a_line_is_found():
    value = "hunter2-hunter2"
    assert redacted([value], [*value, "end"]) == [*[MARK] * len(value), "end"]


def test_pieces_of_a_long_line_are_one_text():
    value = "hunter2-hunter2"
    assert redacted([value], [f"x{value[:4]}", CONTINUATION + value[4:] + "y"]) == [
        f"x{MARK}",
        CONTINUATION + MARK + "y",
    ]
    assert redacted([value], [f"x{value[:4]}\r{value[4:]}|\r|"]) == [f"x{MARK}|\r|"]


def test_a_line_waits_only_while_a_value_may_go_on():
    redactor = Redactor(Patterns(["hunter2-hunter2"]))
    assert texts(redactor.feed([line("abc"), line("so hunter")])) == ["abc"]
    assert redactor.is_holding
    assert texts(redactor.feed([line("2 it is")])) == ["so hunter", "2 it is"]
    assert not redactor.is_holding


def test_what_was_released_is_remembered():
    out = redacted(["hunter2-hunter2"], ["so hunter2-", "hunter2 it is"], release_after=[0])
    assert out == ["so hunter2-", f"{MARK} it is"]


def test_what_is_held_is_bounded():
    redactor = Redactor(Patterns(["hunter2-hunter2"]))
    out = redactor.feed([line("hun")])
    for _ in range(2_000):
        out += redactor.feed([line("")])
    assert len(out) > 1_700


def test_long_values_are_found_in_full_and_in_parts():
    value = "".join(chr(33 + (i * i + 7 * i) % 90) for i in range(30_000))
    (out,) = redacted([value], [f"<{value}>"])
    assert out == f"<{MARK}>"
    (part,) = redacted([value], [value[5_000:9_000]])
    assert len(part) < 2_500


def test_short_values_are_left():
    assert redacted(["true", "12345"], ["true 12345"]) == ["true 12345"]
    assert not Patterns(["true"])


def test_two_values_that_overlap_are_one_gap():
    assert redacted(["abcdef", "defghi"], ["<abcdefghi>"]) == [f"<{MARK}>"]


def test_lines_that_are_unchanged_are_the_same_objects():
    lines = [line("a"), line("b")]
    assert Redactor(Patterns(["hunter2"])).feed(lines)[0] is lines[0]


alphabet = st.characters(codec="utf-8", exclude_characters="\0*", exclude_categories=["Cs"])
values = st.text(alphabet, min_size=VALUE_CHARS_MIN, max_size=60)
few = st.text("ab-", min_size=VALUE_CHARS_MIN, max_size=20)  # of which parts come again and again
noise = st.text(st.sampled_from("ab-xyzé \r"), max_size=30)


def as_lines(text, cuts):
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [part for start, end in pairwise(places) for part in text[start:end].split("\n")]


@given(st.lists(values | few, min_size=1, max_size=4), st.data())
@settings(max_examples=300, deadline=None)
@example(["ab\ncd\nef"], None)
def test_no_value_is_left_however_it_is_encoded_and_broken(secrets, data):
    if data is None:
        assert "".join(redacted(secrets, ["ab", "cd", "ef"])) == MARK * 3
        return
    parts = []
    for _ in range(data.draw(st.integers(1, 4))):
        value = data.draw(st.sampled_from(secrets))
        encode = ENCODERS[data.draw(st.sampled_from(sorted(ENCODERS)))]
        parts += [data.draw(noise), encode(value.encode()), data.draw(noise)]
    rows = as_lines("".join(parts), data.draw(st.lists(st.integers(0, 10_000), max_size=6)))
    out = redacted(secrets, rows)
    assert len(out) == len(rows)
    seen = "".join(out).replace("\r", "")
    for value in secrets:
        for form in forms(value):
            assert form.replace("\r", "") not in seen, (rows, out)


@given(st.lists(values | few, min_size=1, max_size=4), st.lists(noise | st.text(max_size=60), max_size=8), st.data())
@settings(max_examples=300, deadline=None)
def test_a_text_without_values_is_unchanged(secrets, rows, data):
    rows = [row.replace("\n", "") for row in rows]
    flat = "".join(row.removeprefix(CONTINUATION) for row in rows).replace("\r", "")
    assume(not any(form in flat for value in secrets for form in forms(value)))
    releases = data.draw(st.lists(st.integers(0, 8), max_size=4))
    assert redacted(secrets, rows, release_after=releases) == rows


@given(few, st.lists(noise, max_size=5), st.lists(st.integers(0, 10_000), max_size=4))
@settings(deadline=None)
def test_it_does_not_matter_how_lines_are_grouped(value, parts, cuts):
    rows = as_lines(value.join(parts), cuts)
    redactor = Redactor(Patterns([value]))
    at_once = texts([*redactor.feed([line(row) for row in rows]), *redactor.release()])
    assert at_once == redacted([value], rows)
