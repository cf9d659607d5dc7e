"""The folder of images as it stands: what is committed, what is half-made, what is in use."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from jitney.errors import ImageBuildError, StorageFullError
from jitney.values.images import ImageSpec

T = TypeVar("T", bound=msgspec.Struct)

IMAGE_FILE = "image.json"
ENVIRONMENT_FILE = "environment.json"
ROOT_FILE = "root.json"
NAMES_FILE = "names.json"
USED_FILE = "used"
ENVIRONMENT_PREFIX = "env-"
ROOT_PREFIX = "fs-"
LOCK_SUFFIX = ".lock"
ROOTS = "roots"
LEASES = "leases"
TRASH = "trash"
STEPS = "steps"
CACHE = "cache"
COLLECT_LOCK = "collect.lock"
ROOT_NAME_CHARS = 32  # of the digest, as the name of a layer's folder: 128 bits


class EnvironmentFile(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is whole. `cloudpickle_version` is '' where it has none of its own.

    `python` is the interpreter behind its links, as containers see it; `is_of_root`: it is in the root file system.
    `mounts` are folders of the host that containers need for it, beside the environment itself.
    """

    folder: str  # a name beside this file
    python_version: str
    cloudpickle_version: str = ""
    python: str = ""
    is_of_root: bool = False
    mounts: tuple[str, ...] = ()


class RootFile(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, or a base, that is whole. `layers` of a base are absolute; `folder` is a name beside this file, or ''.

    The rest is what a base says of itself.
    """

    folder: str = ""
    layers: tuple[str, ...] = ()
    title: str = ""
    env: dict[str, str] = {}
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()


class ImageFile(msgspec.Struct, frozen=True, kw_only=True):
    """An image: what it consists of (folders of the root file system, an environment), and what it says of itself."""

    environment_id: str
    env: dict[str, str] = {}
    workdir: str = ""
    layers: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    title: str = ""
    built_at_ms: int = 0
    spec: ImageSpec | None = None  # without secrets; for images that are made on top of it


class NamesFile(msgspec.Struct, frozen=True, kw_only=True):
    """What names stand for."""

    names: dict[str, str] = {}


def read(path: Path, kind: type[T]) -> T | None:
    """What a commit file says; None if it is not there or damaged (then the thing is made again)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def commit(path: Path, value: msgspec.Struct) -> None:
    """Write a commit file at once: after a power cut there is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def settle(folder: Path) -> None:
    """Have what was written below `folder` on the disk: before a commit says that it is there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "syncfs"):
            if libc.syncfs(handle) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        else:
            os.sync()
    finally:
        os.close(handle)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder while it is made. The descriptor goes to uv too, whose death may come later."""
    path = folder.with_name(folder.name + LOCK_SUFFIX)
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, waiting for it. For what takes a moment."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def try_lock(path: Path) -> int | None:
    """The descriptor of a lock file that is now ours; None while somebody else has it."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock file."""
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


def used_at_ms(path: Path) -> int:
    """When a marker was touched last; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0


def touch(path: Path, at_ms: int) -> None:
    """Set a marker to a time; one that cannot be set is left as it is."""
    with contextlib.suppress(OSError):
        if not path.exists():
            path.touch(mode=0o644)
        os.utime(path, ns=(at_ms * 1_000_000, at_ms * 1_000_000))


def measure(folder: Path) -> tuple[int, int]:
    """(bytes below a folder, those of them that removing it would free): files with other names stay."""
    total = alone = 0
    stack = [str(folder)]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    total += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        stack.append(entry.path)
                        alone += status.st_blocks * 512
                    elif status.st_nlink == 1:
                        alone += status.st_blocks * 512
        except OSError:
            continue  # it went away meanwhile, or is not ours to read
    return total, alone


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
