"""What a check of `jitney doctor` found."""

from __future__ import annotations

import msgspec

OK, WARNING, ERROR = "ok", "warning", "error"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check. `why` says what it means, `fix` what would change it; both empty when all is
    well."""

    id: str
    severity: str
    what: str
    why: str = ""
    fix: str = ""


def finding(id: str, severity: str, what: str, why: str = "", *, fix: str = "") -> Finding:
    """One of any severity."""
    return Finding(id=id, severity=severity, what=what, why=why, fix=fix)


def ok(id: str, what: str, why: str = "", *, fix: str = "") -> Finding:
    """All is well; `why` and `fix` may still say what would be better."""
    return finding(id, OK, what, why, fix=fix)


def warning(id: str, what: str, why: str = "", *, fix: str = "") -> Finding:
    """Something works less well than it could."""
    return finding(id, WARNING, what, why, fix=fix)


def error(id: str, what: str, why: str = "", *, fix: str = "") -> Finding:
    """Something keeps Jitney from working."""
    return finding(id, ERROR, what, why, fix=fix)
