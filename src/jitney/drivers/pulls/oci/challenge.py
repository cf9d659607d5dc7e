"""What a registry answers to who has no token, and how long to wait for one that is busy. Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import msgspec

HEADER_CHARS_MAX = 8_192
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')


class Challenge(msgspec.Struct, frozen=True):
    """A `WWW-Authenticate` header."""

    scheme: str  # "bearer", "basic"
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge of a header that can be met.

    >>> parse_challenge('Bearer realm="https://auth.example/token",service="registry"').realm
    'https://auth.example/token'
    """
    scheme, _, rest = header[:HEADER_CHARS_MAX].strip().partition(" ")
    if scheme.lower() not in ("bearer", "basic"):
        return None
    found: dict[str, str] = {}
    at = 0
    while match := _PARAMETER.match(rest, at):
        name, quoted, plain = match.groups()
        found.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain)
        at = match.end()
    return Challenge(scheme.lower(), found.get("realm", ""), found.get("service", ""), found.get("scope", ""))


def pause_ms(attempt: int, *, retry_after: str, now_s: float, dice: float, backoff_ms: int, backoff_max_ms: int) -> int:
    """How long to wait before attempt number `attempt` (1 = the second): as told, or twice as long each time.

    `dice` (0 to 1) spreads those who were refused together.
    """
    told = retry_after.strip()
    if told.isascii() and told.isdigit() and len(told) < 10:
        return int(told) * 1000
    if told:
        try:
            return max(0, round((parsedate_to_datetime(told).timestamp() - now_s) * 1000))
        except (ValueError, TypeError, OverflowError):
            pass
    full = min(backoff_ms << min(attempt - 1, 20), backoff_max_ms)
    return round(full * (0.5 + dice / 2))
