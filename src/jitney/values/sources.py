"""A file that is shipped with an app."""

from __future__ import annotations

import msgspec


class SourceFile(msgspec.Struct, frozen=True, array_like=True):
    """A file at a relative POSIX path ('pkg/mod.py'), or an absolute container path ('/data/x')."""

    path: str
    digest: str
    executable: bool = False
