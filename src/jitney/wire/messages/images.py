"""Images and sources: what containers are made of."""

from __future__ import annotations

import msgspec

from jitney.values.images import BuiltImage, ImageRecord, ImageSpec
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


class ImagePlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What would a build do? Answered by `values.images.PlannedImage`."""

    spec: ImageSpec


class ImageList(msgspec.Struct, frozen=True, kw_only=True):
    """Images that are there, the one that was used last first."""

    limit: int = 1_000


class ImageListed(msgspec.Struct, frozen=True, kw_only=True):
    images: tuple[ImageRecord, ...]


class ImageTag(msgspec.Struct, frozen=True, kw_only=True):
    """Give an image a name, "name:tag"; without a tag it is ":latest"."""

    image: str
    name: str


class ImageTagged(msgspec.Struct, frozen=True, kw_only=True):
    """`name` in its full form."""

    image_id: str
    name: str


class ImageRemove(msgspec.Struct, frozen=True, kw_only=True):
    """By id or by name. Refused while a function or a container uses it."""

    image: str


class ImageRemoved(msgspec.Struct, frozen=True, kw_only=True):
    image_id: str


class ImageCollect(msgspec.Struct, frozen=True, kw_only=True):
    """Remove what was not used for `keep_ms`, has no name, and belongs to no function. Answered by `Collected`."""

    keep_ms: int
    dry_run: bool = False


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
