"""Images that lie on this machine: an OCI layout as a folder or a tar, or what `docker save` made.

All become the same: named pieces of files, and a manifest in the form that registries have. An archive is not
unpacked: its members are found once, and read where they are.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from jitney.drivers.pulls.oci.manifest import (
    CONFIG_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    decode,
)
from jitney.drivers.pulls.oci.registry import digest_of, mismatch
from jitney.drivers.pulls.oci.unpacker import Blob
from jitney.errors import InvalidError, NotFoundError
from jitney.runner import tarstream
from jitney.runner.tarstream import GZIP, Refused
from jitney.values import references

MEMBERS_MAX = 200_000
CONTENT_BYTES_MAX = 1 << 20  # of index.json and its like
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
LISTED_MAX = 20
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not hold us up


class Members(Protocol):
    """Named pieces of files."""

    def find(self, name: str) -> Blob | None:
        """Where a member is."""
        ...


class FolderMembers:
    """Files of a folder, reached through no link."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find(self, name: str) -> Blob | None:
        """See Members."""
        path = self._folder
        parts = tarstream.split(os.fsencode(name))
        for part in parts:
            path = os.path.join(path, os.fsdecode(part))
            if os.path.islink(path):
                raise InvalidError(f"{name!r} in {self._folder} is a link", hint="copy the layout without links")
        return Blob(path, 0, os.stat(path).st_size) if os.path.isfile(path) else None


