"""What is said of a named object that is not there: the same for all kinds."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.values.objects import ObjectKind

NEAR_MAX = 2
SHOWN_CHARS_MAX = 64
CREATE_IF_MISSING = "create_if_missing=True makes one"


def near(name: str, known: Iterable[str]) -> str:
    """'did you mean 'weights'?', or ''."""
    found = get_close_matches(name[:SHOWN_CHARS_MAX], list(known), n=NEAR_MAX)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def missing(kind: ObjectKind, name: str, known: Iterable[str], remedy: str = CREATE_IF_MISSING) -> NotFoundError:
    """The error for a name that no object of the kind has: with near names, and what would make one."""
    hint = " ".join(filter(None, (near(name, known), remedy)))
    return NotFoundError(f"no {kind} {name[:SHOWN_CHARS_MAX]!r}", hint=hint)


def taken(kind: ObjectKind, name: str) -> AlreadyExistsError:
    """The error for a name that another object of the kind has."""
    return AlreadyExistsError(
        f"there is a {kind} {name!r} already",
        hint=f"choose another name; or delete that one (`jitney {kind} delete {name}`), if nothing needs it",
    )
