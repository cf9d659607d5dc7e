"""What may be removed: a decision over what is there, and its performance.

Removed is what nobody needs. An image is needed that has a name, was used lately, or is held (a lease: containers run
from it, or a build is on it). A folder (a layer, an environment) is needed by an image that stays, or is held, or was
made or found lately: builds that failed go on from it.

The decision is made while nothing new can be leased, and what goes is only moved aside then; removing takes its time
afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from jitney.drivers.builder.local import disk, leases
from jitney.drivers.builder.local.disk import EnvironmentFile, ImageFile, RootFile
from jitney.drivers.builder.local.environment import GIVEN_SUFFIX
from jitney.ports.box import Box

WORK_SUFFIX = ".work"  # beside a layer that is being made: what an overlay file system needs of its own


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image as it counts here. `needs` are folders."""

    image_id: str
    needs: frozenset[str]
    used_at_ms: int


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """A layer or an environment that is whole. `commit` is the file that says so."""

    path: str
    commit: str
    used_at_ms: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What goes."""

    images: tuple[str, ...] = ()
    folders: tuple[Folder, ...] = ()


def decide(
    images: Sequence[Image],
    folders: Sequence[Folder],
    *,
    named: Collection[str],
    held: Collection[str],
    in_use: Collection[str],
    before_ms: int,
) -> Decision:
    """What nobody needs that was not used since `before_ms`. `held` are paths, `in_use` and `named` are ids."""
    gone = tuple(
        image.image_id
        for image in images
        if image.used_at_ms < before_ms
        and image.image_id not in named
        and image.image_id not in in_use
        and image.image_id not in held
    )
    needed = {path for image in images if image.image_id not in gone for path in image.needs}
    unneeded = tuple(
        folder
        for folder in folders
        if folder.path not in needed and folder.path not in held and folder.used_at_ms < before_ms
    )
    return Decision(images=gone, folders=unneeded)


class Collector:
    """Sees what is there, and removes."""

    def __init__(self, images: Path, box: Box) -> None:
        self._images = images
        self._box = box

    # ---------------------------------------------------------------------------------------------- looking

    def image_files(self) -> Iterator[tuple[str, ImageFile]]:
        """Every image that was committed, whether it can still be found or not."""
        for path in sorted(self._images.glob(f"im-*/{disk.IMAGE_FILE}")):
            found = disk.read(path, ImageFile)
            if found:
                yield path.parent.name, found

    def names(self) -> dict[str, str]:
        """name -> image."""
        found = disk.read(self._images / disk.NAMES_FILE, disk.NamesFile)
        return found.names if found else {}

    def needs(self, image: ImageFile) -> frozenset[str]:
        """The folders that an image consists of."""
        parent = self._images / image.environment_id
        environment = disk.read(parent / disk.ENVIRONMENT_FILE, EnvironmentFile)
        own = [str(parent / environment.folder)] if environment else []
        return frozenset((*own, *image.layers))

    def used_at_ms(self, image_id: str) -> int:
        """When an image was used last."""
        folder = self._images / image_id
        return disk.used_at_ms(folder / disk.USED_FILE) or disk.used_at_ms(folder / disk.IMAGE_FILE)

    def _folders(self) -> Iterator[Folder]:
        for commit in sorted(self._images.glob(f"im-*/{disk.ENVIRONMENT_FILE}")):
            environment = disk.read(commit, EnvironmentFile)
            if environment:
                path = str(commit.parent / environment.folder)
                yield Folder(path=path, commit=str(commit), used_at_ms=disk.used_at_ms(commit))
        for commit in sorted(self._images.glob(f"{disk.ROOTS}/*/{disk.ROOT_FILE}")):
            root = disk.read(commit, RootFile)
            if root:
                # A base of folders that are elsewhere counts by the highest of them.
                path = str(commit.parent / root.folder) if root.folder else (root.layers or ("",))[-1]
                yield Folder(path=path, commit=str(commit), used_at_ms=disk.used_at_ms(commit))

    def look(self, in_use: Collection[str], before_ms: int, *, only: str = "") -> Decision:
        """What may go. With `only`: that image, and what it alone needs. Under the lock."""
        held = leases.held(self._images)  # before the images: a build commits, then lets go
        images = [
            Image(image_id=image_id, needs=self.needs(image), used_at_ms=self.used_at_ms(image_id))
            for image_id, image in self.image_files()
        ]
        folders = [*self._folders()]
        if not only:
            named = set(self.names().values())
            return decide(images, folders, named=named, held=held, in_use=in_use, before_ms=before_ms)
        mine = next((image.needs for image in images if image.image_id == only), frozenset())
        others: set[str] = set().union(*(image.needs for image in images if image.image_id != only), held)
        return Decision(
            images=(only,), folders=tuple(one for one in folders if one.path in mine and one.path not in others)
        )

    def mark_used(self, in_use: Collection[str], now_ms: int) -> None:
        """Images that are in use, or held, are used now. Under the lock."""
        kept = {*in_use, *leases.held(self._images)}
        for image_id, _ in self.image_files():
            if image_id in kept:
                disk.touch(self._images / image_id / disk.USED_FILE, now_ms)

    def is_held(self, image_id: str) -> bool:
        """Whether a living process holds an image. Under the lock."""
        return image_id in leases.held(self._images)

    # ---------------------------------------------------------------------------------------------- removing

    def set_aside(self, decision: Decision) -> list[Path]:
        """Take what goes out of sight; what is then to be removed. Under the lock."""
        aside: list[Path] = []
        trash = self._images / disk.TRASH
        trash.mkdir(exist_ok=True, mode=0o700)
        names = {name: image_id for name, image_id in self.names().items() if image_id not in decision.images}
        if names != self.names():
            disk.commit(self._images / disk.NAMES_FILE, disk.NamesFile(names=names))
        for image_id in decision.images:
            for name in (disk.IMAGE_FILE, disk.USED_FILE):
                (self._images / image_id / name).unlink(missing_ok=True)
        for folder in decision.folders:
            Path(folder.commit).unlink(missing_ok=True)
            path = Path(folder.path)
            if path.is_relative_to(self._images) and path.is_dir():
                target = trash / secrets.token_hex(8)
                with contextlib.suppress(OSError):
                    path.rename(target)
                    aside.append(target)
        return aside

    async def remove(self, paths: Iterable[Path]) -> None:
        """Remove folders that nobody sees any more, and what is empty after them."""
        for path in paths:
            await self._box.discard(str(path))
        await asyncio.to_thread(_remove_empty, self._images)

    def size(self, decision: Decision) -> int:
        """The bytes that are free when it is done."""
        paths = [Path(folder.path) for folder in decision.folders]
        return sum(disk.measure(path)[1] for path in paths if path.is_relative_to(self._images))

    def base_layers(self) -> set[str]:
        """Folders elsewhere (layers that were pulled) which something here still needs. Under the lock."""
        held = leases.held(self._images)
        needed = {layer for _, image in self.image_files() for layer in image.layers} | held
        for commit in self._images.glob(f"{disk.ROOTS}/*/{disk.ROOT_FILE}"):
            root = disk.read(commit, RootFile)
            needed.update(root.layers if root else ())
        return {path for path in needed if not Path(path).is_relative_to(self._images) and path != "/"}

    def leftovers(self) -> tuple[list[Path], list[Path]]:
        """(what no commit names, nobody makes and no process uses; what was passing). Under the lock."""
        found: list[Path] = []
        passing = [*self._images.glob(f"{disk.TRASH}/*/")]
        held = leases.held(self._images)
        kinds: Sequence[tuple[str, str, type[EnvironmentFile | RootFile]]] = (
            (f"im-*/{disk.ENVIRONMENT_PREFIX}*/", disk.ENVIRONMENT_FILE, EnvironmentFile),
            (f"{disk.ROOTS}/*/{disk.ROOT_PREFIX}*/", disk.ROOT_FILE, RootFile),
        )
        for pattern, name, kind in kinds:
            for folder in sorted(self._images.glob(pattern)):
                committed = disk.read(folder.parent / name, kind)
                if committed and committed.folder == folder.name:
                    continue
                plain = folder.with_name(folder.name.removesuffix(GIVEN_SUFFIX).removesuffix(WORK_SUFFIX))
                lock = plain.with_name(plain.name + disk.LOCK_SUFFIX)
                if disk.is_locked(lock) or str(folder) in held or (plain == folder and disk.is_used(folder)):
                    continue
                lock.unlink(missing_ok=True)
                (found if plain == folder else passing).append(folder)
        for folder in self._images.glob(f"{disk.STEPS}/*/"):
            lock = folder.with_name(folder.name + disk.LOCK_SUFFIX)
            if not disk.is_locked(lock):
                lock.unlink(missing_ok=True)
                passing.append(folder)
        return found, passing


def _remove_empty(images: Path) -> None:
    for pattern in ("im-*/", f"{disk.ROOTS}/*/"):
        for folder in images.glob(pattern):
            entries = set(os.listdir(folder))
            if entries <= {"lock"} and not disk.is_locked(folder / "lock"):
                with contextlib.suppress(OSError):
                    (folder / "lock").unlink(missing_ok=True)
                    folder.rmdir()
