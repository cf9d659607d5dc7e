"""Landlock: a process gives up, for good, what lies outside the folders that it names. No privilege is needed.

A second wall inside the first: the root file system of a container is private already, and so are its ids. Should a
mount or a descriptor of the outside ever slip in, reading and writing it is still refused. What can be enforced depends
on the kernel; `restrict` takes what there is and says what that was. It is for the thread that calls it and all that it
starts: call it before there are others, and after the last mount, as a restricted process can mount no more.

Even `restrict(["/"], ["/"])` gives something up: to look into, trace or (where signals have a scope) signal processes
that are not restricted by the same call or one below it, such as process 1 of the container.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGE_FOLDERS = 0x1FF0  # make and remove files, folders, links, sockets, pipes, devices
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR

_ABI_REFER, _ABI_TRUNCATE, _ABI_NET, _ABI_IOCTL_DEV, _ABI_SCOPES = 2, 3, 4, 5, 6
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2


class Enforced(NamedTuple):
    """What is in force. `abi` 0: this kernel has no Landlock; 1: one that would refuse to move files between folders,
    so that nothing is in force either.
    """

    abi: int
    files: bool = False
    truncation: bool = False
    device_ioctls: bool = False
    signals: bool = False  # none to processes outside
    abstract_sockets: bool = False  # none to those of processes outside
    missing: tuple[str, ...] = ()  # folders that were named and are not there


def abi() -> int:
    """The version of Landlock that the kernel has, 0 for none."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)))


def rights(version: int) -> int:
    """Everything that a kernel with this version can refuse on files."""
    handled = _READ | _WRITE_FILE | _CHANGE_FOLDERS
    for since, right in ((_ABI_REFER, _REFER), (_ABI_TRUNCATE, _TRUNCATE), (_ABI_IOCTL_DEV, _IOCTL_DEV)):
        if version >= since:
            handled |= right
    return handled


def ruleset(version: int) -> bytes:
    """The attributes of a ruleset: rights on files, none on the network (that is the wall's), scopes."""
    scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS
    if version >= _ABI_SCOPES:
        return struct.pack("<QQQ", rights(version), 0, scoped)
    if version >= _ABI_NET:
        return struct.pack("<QQ", rights(version), 0)
    return struct.pack("<Q", rights(version))


def restrict(read: Iterable[str], write: Iterable[str]) -> Enforced:
    """Keep reading and running below `read`, and everything below `write`; give up all other files."""
    version = abi()
    if version < _ABI_REFER:
        return Enforced(version)
    attributes = ruleset(version)
    fd = _check(_libc().syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "create_ruleset")
    missing: list[str] = []
    try:
        for paths, allowed in ((read, _READ), (write, rights(version))):
            missing += [path for path in paths if not _allow(fd, path, allowed)]
        _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _check(_libc().syscall(_RESTRICT_SELF, fd, 0), "restrict_self")
    finally:
        os.close(fd)
    return Enforced(
        abi=version,
        files=True,
        truncation=version >= _ABI_TRUNCATE,
        device_ioctls=version >= _ABI_IOCTL_DEV,
        signals=version >= _ABI_SCOPES,
        abstract_sockets=version >= _ABI_SCOPES,
        missing=tuple(missing),
    )


def _allow(ruleset_fd: int, path: str, allowed: int) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            allowed &= _OF_FILES
        rule = struct.pack("<Qi", allowed, fd)
        _check(_libc().syscall(_ADD_RULE, ruleset_fd, _RULE_PATH_BENEATH, rule, 0), f"add_rule {path}")
    finally:
        os.close(fd)
    return True


_loaded: Any = None


def _libc() -> Any:
    global _loaded
    if _loaded is None:
        _loaded = ctypes.CDLL(None, use_errno=True)
        _loaded.syscall.restype = ctypes.c_long
    return _loaded


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock {what}: {os.strerror(number)}")
    return int(result)
