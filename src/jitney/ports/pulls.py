"""What brings images of others to this machine: from a registry, or from an archive that lies here.

The contract, for every driver:

 1. `pull` and `load` give the image's root file system as folders, each good as a layer of an overlay file system, the
    lowest first, and what the image says of itself. There is always at least one folder.
 2. Only content that has the digest which it was asked by is given; an image that was asked for by tag has the digest
    that the registry said.
 3. Layers are shared: equal layers of different images are one folder, fetched once, also by several pulls at the same
    time. An image that is here whole, asked for by digest, is given without asking anybody.
 4. What was fetched with credentials is given only to pulls of the same `scope`; what needed none, to everybody.
 5. A layer is here as a whole or not at all, also after a kill or a power cut. A pull that ends early leaves what came
    so far, and the next one goes on from there.
 6. A `platform` that the image does not have raises `NotFoundError`, which lists those that it has.
 7. `on_line` is called on the event loop with lines for people. One that raises is not called again; the pull goes on.
 8. A pull that is cancelled ends its downloads and processes before it returns, if no other pull waits for them.
 9. `find` gives an image that is here whole, or None. It asks nobody.
10. `remove_unused` removes layers that are not among `keep` and that no pull which runs needs; it returns the bytes
    that it gave back. Images that have lost a layer are not found any more.
11. `reap` removes what earlier runs left half-made; call it once, before anything else. `close` ends what runs.
12. `load` reads what the driver's settings allow; for what is elsewhere it raises `PermissionDeniedError`. With
    `is_own` the path is the caller's, which no image's declaration has named: it is read wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

OnLine = Callable[[str], None]


class PulledImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is here. `digest` is that of its manifest for `platform`: equal digests are equal images."""

    reference: str  # in full, with its digest; of an archive: its path
    digest: str
    platform: str  # "linux/amd64"
    layers: tuple[str, ...]  # folders, lowest first
    env: dict[str, str] = {}
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    user: str = ""  # "", "1000", "app:staff": as the image has it
    labels: dict[str, str] = {}


class Puller(Protocol):
    """Brings images; see the contract above."""

    async def pull(
        self,
        reference: str,
        *,
        username: str = "",
        password: str = "",
        platform: str = "",
        scope: str = "",
        on_line: OnLine,
    ) -> PulledImage:
        """The image of a registry. Without `platform`: for this machine. Without credentials: those of Docker.

        Raises:
            AuthError: the registry wants (other) credentials.
            ConnectionError: the registry does not answer, or not as one.
            ImageBuildError: what came is not what was asked for, or cannot be unpacked.
            InvalidError: the reference, or the image itself, cannot be right.
            NotFoundError: it has no such image, or not for this platform.
            PermissionDeniedError: the address is not allowed, or the credentials are not for this image.
            ResourceExhaustedError: the image, or what the registry allows, is over a limit.
            StorageFullError: the disk is full.
        """
        ...

    async def load(
        self,
        path: str,
        *,
        reference: str = "",
        platform: str = "",
        scope: str = "",
        is_own: bool = False,
        on_line: OnLine,
    ) -> PulledImage:
        """The image of an OCI layout (a folder, or a tar of one) or of what `docker save` made.

        Raises:
            ImageBuildError, InvalidError, NotFoundError, PermissionDeniedError, ResourceExhaustedError,
            StorageFullError: as for `pull`.
        """
        ...

    def find(self, digest: str, *, scope: str = "") -> PulledImage | None:
        """The image with this digest, if it is here."""
        ...

    async def remove_unused(self, keep: Collection[str]) -> int:
        """Remove layers that are not in `keep`; the bytes that this gave back."""
        ...

    async def reap(self) -> int:
        """Remove what earlier runs left half-made; the number of such leftovers."""
        ...

    async def close(self) -> None:
        """End pulls that run."""
        ...
