"""Names that containers may reach: what they ask (`dns`), what they say (`hello`, `head`), what is answered (`table`).

Everything here reads bytes that a container made up: each parser takes any bytes, and either gives a value, wants more,
or raises `Malformed`.
"""

from __future__ import annotations

from collections.abc import Iterable

ANY = "*"


class Malformed(ValueError):
    """These bytes are not what they should be: the message says how."""


def listed(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name (lower case, no dot at its end) is one of the patterns of a policy.

    >>> listed("a.b.example.com", ["*.example.com"]), listed("example.com", ["*.example.com"])
    (True, False)
    """
    return any(
        pattern in (ANY, name) or (pattern.startswith("*.") and name.endswith(pattern[1:])) for pattern in patterns
    )
