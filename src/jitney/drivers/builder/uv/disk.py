"""The folder of images as it stands: what is committed, what is half-made, what is still used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from jitney.errors import ImageBuildError, StorageFullError

T = TypeVar("T", bound=msgspec.Struct)

IMAGE_FILE = "image.json"
ENVIRONMENT_FILE = "environment.json"
PREFIX = "env-"
LOCK_SUFFIX = ".lock"


class ImageFile(msgspec.Struct, frozen=True, kw_only=True):
    """What an image adds to an environment."""

    environment_id: str
    env: dict[str, str] = {}
    workdir: str = ""


class EnvironmentFile(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is whole. `cloudpickle_version` is '' where it has none of its own."""

    folder: str  # a name beside this file
    python_version: str
    cloudpickle_version: str = ""


def read(path: Path, kind: type[T]) -> T | None:
    """What a commit file says; None if it is not there or damaged (then the image is made again)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def commit(path: Path, value: msgspec.Struct) -> None:
    """Write a commit file at once: after a power cut there is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(value))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[int]:
    """Hold the lock of an environment while it is made. The descriptor goes to uv too, whose death may come later."""
    path = folder.with_name(folder.name + LOCK_SUFFIX)
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def room_errors() -> Iterator[None]:
    """Turns what the disk refuses into errors that a person can read."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"no room for the image: {error}", hint="free some space, and build again"
            ) from error
        raise ImageBuildError(f"the image cannot be built: {error}") from error


def remove_leftovers(images: Path) -> int:
    """Remove environments that no commit names, nobody makes and no process uses; how many there were."""
    removed = 0
    for folder in sorted(images.glob(f"im-*/{PREFIX}*/")):
        committed = read(folder.parent / ENVIRONMENT_FILE, EnvironmentFile)
        if committed and committed.folder == folder.name:
            continue
        lock = folder.with_name(folder.name + LOCK_SUFFIX)
        if _is_locked(lock) or is_used(folder):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        removed += 1
    return removed


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def is_used(folder: Path) -> bool:
    """Whether a process was started from this environment, or has a library of it loaded.

    Where the system does not tell (no /proc), a whole environment counts as used: a container may have it.
    """
    needle = os.fsencode(folder) + b"/"
    processes = Path("/proc")
    if not (processes / "self" / "maps").exists():
        return (folder / "pyvenv.cfg").exists()
    for process in processes.iterdir():
        if not process.name.isdigit():
            continue
        for name in ("cmdline", "maps"):
            try:
                if needle in (process / name).read_bytes():
                    return True
            except OSError:
                continue  # it has ended, or is another user's
    return False
