"""What an image is called: digests of declarations, without what is private and without what may differ by chance.

Out of it are secrets and credentials (a new token builds nothing), pickles (two of one function differ; its source
text and its arguments stand for it), and that a build was forced.
"""

from __future__ import annotations

import hashlib

import msgspec

from jitney.values.images import (
    AptInstall,
    Base,
    Dockerfile,
    ImageSpec,
    Layer,
    MicromambaInstall,
    PipInstall,
    Registry,
    RunCommands,
    RunFunction,
    UvSync,
    redacted,
)


def chain(before: bytes, content: object) -> bytes:
    """The digest of `content` on top of `before`."""
    # Tagged Structs and sorted keys: two different contents never have the same bytes.
    return hashlib.sha256(before + msgspec.msgpack.encode(content, order="deterministic")).digest()


def spec_digest(spec: ImageSpec) -> str:
    """What tells two declarations apart without knowing the machine: hex, 64 characters."""
    same = msgspec.structs.replace(
        spec,
        base=base_identity(spec.base),
        layers=tuple(map(layer_identity, spec.layers)),
        force_build=False,
    )
    return chain(b"", same).hex()


def layer_identity(layer: Layer) -> Layer:
    """What of a layer counts for its digest."""
    layer = _layer_without_secrets(layer)
    match layer:
        case PipInstall():
            return msgspec.structs.replace(
                layer,
                requirements=tuple(map(redacted, layer.requirements)),
                constraints=tuple(map(redacted, layer.constraints)),
                find_links=redacted(layer.find_links),
                index_url=redacted(layer.index_url),
                extra_index_url=redacted(layer.extra_index_url),
            )
        case RunFunction():
            return msgspec.structs.replace(layer, pickled=b"", source_id="")
        case _:
            return layer


def base_identity(base: Base) -> Base:
    """What of a base counts for its digest."""
    if isinstance(base, Registry):
        return msgspec.structs.replace(base, username="", password="")
    if isinstance(base, Dockerfile):
        return msgspec.structs.replace(base, username="", password="", secrets={}, why="")
    return base


def without_secrets(spec: ImageSpec) -> ImageSpec:
    """The declaration as it may be kept on a disk: it plans the same image, and can build it where nothing is private.

    Addresses keep what is before their '@', as they do not work without it.
    """
    return msgspec.structs.replace(
        spec,
        base=base_identity(spec.base),
        layers=tuple(map(_layer_without_secrets, spec.layers)),
        force_build=False,
    )


def _layer_without_secrets(layer: Layer) -> Layer:
    match layer:
        case PipInstall() | AptInstall() | RunCommands() | RunFunction() | UvSync() | MicromambaInstall():
            return msgspec.structs.replace(layer, secrets={}) if layer.secrets else layer
        case _:
            return layer
