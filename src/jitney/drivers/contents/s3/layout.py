"""Names of objects in the bucket, and what stands in those that stand for others. Pure.

    <prefix><workspace>/files/<aa>/<digest>              a content: itself, or (of several blocks) a list of its blocks
    <prefix><workspace>/blocks/<aa>/<digest>/<position>  a block of such a content

An object of S3 is there whole or not at all. So a content of one block is there when its object is, and one of several
when its list is, which is put last. A list is told from a content by its type.
"""

from __future__ import annotations

import re

from jitney.core import volumes
from jitney.errors import StorageCorruptError
from jitney.ports.contents import Stored
from jitney.values.volumes import DIGEST_BYTES, Content

LIST_TYPE = "application/vnd.jitney.blocks"
SIZE_BYTES = 8

_FILE = re.compile(r"([a-z0-9-]+)/files/[0-9a-f]{2}/([0-9a-f]{64})")
_BLOCK = re.compile(r"([a-z0-9-]+)/blocks/[0-9a-f]{2}/([0-9a-f]{64})/([0-9]{8})")


def file_name(one: Stored) -> str:
    """The object of a content, below the prefix."""
    return f"{one.workspace}/files/{one.digest[:2]}/{one.digest}"


def blocks_folder(one: Stored) -> str:
    """What the names of its blocks begin with."""
    return f"{one.workspace}/blocks/{one.digest[:2]}/{one.digest}/"


def block_name(one: Stored, position: int) -> str:
    """The object of one of its blocks."""
    return f"{blocks_folder(one)}{position:08d}"


def stored_of(name: str) -> Stored | None:
    """The content that an object is, or lists the blocks of; None: it is something else."""
    found = _FILE.fullmatch(name)
    return Stored(found[1], found[2]) if found else None


def block_of(name: str) -> tuple[Stored, int] | None:
    """The content and the position of a block's object; None: it is something else."""
    found = _BLOCK.fullmatch(name)
    return (Stored(found[1], found[2]), int(found[3])) if found else None


def encode(content: Content) -> bytes:
    """A list of blocks."""
    return content.size.to_bytes(SIZE_BYTES, "big") + content.blocks


def decode(digest: str, data: bytes) -> Content:
    """What `encode` made, for the content that it is said to be.

    Raises:
        StorageCorruptError: it is not what was put.
    """
    size, blocks = int.from_bytes(data[:SIZE_BYTES], "big"), data[SIZE_BYTES:]
    content = volumes.content_of(blocks, size)
    if len(data) < SIZE_BYTES or content.digest != digest or len(blocks) != content.count * DIGEST_BYTES:
        raise StorageCorruptError(
            f"the list of blocks of the content {digest[:16]}… in the bucket is damaged", hint="put the file again"
        )
    return content
