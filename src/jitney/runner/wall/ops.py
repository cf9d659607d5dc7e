"""Performs the operations of a wall, one by one. There are no decisions here: those are where the lists are made.

An operation is a list: its name, then its arguments (JSON). Paths are absolute, of the root that is in force then.

    ["folder", path, mode]                      made with its parents; one that is there stays
    ["file", path]                              an empty one to bind on
    ["write", path, text]                       a small file with this content
    ["symlink", text, path]
    ["bind", source, target, read_only]         with the mounts below; a target that is missing is made like its source
    ["bind_mapped", source, target]             without the mounts below, read only, ids shifted into the user namespace
    ["take", name, source]                      a copy of a mount, kept aside under a name
    ["take_part", name, source, path, read_only]    ... of a folder of one, made where it may be; a link is none
    ["take_proc", name]                         a /proc of this pid namespace, the same
    ["put", name, target, read_only]            what was taken, at a target that is there
    ["put_made", name, target, read_only]       the same, at a target that is made if it is not there
    ["cover", path, text]                       a file reads so, and is not changed by it (needs /dev to be memory)
    ["overlay", target, [lowest, ...], upper, work, read_only]     upper "" = none
    ["overlay_folder", target, [...], upper, work, read_only]      the same; what is no folder is left out of the lowest
    ["tmpfs", target, options]                  such as "size=64m,mode=1777"
    ["mqueue", target]  ["devpts", target]
    ["mask", path]                              a file reads empty, a folder is empty; what is not there is skipped
    ["read_only", path]                         a mount on itself that is read only; what is not there is skipped
    ["hostname", name]
    ["loopback"]                                the loopback interface is up
    ["pivot", path]                             the new root; the old one is gone
    ["pivot_here"]                              the same for the current folder

An image is hostile: its /proc may be a symbolic link to anywhere. So what is mounted into a root from outside is taken
before the pivot and put after it, when no path leads out of the root any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Any

from jitney.runner.wall import kernel

Op = Sequence[Any]

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_NOEXEC = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def perform(ops: Sequence[Op], *, user_namespace: int = -1) -> None:
    """Do them in order. The first that fails raises, with its name in the message."""
    taken: dict[str, int] = {}
    try:
        for name, *arguments in ops:
            try:
                if name == "take":
                    taken[arguments[0]] = kernel.take(arguments[1])
                elif name == "take_part":
                    taken[arguments[0]] = kernel.take(part(*arguments[1:]), recursive=False)
                elif name == "take_proc":
                    taken[arguments[0]] = kernel.take_proc()
                elif name == "put":
                    _put(taken[arguments[0]], arguments[1], arguments[2])
                elif name == "put_made":
                    _make_like(taken[arguments[0]], arguments[1])
                    _put(taken[arguments[0]], arguments[1], arguments[2])
                elif name == "bind_mapped":
                    _bind_mapped(arguments[0], arguments[1], user_namespace)
                else:
                    _PERFORMERS[name](*arguments)
            except OSError as error:
                raise OSError(error.errno, f"{name} {' '.join(map(str, arguments))}: {error}") from error
    finally:
        for tree in taken.values():
            os.close(tree)


def part(top: str, path: str, read_only: bool) -> str:
    """A folder of what was mounted. Links are hostile: they would lead to what the caller sees."""
    found = top
    for name in filter(None, path.split("/")):
        found = f"{found}/{name}"
        if not os.path.lexists(found) and not read_only:
            os.mkdir(found, 0o755)
        if not os.path.lexists(found) or not stat.S_ISDIR(os.lstat(found).st_mode):
            raise OSError(errno.ENOENT, f"the volume has no folder {path!r}")
    return found


def _put(tree: int, target: str, read_only: bool) -> None:
    kernel.put(tree, target)
    kernel.set_flags(target, read_only=read_only, recursive=True)


def _make_like(tree: int, target: str) -> None:
    if not os.path.exists(target):
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            _folder(target)
        else:
            _file(target)


def _cover(path: str, text: str) -> None:
    target = os.path.realpath(path)  # the root is ours: no link leads out of it
    if not os.path.exists(target):
        _file(target)
    own = f"/dev/.{os.path.basename(path)}"
    _write(own, text)
    kernel.mount(own, target, None, kernel.MS_BIND)


def _bind_mapped(source: str, target: str, user_namespace: int) -> None:
    _folder(target)
    tree = kernel.take(source, recursive=False)
    try:
        kernel.map_ids(tree, user_namespace)
        kernel.put(tree, target)
    finally:
        os.close(tree)


def _folder(path: str, mode: int = 0o755) -> None:
    if not os.path.isdir(path):
        _folder(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, mode)


def _file(path: str) -> None:
    _folder(os.path.dirname(path))
    if not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def _write(path: str, text: str) -> None:
    _folder(os.path.dirname(path))
    if os.path.islink(path):
        os.unlink(path)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _symlink(text: str, path: str) -> None:
    if not os.path.lexists(path):
        os.symlink(text, path)


def _bind(source: str, target: str, read_only: bool) -> None:
    if not os.path.lexists(target):
        if stat.S_ISDIR(os.stat(source).st_mode):
            _folder(target)
        else:
            _file(target)
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.set_flags(target, read_only=read_only, recursive=True)


def _overlay(target: str, lowers: Sequence[str], upper: str, work: str, read_only: bool) -> None:
    options = "lowerdir=" + ":".join(reversed(lowers))
    if upper:
        options += f",upperdir={upper},workdir={work}"
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | (kernel.MS_RDONLY if read_only else 0)
    kernel.mount("overlay", target, "overlay", flags, options + ",userxattr")


def _overlay_folder(target: str, lowers: Sequence[str], upper: str, work: str, read_only: bool) -> None:
    """Over one folder, which some layers may lack. A link in its place would be followed, to somewhere else."""
    _overlay(target, [lower for lower in lowers if _is_folder(lower)], upper, work, read_only)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _tmpfs(target: str, options: str) -> None:
    kernel.mount("tmpfs", target, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def _mqueue(target: str) -> None:
    kernel.mount("mqueue", target, "mqueue", _NOEXEC)


def _devpts(target: str) -> None:
    options = "newinstance,ptmxmode=0666,mode=620"
    kernel.mount("devpts", target, "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)


def _mask(path: str) -> None:
    if os.path.isdir(path):
        kernel.mount("tmpfs", path, "tmpfs", _NOEXEC | kernel.MS_RDONLY, "size=4k,mode=555")
    elif os.path.exists(path):
        kernel.mount("/dev/null", path, None, kernel.MS_BIND)


def _read_only(path: str) -> None:
    if os.path.exists(path):
        kernel.mount(path, path, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.set_flags(path, read_only=True, recursive=True)


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


_PERFORMERS: dict[str, Callable[..., None]] = {
    "folder": _folder,
    "file": _file,
    "write": _write,
    "cover": _cover,
    "symlink": _symlink,
    "bind": _bind,
    "overlay": _overlay,
    "overlay_folder": _overlay_folder,
    "tmpfs": _tmpfs,
    "mqueue": _mqueue,
    "devpts": _devpts,
    "mask": _mask,
    "read_only": _read_only,
    "hostname": socket.sethostname,
    "loopback": _loopback,
    "pivot": kernel.pivot_root,
    "pivot_here": kernel.pivot_here,
}
