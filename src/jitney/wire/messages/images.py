"""Images and sources: what containers are made of."""

from __future__ import annotations

import msgspec

from jitney.values.images import BuiltImage, ImageSpec
from jitney.values.sources import SourceFile as SourceFile


class ImageBuild(msgspec.Struct, frozen=True, kw_only=True):
    """Build, or find built. A stream of `BuildProgress`, answered by `ImageBuilt`."""

    spec: ImageSpec


class BuildProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a build: a step began (`line` empty) or printed a line."""

    image_id: str
    step: int
    steps: int
    title: str
    line: str = ""


class ImageBuilt(msgspec.Struct, frozen=True, kw_only=True):
    image: BuiltImage


class SourceMissing(msgspec.Struct, frozen=True, kw_only=True):
    """Which of these files (sha256, hex) does the server not have?"""

    digests: list[str]


class SourceMissingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    missing: list[str]


class SourcePut(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of files, in batches below the frame limit; the server computes the digests."""

    contents: list[bytes]


class SourceCreate(msgspec.Struct, frozen=True, kw_only=True):
    """A tree of files, identified by its content. Relative paths are below the import root."""

    files: list[SourceFile]


class SourceCreated(msgspec.Struct, frozen=True, kw_only=True):
    source_id: str