class ArchiveMembers:
    """Members of a tar that is not compressed.

    Raises:
        InvalidError: it is damaged or hostile.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._blobs: dict[str, Blob] = {}
        self._links: dict[str, str] = {}
        try:
            self._scan()
        except Refused as error:
            raise InvalidError(f"the archive {path} is refused: {error}", hint="make it again") from None

    def find(self, name: str) -> Blob | None:
        """See Members. `docker save` has links between equal layers: one is followed, within the archive."""
        target = self._links.get(name)
        if target is not None:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return self._blobs.get(name)

    def _scan(self) -> None:
        with open(self._path, "rb", opener=lambda path, flags: os.open(path, flags | FLAGS)) as file:
            end = os.fstat(file.fileno()).st_size
            source = _Seeking(file, end)
            for count, entry in enumerate(tarstream.entries(source)):
                if count >= MEMBERS_MAX:
                    raise Refused(f"it has more than {MEMBERS_MAX:,} files")
                name = b"/".join(entry.path).decode(errors="surrogateescape")
                if entry.kind == tarstream.FILE:
                    if name in self._blobs or name in self._links:
                        raise Refused(f"{entry.name} is there twice")
                    self._blobs[name] = Blob(self._path, source.at, entry.size)
                    source.skip(entry.size)
                elif entry.kind in (tarstream.SYMLINK, tarstream.LINK):
                    target = entry.target.decode(errors="surrogateescape")
                    self._links[name] = target if entry.kind == tarstream.SYMLINK else posixpath.join("/", target)[1:]
                elif entry.kind != tarstream.FOLDER:
                    raise Refused(f"{entry.name} is no file")


class _File(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def seek(self, at: int, /) -> int: ...


class _Seeking:
    """A `tarstream.Source` that skips by seeking."""

    def __init__(self, file: _File, end: int) -> None:
        self._file = file
        self._end = end
        self.at = 0

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self.at += len(chunk)
        return chunk

    def exactly(self, size: int) -> bytes:
        chunk = self.read(size)
        if len(chunk) < size:
            raise Refused("it ends in the middle of a file")
        return chunk

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > self._end:
            raise Refused("it ends in the middle of a file")
        self._file.seek(self.at)


def is_compressed(path: str) -> bool:
    """Whether it is a file that has to be made plain first."""
    if os.path.isdir(path):
        return False
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | FLAGS)) as file:
        return file.read(4).startswith((GZIP, tarstream.ZSTD))


class Layout:
    """An OCI layout, asked as a registry is.

    Args:
        what: its path, for messages.
        reference: which of its images is meant.
    """

    is_anonymous = True

    def __init__(self, members: Members, what: str, reference: str) -> None:
        self._members = members
        self._what = what
        self._reference = reference

    async def manifest(self, wanted: str) -> tuple[bytes, str, str]:
        """What a digest names; without one: an index of what the reference may mean."""
        return await asyncio.to_thread(self._manifest, wanted)

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """A configuration."""
        return await asyncio.to_thread(self._content, descriptor.digest, CONFIG_BYTES_MAX)

    def blob(self, descriptor: Descriptor) -> Blob:
        """Where a layer is. Its content is checked as it is unpacked."""
        found = self._members.find(_blob_name(descriptor.digest))
        if found is None:
            raise _lacks(self._what, descriptor.digest)
        return found

    def _manifest(self, wanted: str) -> tuple[bytes, str, str]:
        if wanted:
            return self._content(wanted, MANIFEST_BYTES_MAX), "", wanted
        found = self._members.find("index.json")
        if found is None:
            raise _lacks(self._what, "index.json")
        index = decode(read(found, CONTENT_BYTES_MAX), Manifest, f"index.json of {self._what}")
        chosen = choose_named(index.manifests or [], self._reference, self._what)
        data = msgspec.json.encode(Manifest(2, OCI_INDEX, manifests=chosen))
        return data, OCI_INDEX, digest_of(data, "sha256")

    def _content(self, digest: str, limit: int) -> bytes:
        found = self._members.find(_blob_name(digest))
        if found is None:
            raise _lacks(self._what, digest)
        data = read(found, limit)
        if digest_of(data, digest.partition(":")[0]) != digest:
            raise mismatch(self._what, "a file", digest)
        return data


class _Saved(msgspec.Struct, rename="pascal"):
    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class DockerArchive:
    """What `docker save` makes, asked as a registry is: the manifest is made up from what is there."""

    is_anonymous = True

    def __init__(self, members: Members, what: str, reference: str) -> None:
        self._members = members
        self._what = what
        self._reference = reference
        self._layers: dict[str, Blob] = {}
        self._config = b""

    async def manifest(self, wanted: str) -> tuple[bytes, str, str]:
        """The one image that is meant."""
        return await asyncio.to_thread(self._manifest)

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """Its configuration."""
        return self._config

    def blob(self, descriptor: Descriptor) -> Blob:
        """Where a layer is. Its content is checked as it is unpacked."""
        return self._layers[descriptor.digest]

    def _manifest(self) -> tuple[bytes, str, str]:
        found = self._members.find("manifest.json")
        if found is None:
            raise _lacks(self._what, "manifest.json")
        saved = decode(read(found, CONTENT_BYTES_MAX), list[_Saved], f"manifest.json of {self._what}")
        image = _choose_saved(saved, self._reference, self._what)
        self._config = read(self._member(image.config), CONFIG_BYTES_MAX)
        diff_ids = decode(self._config, Config, f"the configuration of {self._what}").rootfs.diff_ids or []
        if len(diff_ids) != len(image.layers):
            raise InvalidError(f"{self._what} has {len(image.layers)} layers and describes {len(diff_ids)}")
        layers = []
        for diff_id, name in zip(diff_ids, image.layers, strict=True):
            self._layers[diff_id] = self._member(name)
            layers.append(Descriptor(diff_id, self._layers[diff_id].size, PLAIN_LAYER))
        config = Descriptor(digest_of(self._config, "sha256"), len(self._config), OCI_CONFIG)
        data = msgspec.json.encode(Manifest(2, OCI_MANIFEST, config=config, layers=layers))
        return data, OCI_MANIFEST, digest_of(data, "sha256")

    def _member(self, name: str) -> Blob:
        found = self._members.find(name)
        if found is None:
            raise _lacks(self._what, name)
        return found


Local = Layout | DockerArchive


def open_local(path: str, reference: str, what: str) -> Local:
    """The image at a path.

    Raises:
        InvalidError: there is none.
    """
    try:
        members: Members = FolderMembers(path) if os.path.isdir(path) else ArchiveMembers(path)
        if members.find("index.json") and members.find("oci-layout"):
            return Layout(members, what, reference)
        if members.find("manifest.json"):
            return DockerArchive(members, what, reference)
    except OSError as error:
        raise InvalidError(
            f"{what} cannot be read ({error.strerror or error})", hint="the path is one of the worker's machine"
        ) from None
    raise InvalidError(
        f"{what} is no image: it has neither index.json (OCI) nor manifest.json (Docker)",
        hint="make it with `docker save`, `podman save --format oci-archive` or `skopeo copy … oci:folder`",
    )


def read(blob: Blob, limit: int) -> bytes:
    """A small piece of a file.

    Raises:
        InvalidError: it is not small.
    """
    if blob.size > limit:
        raise InvalidError(f"a file of {blob.path} has {blob.size:,} bytes where {limit:,} are enough")
    file = os.open(blob.path, FLAGS)
    try:
        return os.pread(file, blob.size, blob.offset)
    finally:
        os.close(file)


def choose_named(manifests: Sequence[Descriptor], reference: str, what: str) -> list[Descriptor]:
    """Those of an index that a reference means; without one, all of the only image.

    Raises:
        InvalidError: several are there, and none is named.
        NotFoundError: none has the name.
    """
    names = [_names(each) for each in manifests]
    if reference:
        found = [
            each for each, called in zip(manifests, names, strict=True)
            if each.digest == reference or any(same_name(name, reference) for name in called)
        ]  # fmt: skip
        if not found:
            raise _no_name(what, reference, sorted(set().union(*names)))
        return found
    if len({tuple(sorted(called)) for called in names}) > 1:
        raise _several(what, sorted(set().union(*names)))
    return list(manifests)


def _choose_saved(saved: Sequence[_Saved], reference: str, what: str) -> _Saved:
    names = sorted({name for each in saved for name in each.repo_tags or []})
    if reference:
        for each in saved:
            if any(same_name(name, reference) for name in each.repo_tags or []):
                return each
        raise _no_name(what, reference, names)
    if len(saved) != 1:
        raise _several(what, names)
    return saved[0]


def same_name(name: str, reference: str) -> bool:
    """Whether an image that is called `name` in an archive is meant: the same reference, or just its tag."""
    if name == reference:
        return True
    with suppress(InvalidError):
        return references.parse(name) == references.parse(reference)
    return False


def _names(descriptor: Descriptor) -> set[str]:
    return {descriptor.annotations[key] for key in NAMES if key in descriptor.annotations}


def _blob_name(digest: str) -> str:
    kind, _, text = digest.partition(":")
    return f"blobs/{kind}/{text}"


def _lacks(what: str, name: str) -> InvalidError:
    return InvalidError(f"{what} lacks {name[:100]!r}", hint="it is not whole: make it again")


def _several(what: str, names: Sequence[str]) -> InvalidError:
    there = ", ".join(names[:LISTED_MAX]) or "none has a name"
    return InvalidError(f"{what} has several images, or none ({there})", hint="say which: `reference`")


def _no_name(what: str, reference: str, names: Sequence[str]) -> NotFoundError:
    there = ", ".join(names[:LISTED_MAX]) or "none with a name"
    return NotFoundError(f"{what} has no image {reference[:100]!r}, only {there}", hint="check the name")
