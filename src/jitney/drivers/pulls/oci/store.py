"""Images and layers as they lie on the disk.

    layers/<key>/        a layer, unpacked
    layers/<key>.json    ... which is whole: written last, by renaming
    images/<key>.json    an image: what it says of itself, and its layers
    parts/<key>          a download that goes on where it ended
    locks/<key>          held (flock) by whoever makes the layer, in any process, and by its unpacking child

A key is a digest of what the thing is, of who may have it (`scope`), and of whom its files belong to.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from jitney.errors import ImageBuildError, StorageFullError
from jitney.ports.pulls import PulledImage

T = TypeVar("T", bound=msgspec.Struct)

KEY_BYTES = 16
LOOK_S = 0.02  # how often to look whether a lock is free: first, and at most
LOOK_MAX_S = 0.5
PART_KEEP_S = 7 * 86_400  # a download that nobody goes on with
READ_BYTES = 1 << 20


class LayerFile(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that is whole."""

    diff_id: str
    bytes: int = 0
    files: int = 0
    hides_all: bool = False  # what is below it


class Part:
    """A download: appended to, and hashed on the way. A `registry.Sink`."""

    def __init__(self, path: Path, kind: str) -> None:
        self._kind = kind
        self._hash = hashlib.new(kind)
        self.path = path
        self.size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self.resumed = False

    def catch_up(self) -> None:
        """Read what an earlier run has left."""
        while chunk := os.read(self._file, READ_BYTES):
            self._hash.update(chunk)
            self.size += len(chunk)
        self.resumed = self.size > 0

    @property
    def digest(self) -> str:
        """Of what is there."""
        return f"{self._kind}:{self._hash.hexdigest()}"

    def append(self, chunk: bytes) -> None:
        """See registry.Sink."""
        left = memoryview(chunk)
        while left:
            left = left[os.write(self._file, left) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """See registry.Sink."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.new(self._kind)
        self.size = 0
        self.resumed = False

    def close(self) -> None:
        """Leave it as it is."""
        os.close(self._file)


class Store:
    """The folder.

    Args:
        root: made if it is not there.
        owners: whom files of layers belong to: layers with other owners are other layers.
    """

    def __init__(self, root: Path, owners: str) -> None:
        self._owners = owners
        self.layers, self.images = root / "layers", root / "images"
        self.parts, self.locks = root / "parts", root / "locks"
        self._root = root

    def open(self) -> None:
        """Make what is not there."""
        with room_errors():
            for folder in (self.images, self.parts, self.locks):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Whoever mounts layers may be a user who is nobody here: may go through, but not look around.
            self.layers.mkdir(exist_ok=True)
            for folder in (self._root, self.layers):
                folder.chmod(0o711)

    def key(self, scope: str, *parts: str) -> str:
        """26 letters that stand for a thing."""
        digest = hashlib.sha256(msgspec.json.encode([self._owners, scope, *parts])).digest()
        return base64.b32encode(digest[:KEY_BYTES]).decode().rstrip("=").lower()

    def layer(self, key: str) -> LayerFile | None:
        """The layer, if it is whole."""
        return _read(self.layers / f"{key}.json", LayerFile)

    def commit_layer(self, key: str, layer: LayerFile) -> None:
        """From here on it is whole. What is in it is on the disk first."""
        folder = os.open(self.layers, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _sync_file_system(folder)
            _write(self.layers / f"{key}.json", layer)
            os.fsync(folder)
        finally:
            os.close(folder)

    def touch(self, key: str) -> None:
        """Say that a layer is in use now."""
        with contextlib.suppress(OSError):
            os.utime(self.layers / f"{key}.json")

    def image(self, key: str) -> PulledImage | None:
        """The image, if it and its layers are whole."""
        found = _read(self.images / f"{key}.json", PulledImage)
        if found is None or not found.layers or not all(self._is_ours(layer) for layer in found.layers):
            return None
        return found

    def commit_image(self, key: str, image: PulledImage) -> None:
        """Remember it."""
        _write(self.images / f"{key}.json", image)

    def _is_ours(self, layer: str) -> bool:
        return os.path.dirname(layer) == str(self.layers) and os.path.exists(f"{layer}.json") and os.path.isdir(layer)

    @contextlib.asynccontextmanager
    async def locked(self, key: str, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[int]:
        """Hold a key, against everybody: a descriptor, to be handed to whoever must hold it too."""
        path = self.locks / key
        pause = LOOK_S
        handle = _try_lock(path)
        if handle is None:
            on_wait()
        while handle is None:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LOOK_MAX_S)
            handle = _try_lock(path)
        try:
            yield handle
        finally:
            os.close(handle)

    # ---------------------------------------------------------------------------------------------- what goes

    def unused(self, keep: Collection[str], *, older_than_s: float) -> Iterator[tuple[str, int]]:
        """Layers that may go, locked while the consumer removes them: (key, bytes)."""
        kept = {os.path.basename(path) for path in keep if os.path.dirname(path) == str(self.layers)}
        for path in sorted(self.layers.glob("*.json")):
            key = path.stem
            if key in kept or key.startswith("."):
                continue
            handle = _try_lock(self.locks / key)
            if handle is None:
                continue
            try:
                layer = self.layer(key)
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime <= older_than_s:
                        path.unlink()
                        yield key, layer.bytes if layer else 0
                        (self.locks / key).unlink(missing_ok=True)
            finally:
                os.close(handle)

    def forget_images(self) -> None:
        """Drop images that have lost a layer."""
        for path in self.images.glob("*.json"):
            if self.image(path.stem) is None:
                path.unlink(missing_ok=True)

    def leftovers(self) -> Iterator[Path]:
        """Folders of layers that nobody makes and that are not whole, locked while the consumer removes them."""
        for folder in sorted(self.layers.glob("*/")):
            if (self.layers / f"{folder.name}.json").exists():
                continue
            handle = _try_lock(self.locks / folder.name)
            if handle is None:
                continue
            try:
                if not (self.layers / f"{folder.name}.json").exists():
                    yield folder
                    (self.locks / folder.name).unlink(missing_ok=True)
            finally:
                os.close(handle)

    def remove_old_parts(self, now_s: float) -> int:
        """Downloads that nobody goes on with, and files that were being written."""
        removed = 0
        for path in self.parts.iterdir():
            handle = _try_lock(self.locks / path.name)
            if handle is None:
                continue
            try:
                if path.stat().st_mtime < now_s - PART_KEEP_S or path.name.startswith("."):
                    path.unlink()
                    removed += 1
            except OSError:
                pass
            finally:
                os.close(handle)
        return removed


def now_s() -> float:
    """For comparing with times of files."""
    return time.time()


@contextlib.contextmanager
def room_errors() -> Iterator[None]:
    """Turns what the disk refuses into errors that a person can read."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("no room for the image", hint="free some space, and try again") from error
        raise ImageBuildError(f"the image cannot be stored: {error}", hint="check the disk of the worker") from error


def remove_tree(folder: Path) -> None:
    """Remove a folder that we own, whatever modes are in it. Links are removed, not followed."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fchmod(handle, 0o700)
        _empty(handle)
    finally:
        os.close(handle)
    folder.rmdir()


def _empty(folder: int) -> None:
    for name in os.listdir(folder):
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
            continue
        os.chmod(name, 0o700, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            _empty(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)


def _try_lock(path: Path) -> int | None:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removed what it stands for removed the file too: then it is not the lock any more.
        if os.fstat(handle).st_ino == os.stat(path).st_ino:
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _sync_file_system(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "syncfs"):
        if libc.syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    else:
        os.sync()


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(path: Path, value: msgspec.Struct) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
