"""Named SQL: `queries/<noun>.sql` has one statement under each `-- name: x` line. Reviewing SQL is reviewing a file."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

ROWS_AT_A_TIME = (256, 64, 16, 4, 1)  # few sizes, so that their statements stay prepared


@cache
def load(noun: str) -> Mapping[str, str]:
    """The statements of `queries/<noun>.sql` by name."""
    text = resources.files(__package__).joinpath("queries", f"{noun}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    found = {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}
    assert len(found) == len(parts) // 2, f"a name is there twice in {noun}.sql"
    return found


class Insert:
    """INSERT of many rows in few statements.

    `executemany` would step once a row, and give up the interpreter's lock each time.
    """

    def __init__(self, table: str, columns: Sequence[str], *, end: str = "") -> None:
        row = f"({', '.join('?' * len(columns))})"
        self._sql = {
            count: f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * count)} {end}"
            for count in ROWS_AT_A_TIME
        }

    def __call__(self, db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        at = 0
        for count in ROWS_AT_A_TIME:
            while len(rows) - at >= count:
                db.execute(self._sql[count], tuple(chain.from_iterable(rows[at : at + count])))
                at += count
