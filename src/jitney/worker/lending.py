"""Volumes for steps of image builds (ports.lending): laid out and committed as those of containers are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from jitney.errors import ConnectionError, StorageError, StorageFullError, UnsupportedError
from jitney.ports.lending import LentVolume
from jitney.values.volumes import MESSAGE_CHARACTERS_MAX, VolumeMount
from jitney.wire.home import Home
from jitney.worker.layouts import Layouts
from jitney.worker.written import ATTEMPTS_MAX, RETRY_S, Author, Reading, Written, is_disk_full


class Lent:
    """See ports.lending.Loan."""

    def __init__(self, volumes: tuple[LentVolume, ...], written: Written) -> None:
        self.volumes = volumes
        self._written = written

    async def commit(self, uppers: Sequence[str], message: str) -> None:
        """See the port."""
        author = Author(message=message[:MESSAGE_CHARACTERS_MAX])
        written = [(one, Path(upper)) for one, upper in zip(self.volumes, uppers, strict=True) if upper]
        readings: list[Reading | None] = []
        try:
            for volume, upper in written:
                readings.append(await self._read(volume, upper))
            for number, (volume, upper) in enumerate(written):
                reading, readings[number] = readings[number], None
                if reading is not None:
                    await self._send(author, volume, upper, reading)
        finally:
            for left in filter(None, readings):
                self._written.forget(left)

    async def _read(self, volume: LentVolume, upper: Path) -> Reading | None:
        path = volume.mount.path
        try:
            reading = await self._written.read(upper, {})
        except OSError as error:
            if is_disk_full(error):
                raise StorageFullError(f"no room to commit what was written to {path}") from error
            raise StorageError(f"what was written to {path} cannot be read: {error}") from error
        if reading is not None and reading.missed:
            self._written.forget(reading)
            raise StorageError(f"{path}/{reading.missed[0]} cannot be read", hint="see to its mode: `chmod u+r`")
        return reading

    async def _send(self, author: Author, volume: LentVolume, upper: Path, reading: Reading | None) -> None:
        for _ in range(ATTEMPTS_MAX):
            try:
                if reading is not None:
                    await self._written.send(author, volume.mount.volume_id, volume.version, reading)
            except ConnectionError as error:
                failed = error
                await asyncio.sleep(RETRY_S)
                reading = await self._read(volume, upper)  # what was left for the server may have been taken
            else:
                return
        raise failed


class Lending:
    """See ports.lending.Lender. `layouts` None: this worker lays out no volumes."""

    def __init__(self, home: Home, layouts: Layouts | None) -> None:
        self._layouts = layouts
        self._lent: list[LentVolume] = []
        if layouts is not None:
            self._written = Written(home, layouts.trees, layouts.request)
            layouts.users.append(self._layers_in_use)

    @asynccontextmanager
    async def lend(self, volumes: Sequence[VolumeMount]) -> AsyncIterator[Lent]:
        """See the port."""
        if self._layouts is None:
            raise UnsupportedError("this worker has no place to lay out volumes")
        heads = await self._layouts.heads(tuple(one.volume_id for one in volumes))
        lent: list[LentVolume] = []
        try:
            for volume, head in zip(volumes, heads, strict=True):
                lent.append(await self._lay_out(self._layouts, volume, head))
                self._lent.append(lent[-1])
            yield Lent(tuple(lent), self._written)
        finally:
            self._give_back(lent)

    async def _lay_out(self, layouts: Layouts, volume: VolumeMount, head: int) -> LentVolume:
        version = head if volume.version is None else volume.version
        names = await layouts.lay_out(volume.volume_id, version, is_head=volume.version is None)
        layouts.prefetch(volume, names)
        folder = layouts.trees.folder(volume.volume_id)
        return LentVolume(mount=volume, version=version, layers=tuple(str(folder / name) for name in names))

    def _give_back(self, lent: Iterable[LentVolume]) -> None:
        for one in lent:
            self._lent.remove(one)

    def _layers_in_use(self, volume_id: str) -> set[str]:
        return {Path(layer).name for one in self._lent if one.mount.volume_id == volume_id for layer in one.layers}
