"""One switch of the kernel that makes entering a group fast on a busy machine: `favordynmods`.

A process that enters a group takes a lock that every fork and every exit takes as well. By default that lock favours
those, and makes the one who enters wait for a grace period: 7 to 14 ms under load. A hierarchy that is mounted with
`favordynmods` turns it around: some 0.2 ms. The kernel keeps it for as long as the hierarchy is there, newer ones until
they are booted again.

So we mount one of no controllers, with a name of its own, and nowhere: the mount is a descriptor, which ends with us.
"""

from __future__ import annotations

import ctypes
import os
import sys

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # on every architecture
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6


def favor_entering(name: str) -> int:
    """A descriptor that keeps the switch on; -1 where it cannot be had (not root, no version 1, an old kernel)."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return -1
    try:
        context = _call(_FSOPEN, b"cgroup", _FSOPEN_CLOEXEC)
    except OSError:
        return -1
    try:
        _call(_FSCONFIG, context, _SET_FLAG, b"none", None, 0)
        _call(_FSCONFIG, context, _SET_FLAG, b"favordynmods", None, 0)
        _call(_FSCONFIG, context, _SET_STRING, b"name", name.encode(), 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    except OSError:
        return -1
    finally:
        os.close(context)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
