"""System calls that Python has no name for. Each raises OSError with the call and its object in the message."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

NEWNS = 0x0002_0000
NEWCGROUP = 0x0200_0000
NEWUTS = 0x0400_0000
NEWIPC = 0x0800_0000
NEWUSER = 0x1000_0000
NEWPID = 0x2000_0000
NEWNET = 0x4000_0000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19  # what is mounted around it comes in; what is mounted in it stays there
MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
CAP_SETPCAP = 8
CAP_LAST_MAX = 63

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_MOUNT_ATTR_NOSUID = 2
_MOUNT_ATTR_NODEV = 4
_MOUNT_ATTR_NOEXEC = 8
_MOUNT_ATTR_IDMAP = 0x0010_0000
_SYS_MOVE_MOUNT = 429  # these numbers are the same on every architecture
_SYS_OPEN_TREE = 428
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_FSCONFIG_CMD_CREATE = 6
_SYS_MOUNT_SETATTR = 442
_CAPABILITY_VERSION_3 = 0x2008_0522
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    """New namespaces for this process (pid: for its children)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join namespaces: of a namespace's descriptor, or those of the process that a pidfd stands for."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2)."""
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(options))
    _check(result, f"mount {kind or 'bind'} {source or ''} on {target}")


def unmount(target: str) -> None:
    """Detach a mount, whoever still uses it."""
    _check(_libc.umount2(_bytes(target), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def unmount_unused(target: str) -> None:
    """Remove a mount that nobody uses; no link is followed."""
    _check(_libc.umount2(_bytes(target), ctypes.c_int(_UMOUNT_NOFOLLOW)), f"umount {target}")


def pivot_root(new_root: str) -> None:
    """Make a mount the root, and let go of the old one."""
    os.chdir(new_root)
    _check(_libc.pivot_root(b".", b"."), f"pivot_root {new_root}")
    unmount(".")
    os.chdir("/")


def take(source: str, *, recursive: bool = True) -> int:
    """A copy of a mount (or of a part of one) that is attached nowhere: its descriptor."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, _bytes(source), flags), f"open_tree {source}")


def take_proc() -> int:
    """A /proc of this process's pid namespace, attached nowhere."""
    context = _check(_libc.syscall(_SYS_FSOPEN, b"proc", 1), "fsopen proc")
    try:
        _check(_libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig proc")
        bits = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC
        return _check(_libc.syscall(_SYS_FSMOUNT, context, 1, bits), "fsmount proc")
    finally:
        os.close(context)


def put(tree: int, target: str) -> None:
    """Attach what was taken."""
    result = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, _bytes(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(result, f"move_mount {target}")


def map_ids(tree: int, user_namespace: int) -> None:
    """Shift the ids of a taken mount's files into a user namespace, and make it read only."""
    bits = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_IDMAP
    attributes = struct.pack("<QQQQ", bits, 0, 0, user_namespace)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
    _check(result, "mount_setattr idmap")


def set_flags(target: str, *, read_only: bool, recursive: bool) -> None:
    """nosuid (and read-only) for a mount, and for those below it."""
    bits = _MOUNT_ATTR_NOSUID | (_MOUNT_ATTR_RDONLY if read_only else 0)
    attributes = struct.pack("<QQQQ", bits, 0, 0, 0)
    how = _AT_RECURSIVE if recursive else 0
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, _bytes(target), how, attributes, len(attributes))
    _check(result, f"mount_setattr {target}")


def set_writable(target: str) -> None:
    """The mount at a path is not read-only (any more)."""
    attributes = struct.pack("<QQQQ", 0, _MOUNT_ATTR_RDONLY, 0, 0)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, _bytes(target), 0, attributes, len(attributes))
    _check(result, f"mount_setattr {target}")


def pivot_here() -> None:
    """Make the current folder, a mount that another user namespace made, the root.

    Such a mount is locked where it is, so a copy of it takes its place first.
    """
    tree = take(".")
    try:
        put(tree, ".")
        os.fchdir(tree)
    finally:
        os.close(tree)
    pivot_root(".")


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same ids may look at this process."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl dumpable")


def die_with_parent(signum: int) -> None:
    """Get a signal when the parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0), "prctl pdeathsig")


def no_new_privileges() -> None:
    """No program started from here gains anything by being started."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl no_new_privs")


def keep_capabilities(kept: tuple[int, ...]) -> None:
    """Drop every capability but these, also from the bounding set: no exec brings them back."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(CAP_LAST_MAX + 1):
        if capability not in kept and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # beyond the last one that this kernel has, or not ours to drop
    low = sum(1 << number for number in kept if number < 32)
    high = sum(1 << (number - 32) for number in kept if number >= 32)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("<IIIIII", low, low, 0, high, high, 0)
    _check(_libc.syscall(_SYS_CAPSET[os.uname().machine], header, data), "capset")


def load() -> None:
    """Make a first use of everything that is lazy here, so that a fork finds it done."""
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
