"""Manifests, indexes and configurations of images: read strictly, as strangers wrote them. Pure."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from jitney.errors import InvalidError, NotFoundError, ResourceExhaustedError, UnsupportedError
from jitney.values.references import is_digest

T = TypeVar("T")

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, ""})
ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"
LAYER_FORM = re.compile(
    r"application/vnd\.(oci\.image\.layer\.v1\.tar|docker\.image\.rootfs\.diff\.tar)([.+](gzip|zstd))?"
)

MANIFEST_BYTES_MAX = 4 << 20
CONFIG_BYTES_MAX = 8 << 20
LAYERS_MAX = 500  # of one overlay
NESTING_MAX = 3  # of indexes
LISTED_MAX = 20  # platforms that an error lists

MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386"}
VARIANTS = {"armv7l": "v7", "armv6l": "v6"}


class Platform(msgspec.Struct, frozen=True):
    """What an image is for."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part) or "unknown"


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """Content that is elsewhere: its digest is its name."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] = {}
    urls: list[str] = []


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image, or a list of images for several platforms."""

    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None


class Setup(msgspec.Struct, frozen=True):
    """What containers of the image start with; Go writes null for what is empty."""

    user: str | None = msgspec.field(name="User", default=None)
    env: list[str] | None = msgspec.field(name="Env", default=None)
    entrypoint: list[str] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: list[str] | None = msgspec.field(name="Cmd", default=None)
    workdir: str | None = msgspec.field(name="WorkingDir", default=None)
    shell: list[str] | None = msgspec.field(name="Shell", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class RootFs(msgspec.Struct, frozen=True):
    """Digests of the layers as they are unpacked, lowest first."""

    diff_ids: list[str] | None = None


class Config(msgspec.Struct, frozen=True):
    """An image's own description."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    config: Setup | None = None
    rootfs: RootFs = RootFs()

    @property
    def platform(self) -> Platform:
        """What it is for."""
        return Platform(self.architecture, self.os or "linux", self.variant)

    @property
    def env(self) -> dict[str, str]:
        """Its variables; lines that are none are left out."""
        lines = (self.config and self.config.env) or []
        pairs = (line.partition("=") for line in lines if "\0" not in line)
        return {name: value for name, equals, value in pairs if name and equals}


def machine() -> Platform:
    """This machine's."""
    name = platform.machine()
    return Platform(MACHINES.get(name, name), "linux", VARIANTS.get(name, ""))


def parse_platform(text: str) -> Platform:
    """From "linux/arm64/v8".

    Raises:
        InvalidError: it is not of that form.
    """
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.-]{1,32}", part) for part in parts):
        raise InvalidError(f"{text[:64]!r} is not a platform", hint="write it as 'linux/amd64' or 'linux/arm64/v8'")
    return Platform(parts[1], parts[0], parts[2] if len(parts) > 2 else "")


def parse(data: bytes, media_type: str, what: str) -> Manifest:
    """A manifest or an index, by what it says and not only by what it is called.

    Raises:
        InvalidError: it is neither.
        UnsupportedError: it is of the first form, of before 2016, or not of an image.
    """
    manifest = decode(data, Manifest, f"the manifest of {what}")
    if manifest.schema_version != 2:
        raise UnsupportedError(
            f"{what} has a manifest of version {manifest.schema_version}, which no tool makes since 2016",
            hint="push it again with a current Docker, or choose another image",
        )
    said = {kind.partition(";")[0].strip() for kind in (manifest.media_type, media_type)} & (INDEXES | MANIFESTS)
    is_index = manifest.manifests is not None
    if is_index == (manifest.layers is not None) or said & (MANIFESTS if is_index else INDEXES):
        raise InvalidError(f"the manifest of {what} contradicts itself", hint="push the image again")
    for descriptor in (*(manifest.manifests or ()), *(manifest.layers or ()), *filter(None, [manifest.config])):
        if not is_digest(descriptor.digest) or descriptor.size < 0:
            raise InvalidError(f"the manifest of {what} names content by {descriptor.digest[:80]!r}")
    if not is_index:
        _check_image(manifest, what)
    return manifest


def _check_image(manifest: Manifest, what: str) -> None:
    layers = manifest.layers or []
    if manifest.config is None or manifest.config.media_type not in CONFIGS or manifest.artifact_type:
        kind = manifest.artifact_type or (manifest.config.media_type if manifest.config else "no configuration")
        raise UnsupportedError(f"{what} is not an image but something else ({kind[:100]})", hint="check its name")
    if len(layers) > LAYERS_MAX:
        raise ResourceExhaustedError(
            f"{what} has {len(layers)} layers, of {LAYERS_MAX} at most", hint="build it with fewer steps, or squash it"
        )
    for layer in layers:
        if not LAYER_FORM.fullmatch(layer.media_type):
            raise UnsupportedError(
                f"{what} has a layer of the form {layer.media_type[:100]!r}",
                hint="encrypted layers, and those outside of the registry, cannot be had; choose another image",
            )


def parse_config(data: bytes, manifest: Manifest, what: str) -> Config:
    """The configuration, if it is one of this manifest.

    Raises:
        InvalidError: it is not.
    """
    config = decode(data, Config, f"the configuration of {what}")
    diff_ids = config.rootfs.diff_ids or []
    if len(diff_ids) != len(manifest.layers or []):
        raise InvalidError(f"{what} has {len(manifest.layers or [])} layers and describes {len(diff_ids)}")
    if not all(is_digest(diff_id) and diff_id.startswith("sha256:") for diff_id in diff_ids):
        raise InvalidError(f"{what} describes a layer by something that is no digest")
    return config


def decode(data: bytes, kind: type[T], what: str) -> T:
    """JSON of a stranger as `kind`.

    Raises:
        InvalidError: it does not fit.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidError(f"{what} is not right ({error})", hint="push the image again, or choose another") from None


# ------------------------------------------------------------------------------------------------- platforms


def choose(manifests: Sequence[Descriptor], wanted: Platform, what: str) -> Descriptor:
    """The manifest for a machine: exactly its variant, or else the best that it can run.

    Raises:
        NotFoundError: there is none; lists those that are there.
    """
    fitting = [
        (rank, -place, found)
        for place, found in enumerate(manifests)
        if found.platform and (rank := fitness(found.platform, wanted)) > 0
    ]
    if fitting:
        return max(fitting, key=lambda each: each[:2])[2]
    nested = [found for found in manifests if found.platform is None and found.media_type in INDEXES | MANIFESTS]
    if len(nested) == 1:
        return nested[0]
    raise no_platform([found.platform for found in manifests if found.platform], wanted, what)


def fitness(offered: Platform, wanted: Platform) -> int:
    """How well an image runs on a machine; 0: not at all."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return 0
    ours, theirs = _level(wanted), _level(offered)
    return 0 if theirs > ours else 1 + theirs


def _level(each: Platform) -> int:
    """The place of a variant in its family; what is not said is the lowest that everybody has."""
    basic = {"arm64": 8, "arm": 7, "amd64": 1}.get(each.architecture, 0)
    found = re.fullmatch(r"v([0-9]{1,2})(\.[0-9]+)?", each.variant)
    return int(found.group(1)) if found else basic


def no_platform(offered: Sequence[Platform], wanted: Platform, what: str) -> NotFoundError:
    """The error that says which there are."""
    names = sorted({str(each) for each in offered if each.os != "unknown"})
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    return NotFoundError(
        f"{what} is not there for {wanted}, only for {', '.join(names[:LISTED_MAX]) or 'nothing'}{more}",
        hint="choose another image or tag, or run it on a machine of that kind",
    )
