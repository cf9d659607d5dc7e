"""From the name of an image to the one manifest for a platform, and what it says of itself."""

from __future__ import annotations

from typing import Protocol

import msgspec

from jitney.drivers.pulls.oci import manifest
from jitney.drivers.pulls.oci.manifest import Config, Descriptor, Manifest, Platform, Setup
from jitney.errors import InvalidError
from jitney.ports.pulls import PulledImage


class Source(Protocol):
    """Where an image comes from."""

    async def manifest(self, wanted: str) -> tuple[bytes, str, str]:
        """Bytes, media type and digest of what a tag or a digest names."""
        ...

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """A configuration, checked."""
        ...


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """An image before its layers are here."""

    digest: str  # of its manifest
    asked: str  # ... and of what the name stands for, which may be an index of several
    manifest: Manifest
    config: Config


async def resolve(source: Source, name: str, wanted: Platform, what: str) -> Resolved:
    """Ask for the manifest, through indexes, and for the configuration.

    Raises:
        InvalidError: what is there cannot be right.
        NotFoundError: it is not there for this platform.
    """
    asked = ""
    for _ in range(manifest.NESTING_MAX):
        data, media_type, digest = await source.manifest(name)
        asked = asked or digest
        found = manifest.parse(data, media_type, what)
        if found.manifests is None:
            break
        name = manifest.choose(found.manifests, wanted, what).digest
    else:
        raise InvalidError(f"{what} is a list of lists of lists of images", hint="choose another image")
    assert found.config
    config = manifest.parse_config(await source.small_blob(found.config), found, what)
    if config.architecture and not manifest.fitness(config.platform, wanted):
        raise manifest.no_platform([config.platform], wanted, what)
    return Resolved(digest=digest, asked=asked, manifest=found, config=config)


def describe(resolved: Resolved, reference: str, layers: tuple[str, ...]) -> PulledImage:
    """The image, once its layers are here."""
    config = resolved.config
    setup = config.config or Setup()
    return PulledImage(
        reference=reference,
        digest=resolved.digest,
        platform=str(config.platform),
        layers=layers,
        env=config.env,
        workdir=setup.workdir or "",
        entrypoint=tuple(setup.entrypoint or ()),
        cmd=tuple(setup.cmd or ()),
        shell=tuple(setup.shell or ()),
        user=setup.user or "",
        labels=setup.labels or {},
    )
