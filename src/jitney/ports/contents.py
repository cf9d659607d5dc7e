"""Contents of files in volumes: large ones too, by their digest, for each workspace apart.

The contract, for every driver:

 1. A content is what `core.volumes.content_of` says: a list of blocks, and a digest made of theirs. What is no digest,
    no block of its content, or no name of something incoming, is refused with InvalidError before a file is touched.
 2. A content is there whole or not at all, also after a loss of power: as soon as the call that brought its last block
    has given, it is synced and stays until it is removed.
 3. A content that was begun and is not whole keeps the blocks that it has, until `sweep`: also over a restart, and a
    block that did not arrive whole is not among them.
 4. Blocks may be put in any order, at the same time, and again.
 5. Workspaces know nothing of one another: what one has is not there for another, whoever asks for it.
 6. A content that is asked for (`absent`, `begin`, `put`) and is there counts as used now. `remove` takes one only if
    it was not used since `before_ms`, and decides that in one step with the removal: so what is about to be committed,
    and was asked for, is not removed.
 7. `adopt` takes a file that somebody on the same machine put into `incoming`: its content is what was read here, not
    what was said, and it has the size that was said or is refused. A file that others may still change is refused.
 8. StorageFullError: the disk is full. What this call put may be there or not; all that was there stays, and nothing is
    left half. Putting again is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from jitney.errors import InvalidError
from jitney.values.volumes import Content

_DIGEST = re.compile(r"[0-9a-f]{64}")
_INCOMING = re.compile(r"[0-9a-f]{32}")
_WORKSPACE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Part(NamedTuple):
    """One block of a content. A content of at most one block needs no `begin`: its part is all of it."""

    digest: str
    position: int
    data: bytes | memoryview


class Block(NamedTuple):
    """Where a block is: in which content, and the how-manieth it is there."""

    digest: str
    position: int


class Stored(NamedTuple):
    """A content that is there."""

    workspace: str
    digest: str


class Contents(Protocol):
    """Contents by digest."""

    async def absent(self, workspace: str, digests: Sequence[str]) -> list[str]:
        """Those that are not there whole, each once, in the order asked."""

    async def begin(self, workspace: str, content: Content, known: Mapping[bytes, Block]) -> list[int]:
        """The blocks of `content` that have to be put; [] when it is whole.

        `known` says by digest in which contents some of its blocks are already: they are copied from there. One that is
        not there any more, or is damaged, has to be put.
        """

    async def put(self, workspace: str, parts: Sequence[Part]) -> None:
        """Keep blocks.

        Raises:
            NotFoundError: a block of a content that was not begun: begin it (again).
            InvalidError: the data is not that block.
        """

    async def adopt(self, workspace: str, name: str, size: int) -> Content:
        """Keep what is in the file `name` of `incoming`, which is gone from there then.

        Raises:
            NotFoundError: there is no such file.
            InvalidError: it has another size, is no plain file, or others hold it too.
        """

    async def read(self, workspace: str, digest: str, offset: int, length: int) -> bytes:
        """A part of a content: less than `length` only at its end.

        Raises:
            NotFoundError: it is not there.
        """

    async def old(self, before_ms: int, *, after: Stored | None = None, limit: int = 1_000) -> list[Stored]:
        """Contents that were not used since, in order, from behind `after` on."""

    async def remove(self, workspace: str, digests: Sequence[str], before_ms: int) -> list[str]:
        """Drop those that were not used since: which are not there any more, or never were."""

    async def sweep(self, before_ms: int) -> int:
        """Drop what was begun and not touched since: how many."""

    def folder(self, workspace: str) -> Path | None:
        """Where this is on the machine: `incoming/`, and `files/<aa>/<digest>`, one whole file each. None: nowhere."""


def check_digest(digest: str) -> str:
    """`digest`, if it has the form of one.

    Raises:
        InvalidError: it does not.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidError(f"{digest[:70]!r} is not the digest of a content")
    return digest


def check_incoming(name: str) -> str:
    """`name`, if it may be one of a file in `incoming`: 32 hexadecimal digits.

    Raises:
        InvalidError: it may not.
    """
    if not _INCOMING.fullmatch(name):
        raise InvalidError(f"{name[:70]!r} is no name of an incoming file")
    return name


def check_workspace(workspace: str) -> str:
    """`workspace`, if it may be the name of one.

    Raises:
        InvalidError: it may not.
    """
    if not _WORKSPACE.fullmatch(workspace):
        raise InvalidError(f"{workspace[:70]!r} is no name of a workspace")
    return workspace
