"""Volumes for steps of image builds: what a builder asks for, and whoever talks to the server has. The contract:

1. `lend` gives volumes as folders of this machine, each at one whole version: the one that is named, or the newest by
   then. They stay as they are until they are given back.
2. `commit` records what was written above them, for each volume as one version, and returns when that is durable. It is
   read from the folder `upper` of each, which is in the form of `ports.box`; nobody writes to it any more. All is read
   before any of it is recorded: what cannot be read fails, and nothing is kept. What changes nothing is no version.
3. Without `commit` nothing is kept.
4. A volume, or a version, that is not there is `NotFoundError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from jitney.values.volumes import VolumeMount


class LentVolume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume: `layers` are folders of this machine, lowest first."""

    mount: VolumeMount
    version: int
    layers: tuple[str, ...]


class Loan(Protocol):
    """What was lent."""

    @property
    def volumes(self) -> tuple[LentVolume, ...]:
        """In the order asked."""
        ...

    async def commit(self, uppers: Sequence[str], message: str) -> None:
        """Record what is in these folders; for a volume that is read-only it is "".

        Raises:
            ConnectionError: the server cannot be reached.
            InvalidError: the changes cannot be.
            StorageError: a file cannot be read.
            StorageFullError: the disk is full.
        """
        ...


class Lender(Protocol):
    """See the contract above."""

    def lend(self, volumes: Sequence[VolumeMount]) -> AbstractAsyncContextManager[Loan]:
        """Volumes, for the time of a `with` block.

        Raises:
            NotFoundError: one is not there.
            StorageFullError: the disk is full.
            UnsupportedError: this machine has no place for them.
        """
        ...
