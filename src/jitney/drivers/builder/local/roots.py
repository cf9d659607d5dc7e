"""Layers of root file systems, by what was done to make them.

How one stands on the disk, below the folder of images; its name is the digest of its step, which names every step
before it too:

    roots/<digest>/root.json     the commit: which folder is the layer
    roots/<digest>/fs-1a2b3c4d/  the layer, as an overlay file system takes it; its owner is the root of boxes
    roots/<digest>/fs-….lock     held while it is made
    roots/<digest>/lock          held by who makes it: others wait, also those of other processes

A layer that was replaced (`force_build`) stays until no lease names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from jitney.drivers.builder.local import disk
from jitney.drivers.builder.local.disk import RootFile
from jitney.drivers.builder.local.leases import Lease
from jitney.ports.box import Box

LOOK_S = 0.05  # between looks whether somebody else has made a layer
Fill = Callable[[Path], Awaitable[RootFile]]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, or a base, that is there: its folders, the lowest first, and what it says of itself."""

    folders: tuple[str, ...]
    about: RootFile


class Roots:
    """Finds layers and makes them."""

    def __init__(self, images: Path, box: Box) -> None:
        self._folder = images / disk.ROOTS
        self._box = box

    def place(self, digest: str) -> Path:
        """Where the layer of a step is kept."""
        return self._folder / digest[: disk.ROOT_NAME_CHARS]

    def find(self, digest: str) -> Layer | None:
        """The layer of a step, if it is whole."""
        parent = self.place(digest)
        about = disk.read(parent / disk.ROOT_FILE, RootFile)
        if about is None:
            return None
        own = (str(parent / about.folder),) if about.folder else ()
        folders = (*about.layers, *own)
        return Layer(folders=folders, about=about) if all(map(os.path.isdir, folders)) else None

    def take(self, digest: str, lease: Lease, now_ms: int) -> Layer | None:
        """The layer of a step, kept from removal by `lease`."""
        found = self.find(digest)
        if found is None:
            return None
        lease.add(*found.folders)
        disk.touch(self.place(digest) / disk.ROOT_FILE, now_ms)
        again = self.find(digest)  # it may have been removed before the lease had it
        return again if again == found else None

    async def make(
        self,
        digest: str,
        fill: Fill,
        lease: Lease,
        *,
        now_ms: int,
        on_wait: Callable[[], None],
        force: bool = False,
    ) -> Layer:
        """The layer of a step: what another build has made meanwhile, or what `fill` puts into an empty folder.

        `fill` says what is to be kept of it; a `RootFile` with `layers` of others needs no folder of its own.
        """
        parent = self.place(digest)
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        before = self.find(digest) if force else None
        async with _alone(parent / "lock", on_wait):
            found = self.take(digest, lease, now_ms)
            if found and found != before:
                return found
            folder = parent / f"{disk.ROOT_PREFIX}{secrets.token_hex(4)}"
            with disk.guarded(folder):
                await self._fill(parent, folder, fill, lease)
                lease.add(folder)
                made = self.take(digest, lease, now_ms)
                assert made is not None
                return made

    async def _fill(self, parent: Path, folder: Path, fill: Fill, lease: Lease) -> None:
        is_kept = False
        try:
            self._box.adopt(str(folder))
            about = await fill(folder)
            if about.layers:
                lease.add(*about.layers)
            else:
                await asyncio.to_thread(disk.settle, folder)
                about = msgspec.structs.replace(about, folder=folder.name)
                is_kept = True
            disk.commit(parent / disk.ROOT_FILE, about)
        except BaseException:
            is_kept = False
            raise
        finally:
            if not is_kept:
                await asyncio.shield(asyncio.ensure_future(self._box.discard(str(folder))))


@contextlib.asynccontextmanager
async def _alone(path: Path, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold a lock file; `on_wait` is called once where somebody else has it."""
    handle = disk.try_lock(path)
    if handle is None:
        on_wait()
    while handle is None:
        await asyncio.sleep(LOOK_S)
        handle = disk.try_lock(path)
    try:
        yield
    finally:
        os.close(handle)
