"""`ports.trees.Trees` in a folder: one per volume, with a folder for each layer and a file that says which are stacked.

A layer is made under a name of its own, and renamed when it is whole; then the stack file is replaced. The lowest layer
is empty: overlay mounts want two, and a volume without a version is a folder without files.

Nothing of it is synced, as it can be laid out again. After a machine was started anew it is: what of it was on the disk
when the power went, nobody knows.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from jitney.drivers.disk import boot_id
from jitney.drivers.trees.localdir.layer import Builder, open_below, read_changes
from jitney.errors import StorageError, StorageFullError
from jitney.ports.trees import Changes, Stamp
from jitney.values import ids
from jitney.values.volumes import Entry

EMPTY = "0"
PARTIAL = ".partial-"
STACK = "stack.json"
BOOT = ".boot"  # since which start of the machine this has been laid out


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of a stack, and the version that the stack has with it on top."""

    name: str
    version: int


class LocalTrees:
    """See the module.

    Args:
        root: the folder of all volumes.
        content: where the file of a digest is.
        owner: the user id that owns what containers see; None: whoever makes it.
        boot: names the time since the machine was started.
    """

    def __init__(
        self,
        root: Path,
        content: Callable[[str], Path],
        *,
        owner: int | None = None,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._root = root
        self._boot = boot
        self._content = content
        self._owner = owner
        self._stacks: dict[str, list[Layer]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def laid_out(self, volume_id: str) -> int:
        """See the port."""
        return self._stack(volume_id)[-1].version

    def layers(self, volume_id: str, version: int) -> tuple[str, ...]:
        """See the port."""
        stack = self._stack(volume_id)
        for count, layer in enumerate(stack, 1):
            if layer.version == version:
                return tuple(one.name for one in stack[:count])
        alone = _alone(version)
        return (EMPTY, alone) if (self.folder(volume_id) / alone).is_dir() else ()

    def folder(self, volume_id: str) -> Path:
        """See the port."""
        folder = self._root / ids.check(volume_id, ids.VOLUME)
        if not (folder / EMPTY).is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            folder.chmod(0o711)  # layers are for containers, which are other users; what is here is not listed to them
            Builder(folder / EMPTY, self._content, self._owner).fill((), ())
        return folder

    async def extend(self, volume_id: str, version: int, puts: Sequence[Entry], removes: Sequence[str]) -> None:
        """See the port."""
        async with self._lock(volume_id):
            stack = self._stack(volume_id)
            if version > stack[-1].version:
                layer = Layer(name=f"{version}-{secrets.token_hex(3)}", version=version)
                await self._make(volume_id, layer.name, puts, removes)
                await asyncio.to_thread(self._save, volume_id, [*stack, layer])

    async def restack(self, volume_id: str, version: int, entries: Sequence[Entry]) -> None:
        """See the port."""
        async with self._lock(volume_id):
            bottom = self._stack(volume_id)[0]
            layer = Layer(name=f"{version}-{secrets.token_hex(3)}", version=version)
            await self._make(volume_id, layer.name, entries, ())
            await asyncio.to_thread(self._save, volume_id, [bottom, layer])

    async def lay_out(self, volume_id: str, version: int, entries: Sequence[Entry]) -> None:
        """See the port."""
        async with self._lock(volume_id):
            if not self.layers(volume_id, version):
                await self._make(volume_id, _alone(version), entries, ())

    async def changes(self, upper: Path, known: Mapping[str, Stamp]) -> Changes:
        """See the port."""
        return await asyncio.to_thread(read_changes, upper, known)

    def open(self, upper: Path, path: str) -> int:
        """See the port."""
        return open_below(upper, path)

    async def collect(self, volume_id: str, in_use: Collection[str]) -> int:
        """See the port."""
        async with self._lock(volume_id):
            kept = {STACK, EMPTY, *in_use, *(layer.name for layer in self._stack(volume_id))}
            return await asyncio.to_thread(_remove_others, self.folder(volume_id), kept)

    async def reap(self) -> int:
        """See the port."""
        return await asyncio.to_thread(self._reap)

    async def remove(self, volume_id: str) -> None:
        """See the port."""
        async with self._lock(volume_id):
            self._stacks.pop(volume_id, None)
            await asyncio.to_thread(shutil.rmtree, self._root / ids.check(volume_id, ids.VOLUME), True)

    # -------------------------------------------------------------------------------------------- on the disk

    def _lock(self, volume_id: str) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    def _stack(self, volume_id: str) -> list[Layer]:
        found = self._stacks.get(volume_id)
        if found is None:
            found = self._stacks[volume_id] = self._load(volume_id)
        return found

    def _load(self, volume_id: str) -> list[Layer]:
        folder = self.folder(volume_id)
        bottom = Layer(name=EMPTY, version=0)
        try:
            layers = msgspec.json.decode((folder / STACK).read_bytes(), type=list[Layer])
        except (OSError, msgspec.MsgspecError):
            return [bottom]
        return layers if layers and all((folder / one.name).is_dir() for one in layers) else [bottom]

    def _save(self, volume_id: str, stack: list[Layer]) -> None:
        path = self.folder(volume_id) / STACK
        partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}")
        partial.write_bytes(msgspec.json.encode(stack))
        os.replace(partial, path)
        self._stacks[volume_id] = stack

    async def _make(self, volume_id: str, name: str, puts: Sequence[Entry], removes: Sequence[str]) -> None:
        folder = self.folder(volume_id)
        partial = folder / f"{PARTIAL}{secrets.token_hex(4)}"
        try:
            await asyncio.to_thread(Builder(partial, self._content, self._owner).fill, puts, removes)
            os.rename(partial, folder / name)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageFullError(f"no room to lay out version {name} of {volume_id}") from error
                raise StorageError(f"a layer of {volume_id} cannot be made: {error}") from error
            raise

    def _reap(self) -> int:
        count = self._forget_before_boot()
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            for path in folder.glob(f"{PARTIAL}*"):
                count += 1
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        return count

    def _forget_before_boot(self) -> int:
        """Remove what was laid out before the machine was started last: how many volumes."""
        mark, boot = self._root / BOOT, self._boot()
        if _read(mark) == boot:
            return 0
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        old = [path for path in self._root.iterdir() if path.is_dir()]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        self._stacks.clear()
        mark.write_text(boot)
        return len(old)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _alone(version: int) -> str:
    return f"at-{version}"


def _remove_others(folder: Path, kept: Collection[str]) -> int:
    others = [path for path in folder.iterdir() if path.name not in kept and not path.name.startswith(PARTIAL)]
    for path in others:
        shutil.rmtree(path, ignore_errors=True)
    return len(others)
