"""Flags from signatures."""

import enum
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, Optional

import click
import pytest
from click.testing import CliRunner

from jitney.cli.flags import arguments, parameters
from jitney.errors import InvalidError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def run(function, *argv):
    """What the function would be called with, or the text of the usage error."""
    got = []
    command = click.Command("f", params=parameters(function), callback=lambda **values: got.append(values))
    result = CliRunner().invoke(command, argv)
    if result.exit_code:
        return result.output
    return arguments(function, got[0])


def test_every_type():
    def f(
        a: str,
        b: int,
        c: float,
        d: bool,
        e: Path,
        g: Literal["x", "y"],
        h: Colour,
        i: datetime,
        j: date,
        k: list[int],
        m: int | None,
        n: Annotated[str, "doc"],
        o: Optional[float] = None,  # noqa: UP045 (what users write)
    ): ...

    assert run(
        f, "--a", "t", "--b", "1", "--c", "2.5", "--d", "--e", "p", "--g", "x", "--h", "BLUE", "--i",
        "2026-03-01T09:30:00+00:00", "--j", "2026-03-01", "--k", "1", "--k", "2", "--m", "3", "--n", "z",
    ) == ((), {
        "a": "t", "b": 1, "c": 2.5, "d": True, "e": Path("p"), "g": "x", "h": Colour.BLUE,
        "i": datetime(2026, 3, 1, 9, 30, tzinfo=UTC), "j": date(2026, 3, 1), "k": [1, 2], "m": 3, "n": "z", "o": None,
    })  # fmt: skip


def test_defaults():
    def f(a="x", b=3, c=1.5, d=True, e: list[str] = ["q"], g: Colour = Colour.RED, h: list[int] | None = None,  # noqa: B006
          i: Literal[1, 2] = 1): ...  # fmt: skip

    assert run(f) == (
        (),
        {"a": "x", "b": 3, "c": 1.5, "d": True, "e": ["q"], "g": Colour.RED, "h": None, "i": 1},
    )
    assert run(f, "--no-d", "--b", "4", "--h", "1", "--i", "2")[1] == {
        "a": "x", "b": 4, "c": 1.5, "d": False, "e": ["q"], "g": Colour.RED, "h": [1], "i": 2,
    }  # fmt: skip


def test_names_with_underscores_have_both_spellings():
    def f(learning_rate: float, dry_run: bool = False): ...

    assert run(f, "--learning-rate", "1", "--dry-run")[1] == {"learning_rate": 1.0, "dry_run": True}
    assert run(f, "--learning_rate", "1", "--no-dry_run")[1] == {"learning_rate": 1.0, "dry_run": False}


def test_positions():
    def f(a: int, /, b: int, *rest: str, c: int = 0): ...

    assert run(f, "--a", "1", "--b", "2", "x", "y", "--c", "3") == ((1, 2, "x", "y"), {"c": 3})


def test_no_annotation_is_text():
    def f(a): ...

    assert run(f, "--a", "1")[1] == {"a": "1"}


def test_a_missing_flag_is_named():
    def f(path: str): ...

    assert "Missing option '--path'" in run(f)


def test_a_wrong_value_is_told():
    def f(n: int, when: date = date(2026, 1, 1)): ...

    assert "is not a valid integer" in run(f, "--n", "x")
    assert "write it as 2026-03-01" in run(f, "--n", "1", "--when", "soon")


def test_an_unwritable_type_keeps_its_default_or_is_refused():
    def optional(model: dict[str, int] = {}, n: int = 1): ...  # noqa: B006

    def required(model: dict[str, int]): ...

    assert run(optional) == ((), {"n": 1})
    with pytest.raises(InvalidError, match="'model' of 'required'"):
        parameters(required)


def test_help_from_the_docstring():
    def f(epochs: int = 3, name: str = ""):
        """Train.

        Args:
            epochs: Rounds over the data.
            name (str): What to call it.
        """

    command = click.Command("f", params=parameters(f))
    text = CliRunner().invoke(command, ["--help"]).output
    assert "Rounds over the data." in text
    assert "What to call it." in text
    assert "[default: 3]" in text


def test_annotations_as_text():
    namespace = {}
    exec(
        "from __future__ import annotations\nfrom pathlib import Path\ndef f(a: int, p: Path, x: Missing = None): ...",
        namespace,
    )
    assert run(namespace["f"], "--a", "1", "--p", "q") == ((), {"a": 1, "p": Path("q"), "x": None})
