"""Layers that are here, and how they get here: once each, whoever asks, and as a whole or not at all."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from jitney.drivers.pulls.oci.finishing import finish
from jitney.drivers.pulls.oci.manifest import Descriptor
from jitney.drivers.pulls.oci.progress import Progress
from jitney.drivers.pulls.oci.registry import Registry, mismatch
from jitney.drivers.pulls.oci.resolve import Resolved
from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.drivers.pulls.oci.store import LayerFile, Part, Store, room_errors
from jitney.drivers.pulls.oci.unpacker import Blob, Unpacker
from jitney.errors import ImageBuildError, InvalidError, JitneyError
from jitney.ports.pulls import OnLine

EMPTY_DIFF_ID = "sha256:" + "0" * 64  # of a layer that no archive makes: the root of an image without layers

Obtain = Callable[[Descriptor, Path], Awaitable[Blob]]  # a packed layer; a path that a download may be kept at


class Scopes(msgspec.Struct, frozen=True):
    """Who asks for an image, and whom new layers of it are for; '' = everybody."""

    asking: str
    making: str


class Layers:
    """Makes layers, and gives those that are there."""

    def __init__(self, store: Store, unpacker: Unpacker, settings: PullSettings) -> None:
        self._store = store
        self._unpacker = unpacker
        self._downloads = asyncio.Semaphore(settings.downloads)
        self._unpacks = asyncio.Semaphore(settings.unpacks)
        self._needed: Counter[str] = Counter()

    @property
    def needed(self) -> list[str]:
        """Folders that pulls which run need."""
        return [str(self._store.layers / key) for key in +self._needed]

    async def all_of(self, resolved: Resolved, obtain: Obtain, scopes: Scopes, on_line: OnLine) -> tuple[str, ...]:
        """The folders of an image, lowest first; at least one."""
        pairs = [*zip(resolved.config.rootfs.diff_ids or [], resolved.manifest.layers or [], strict=True)]
        # Of a layer that comes twice the upper one counts: an overlay takes a folder once, and it hides the lower one.
        wanted = dict(reversed(pairs))
        here: dict[str, tuple[str, LayerFile]] = {}
        with self._in_use(self._key(scope, each) for each in wanted for scope in {"", scopes.asking, scopes.making}):
            with _first_error():
                async with asyncio.TaskGroup() as group:

                    async def one(number: int, diff_id: str, descriptor: Descriptor) -> None:
                        title = f"layer {number} of {len(wanted)}"
                        here[diff_id] = await self._layer(
                            diff_id, descriptor, obtain, scopes, lambda line: on_line(f"{title}: {line}")
                        )

                    for number, (diff_id, descriptor) in enumerate(reversed(wanted.items()), 1):
                        group.create_task(one(number, diff_id, descriptor))
            folders: list[str] = []
            for diff_id in wanted:  # the uppermost first
                key, layer = here[diff_id]
                folders.append(str(self._store.layers / key))
                if layer.hides_all:  # overlays do not look whether a root is opaque
                    break
        return tuple(reversed(folders)) or (await self._empty(),)

    async def download(
        self, registry: Registry, descriptor: Descriptor, path: Path, progress: Progress, what: str
    ) -> Blob:
        """A blob of a registry, in a file that an earlier run may have begun.

        Raises:
            ImageBuildError: it does not have its digest.
        """
        async with self._downloads:
            with room_errors():
                part = Part(path, descriptor.digest.partition(":")[0])
                was_resumed = True
                try:
                    await finish(asyncio.to_thread(part.catch_up))
                    progress.add(part.size)
                    while True:
                        if part.size <= descriptor.size:
                            was_resumed = part.resumed
                            await registry.download(descriptor, part, progress.add)
                            if part.digest == descriptor.digest:
                                return Blob(str(path), 0, descriptor.size)
                        progress.add(-part.size)
                        part.restart()
                        if not was_resumed:  # what an earlier run left may be what is wrong; what came now is not
                            raise mismatch(what, "a layer", descriptor.digest)
                finally:
                    part.close()

    # ---------------------------------------------------------------------------------------------- one

    def _key(self, scope: str, diff_id: str) -> str:
        return self._store.key(scope, "layer", diff_id)

    async def _layer(
        self, diff_id: str, descriptor: Descriptor, obtain: Obtain, scopes: Scopes, on_line: OnLine
    ) -> tuple[str, LayerFile]:
        for scope in dict.fromkeys(("", scopes.asking)):
            key = self._key(scope, diff_id)
            if layer := self._store.layer(key):
                self._store.touch(key)
                return key, layer
        key = self._key(scopes.making, diff_id)
        async with self._store.locked(key, lambda: on_line("waiting for another pull of it")) as lock:
            if layer := self._store.layer(key):
                return key, layer
            part = self._store.parts / key
            blob = await obtain(descriptor, part)
            async with self._unpacks:
                on_line("unpacking")
                layer = await self._unpack(key, diff_id, blob, lock, on_line)
            part.unlink(missing_ok=True)
        return key, layer

    async def _unpack(self, key: str, diff_id: str, blob: Blob, lock: int, on_line: OnLine) -> LayerFile:
        folder = self._store.layers / key
        with room_errors():
            await finish(self._unpacker.discard(folder))
            folder.mkdir(mode=0o755)
            try:
                found = await self._unpacker.unpack(blob, folder, lock, on_line)
                if found.diff_id != diff_id:
                    raise mismatch("the image", "a layer", diff_id)
                layer = LayerFile(diff_id=diff_id, bytes=found.bytes, files=found.files, hides_all=found.hides_all)
                await finish(asyncio.to_thread(self._store.commit_layer, key, layer))
            except (ImageBuildError, InvalidError):
                (self._store.parts / key).unlink(missing_ok=True)  # it would only fail again
                raise
            finally:
                if self._store.layer(key) is None:
                    await finish(self._unpacker.discard(folder))
        if found.unowned and os.geteuid() == 0:
            on_line(f"{found.unowned:,} files belong to users that do not exist here; they are root's")
        return layer

    async def _empty(self) -> str:
        key = self._key("", EMPTY_DIFF_ID)
        folder = self._store.layers / key
        async with self._store.locked(key):
            if self._store.layer(key) is None:
                with room_errors():
                    folder.mkdir(mode=0o755, exist_ok=True)
                    self._store.commit_layer(key, LayerFile(diff_id=EMPTY_DIFF_ID))
        return str(folder)

    @contextmanager
    def _in_use(self, keys: Iterable[str]) -> Iterator[None]:
        held = Counter(set(keys))
        self._needed += held
        try:
            yield
        finally:
            self._needed -= held


@contextmanager
def _first_error() -> Iterator[None]:
    """Of what several layers raise, the first that says something."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, rest = group.split(JitneyError)
        chosen: BaseException | None = known or rest
        while isinstance(chosen, BaseExceptionGroup):
            chosen = chosen.exceptions[0]
        assert chosen
        raise chosen from None
