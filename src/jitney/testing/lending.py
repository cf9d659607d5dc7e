"""Volumes for steps of image builds, in folders: `ports.lending` without a server or a worker."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from jitney.errors import JitneyError, NotFoundError
from jitney.ports.lending import LentVolume
from jitney.values.volumes import VolumeMount


class FakeLoan:
    """See ports.lending.Loan."""

    def __init__(self, lender: FakeLender, volumes: tuple[LentVolume, ...]) -> None:
        self.volumes = volumes
        self._lender = lender

    async def commit(self, uppers: Sequence[str], message: str) -> None:
        """See the port. Whiteouts are not looked for."""
        if self._lender.refusal is not None:
            raise self._lender.refusal
        for volume, upper in zip(self.volumes, uppers, strict=True):
            if upper and os.listdir(upper):
                self._lender.add(volume.mount.volume_id, Path(upper), message)


class FakeLender:
    """See the module. `refusal`: where given, no commit is taken."""

    def __init__(self, root: Path) -> None:
        self.refusal: JitneyError | None = None
        self.lent: list[LentVolume] = []  # and not given back
        self._root = root
        self._messages: dict[str, list[str]] = {}  # of the versions of a volume

    def make(self, volume_id: str) -> None:
        """A volume, at version 0: empty."""
        self._messages[volume_id] = []
        self._layer(volume_id, 0).mkdir(parents=True)

    def add(self, volume_id: str, folder: Path, message: str = "") -> None:
        """A version more, with what is in this folder."""
        self._messages[volume_id].append(message)
        shutil.copytree(folder, self._layer(volume_id, len(self._messages[volume_id])), symlinks=True)

    def look_again(self, volume_id: str) -> int:
        """Take the versions that another process has made; how many there are."""
        there = len(os.listdir(self._root / volume_id)) - 1
        self._messages[volume_id] += [""] * (there - len(self._messages[volume_id]))
        return there

    def messages(self, volume_id: str) -> list[str]:
        """Of the versions from 1 on."""
        return self._messages[volume_id]

    def files(self, volume_id: str) -> dict[str, str]:
        """What the newest version has."""
        found: dict[str, str] = {}
        for version in range(len(self._messages[volume_id]) + 1):
            layer = self._layer(volume_id, version)
            found |= {str(path.relative_to(layer)): path.read_text() for path in layer.rglob("*") if path.is_file()}
        return found

    @asynccontextmanager
    async def lend(self, volumes: Sequence[VolumeMount]) -> AsyncIterator[FakeLoan]:
        """See the port."""
        lent = tuple(map(self._lend, volumes))
        self.lent += lent
        try:
            yield FakeLoan(self, lent)
        finally:
            for one in lent:
                self.lent.remove(one)

    def _lend(self, mount: VolumeMount) -> LentVolume:
        if mount.volume_id not in self._messages:
            raise NotFoundError(f"no volume {mount.volume_id}")
        newest = len(self._messages[mount.volume_id])
        version = newest if mount.version is None else mount.version
        if not 0 <= version <= newest:
            raise NotFoundError(f"the volume has no version {version}")
        layers = tuple(str(self._layer(mount.volume_id, number)) for number in range(version + 1))
        return LentVolume(mount=mount, version=version, layers=layers)

    def _layer(self, volume_id: str, version: int) -> Path:
        return self._root / volume_id / str(version)
