"""Contents of files, by their digest.

The contract, for every driver:

 1. A digest is the SHA-256 of the content, in 64 lower-case hexadecimal digits. Anything else is refused with
    InvalidError before a file is touched.
 2. `put` is atomic and idempotent: a content is there whole or not at all, also after a loss of power, and putting it
    again does nothing.
 3. What is read is what was put: a content that no longer has its digest is removed and counts as missing.
 4. `place` gives a file of its own: changing it changes no other.
 5. StorageFullError: the disk, or the bucket, is full, and nothing of this `put` can be relied on. Putting again is
    right.
 6. A content is as old as its last `put`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jitney.errors import InvalidError, NotFoundError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobStore(Protocol):
    """Contents by digest."""

    async def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that are not here, each once, in the order asked."""

    async def put(self, contents: Sequence[bytes]) -> list[str]:
        """Keep contents: their digests, in order."""

    async def read(self, digest: str) -> bytes:
        """The content.

        Raises:
            NotFoundError: it is not here.
        """

    async def place(self, digest: str, target: Path, *, executable: bool = False) -> None:
        """Write the content to a new file at `target`, whose folder exists. The file is read-only.

        Raises:
            NotFoundError: the content is not here.
        """

    async def remove(self, digests: Sequence[str]) -> None:
        """Drop contents; those that are not here are passed over."""

    async def old(self, before_ms: int) -> list[str]:
        """Those that were put before, and not again since: sorted."""


def not_here(digest: str) -> NotFoundError:
    """The error for a content that is not there."""
    return NotFoundError(f"the content {digest} is not on this server", hint="send it again")


def check_digest(digest: str) -> str:
    """`digest`, if it has the form of one.

    Raises:
        InvalidError: it does not.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidError(f"{digest[:70]!r} is not a SHA-256 digest in lower-case hexadecimal")
    return digest
