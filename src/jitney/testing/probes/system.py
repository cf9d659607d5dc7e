"""How probes ask the kernel, and what its answers mean."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable, Iterable
from typing import Any

from jitney.runner.wall.syscalls_table import MACHINES, number
from jitney.testing.probes.probe import Outcome, allowed, denied, skipped

MACHINE = platform.machine()
MS_BIND, MS_REC, MS_PRIVATE, MS_REMOUNT = 4096, 16384, 1 << 18, 32
NEWNS, NEWUSER = 0x0002_0000, 0x1000_0000
MNT_DETACH = 2
AT_FDCWD = -100
_NULL = os.makedev(1, 3)

# Answers that mean "not you", "not here" or "no such thing".
REFUSALS = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.ENOSYS,
        errno.EROFS,
        errno.ENODEV,
        errno.ENXIO,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
        errno.EOPNOTSUPP,
    }
)

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def libc() -> Any:
    """The C library, with errors kept."""
    return _libc


def name_of(code: int) -> str:
    """EPERM of 1."""
    return errno.errorcode.get(code, str(code))


def system_call(name: str, *arguments: Any) -> int:
    """The result of a call by its number; OSError if it fails."""
    if MACHINE not in MACHINES or number(name, MACHINE) < 0:
        raise OSError(errno.ENOSYS, f"{MACHINE} has no {name}")
    converted = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc.syscall(ctypes.c_long(number(name, MACHINE)), *converted))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def judge(code: int, what: str, reached: Iterable[int] = ()) -> Outcome:
    """What an error means. `reached`: those that come after the question whether this process may."""
    if code in reached:
        return allowed(f"{what}: allowed to ask ({name_of(code)})")
    if code in REFUSALS:
        return denied(f"{what}: {name_of(code)}")
    return skipped(f"{what}: {name_of(code)} says nothing")


def attempt(name: str, *arguments: Any, reached: Iterable[int] = ()) -> Outcome:
    """Make a system call: allowed if it succeeds, or fails for a reason that comes after permission."""
    try:
        system_call(name, *arguments)
    except OSError as error:
        return judge(error.errno or 0, name, reached)
    return allowed(name)


def attempt_all(attempts: Iterable[tuple[str, Callable[[], object]]], reached: Iterable[int] = ()) -> Outcome:
    """Several ways to one thing: allowed if any works."""
    seen = []
    for what, action in attempts:
        try:
            action()
        except OSError as error:
            seen.append(judge(error.errno or 0, what, reached))
        else:
            return allowed(what)
    for outcome in (
        *(one for one in seen if one.verdict == "allowed"),
        *(one for one in seen if one.verdict == "skipped"),
    ):
        return outcome
    return denied("; ".join(one.detail for one in seen)[:300])


def opens(paths: Iterable[str], flags: int) -> Outcome:
    """Allowed if one of the files can be opened so. Nothing is read or written; a missing one is a refused one, and so
    is one that a mask of /dev/null hides.
    """
    seen = []
    for path in paths:
        try:
            fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            seen.append(f"{path}: {name_of(error.errno or 0)}")
            continue
        is_mask = os.fstat(fd).st_rdev == _NULL
        os.close(fd)
        if not is_mask:
            return allowed(f"opened {path}")
        seen.append(f"{path}: masked")
    return denied("; ".join(seen)[:300])


def aside() -> bool:
    """Go into a mount namespace of one's own, if one gets one: what is mounted then troubles nobody."""
    if _libc.unshare(NEWNS) < 0:
        return False
    _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
    return True


def status(pid: int | str = "self") -> dict[str, str]:
    """The fields of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
