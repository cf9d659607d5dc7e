"""Modules are called after what they hold, and texts say what they mean."""

import re

# A module with such a name collects whatever has no home.
NAMELESS = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "stuff"}

# word: why not
DENIED = {
    r"\b(TODO|FIXME|XXX|HACK)\b": "do it, or leave it to the issue tracker",
    r"(?i)\b(black|white)list(s|ed|ing)?\b": "say denied and allowed",
    r"(?i)\b(obviously|trivially|needless to say)\b": "if it is so, the word is not needed",
    r"(?i)\b(blazing|seamless|effortless)(ly)?\b": "give the figure instead",
    r"(?i)\b(cutting[- ]edge|world[- ]class|state[- ]of[- ]the[- ]art)\b": "give the figure instead",
    r"(?i)\b(leverages?|utili[sz]e[sd]?)\b": "say use",
}


def test_no_module_is_a_drawer(package):
    assert not [s.name for s in package if NAMELESS & {s.path.stem, s.path.parent.name}]


def test_no_denied_words(package):
    assert not [
        f"{source.name}:{number}: {found.group()!r}: {why}"
        for source in package
        for number, line in enumerate(source.lines, 1)
        for pattern, why in DENIED.items()
        for found in re.finditer(pattern, line)
    ]
