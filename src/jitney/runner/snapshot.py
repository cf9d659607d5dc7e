"""Snapshots: an instance of a class made in the template, so that every container that is forked from it has it.

The methods marked `@enter(snap=True)` run here once, after the import and before the first fork. What they leave is
then in memory for all: weights, compiled expressions, and perhaps what no two processes can share. That is what the
second half is for: a connection, a thread, a loop that such a method left is found, and said, and not forked.

Standard library only, and nothing that a template without a snapshot would have to import.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jitney.runner import forkable, process, state
from jitney.runner.failures import message_of
from jitney.runner.load import Prepared, class_of, hooks, is_async, make_instance

MARGIN = 0.05  # of the start-up timeout: the failure from here, which shows where the code is, should come first
MARGIN_S_MIN = 0.2
NAMED_MAX = 8  # things of one kind that are named

prepared: Prepared | None = None  # in a template whose snapshot has been taken, and in its forks


class Overdue(BaseException):
    """Raised into a method that takes too long. No `Exception`: code that tries again would swallow it."""


class OutOfContainer(dict[str, Any]):
    """`state.config` while the methods run: there is a container to come, and nothing of it is known."""

    def __missing__(self, key: str) -> Any:
        raise RuntimeError(
            "an @enter(snap=True) method runs before there is a container: it cannot call functions of the app "
            "(use @enter() for that)"
        )


class Surroundings(NamedTuple):
    """What a process has besides its memory."""

    descriptors: dict[int, tuple[int, int]]  # number -> (device, inode)
    children: frozenset[int]

    @classmethod
    def now(cls) -> Surroundings:
        """Those of this process."""
        return cls(dict(_descriptors()), frozenset(process.children()))


def take(module: Any, wanted: dict[str, Any], started_s: float) -> list[str]:
    """Make the instance that LOAD's "snapshot" describes; gives what it left that no fork can share, in words.

    The time that it may take counts from `started_s`.

    Raises:
        Exception: what the user's code raised; TimeoutError when it took too long.
    """
    global prepared
    before = Surroundings.now()
    state.config = OutOfContainer()
    os.environ.update({str(name): str(value) for name, value in wanted.get("env") or ()})
    os.environ["JITNEY_IS_REMOTE"] = "1"
    timeout_s = int(wanted.get("timeout_ms") or 0) / 1000
    try:
        with deadline(timeout_s, started_s):
            user_class = class_of(module, wanted)
            instance = make_instance(user_class, str(wanted.get("parameters") or ""))
            for hook in hooks(instance, snap=True):
                _run(hook)
    except Exception as error:
        _explain(error, seen=wanted.get("volumes") or (), missing=wanted.get("missing") or ())
        raise
    finally:
        state.config = None
    process.flush_output()
    prepared = Prepared(user_class, instance)
    return left_behind(before)


def _explain(error: Exception, *, seen: Iterable[str], missing: Iterable[str]) -> None:
    """Say so where it failed for want of a mount that only containers have, or for writing to one that it reads."""
    text = message_of(error)
    missed = next((path for path in missing if path in text), "")
    if missed:
        error.add_note(
            f"What is at {missed} is mounted in containers, and an @enter(snap=True) method runs before there is one: "
            "load it in an @enter() method (without snap=True), or have it in the image."
        )
    elif isinstance(error, OSError) and error.errno == errno.EROFS and any(path in text for path in seen):
        error.add_note(
            "An @enter(snap=True) method can read volumes, and not write them: what it wrote would be no container's. "
            "Write in an @enter() method (without snap=True)."
        )


def _run(hook: Any) -> None:
    if not is_async(hook):
        hook()
        return
    import asyncio

    asyncio.run(hook())  # its loop is closed at the end: a fork would share what it waits on


@contextmanager
def deadline(timeout_s: float, started_s: float) -> Iterator[None]:
    """Interrupt what runs in the block when the start has taken `timeout_s` (0: never).

    Raises:
        TimeoutError: it was interrupted; the traceback shows where.
    """
    margin_s = max(MARGIN_S_MIN, timeout_s * MARGIN)
    left_s = max(timeout_s - margin_s - (time.monotonic() - started_s), 0.001)
    if not timeout_s:
        yield
        return
    before = signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, left_s)
    try:
        yield
    except Overdue as overdue:
        message = f"the @enter(snap=True) methods did not end within the startup_timeout of {timeout_s:g} s"
        raise TimeoutError(message).with_traceback(overdue.__traceback__) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _on_alarm(_number: int, _frame: object) -> None:
    raise Overdue


# ------------------------------------------------------------------------------------------------ what is left


def left_behind(before: Surroundings) -> list[str]:
    """What there is now that was not there before and that a fork cannot share, in words."""
    now = Surroundings.now()
    found = [*forkable.obstacles(), *_open_loops()]
    fresh = [number for number, key in now.descriptors.items() if before.descriptors.get(number) != key]
    found += filter(None, map(_describe_descriptor, sorted(fresh)))
    found += [f"the process {_process_name(pid)} (pid {pid})" for pid in sorted(now.children - before.children)]
    if len(found) > NAMED_MAX:
        found[NAMED_MAX:] = [f"{len(found) - NAMED_MAX} more"]
    return found


def connections() -> list[str]:
    """Sockets of this process that others are at the other end of, in words: no copy of it could have them."""
    found = []
    for number, _ in _descriptors():
        words = _describe_descriptor(number)
        if words.startswith(("a connection to ", "a socket that listens on ")):
            found.append(words)
    return found[:NAMED_MAX]


def _descriptors() -> Iterator[tuple[int, tuple[int, int]]]:
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except (OSError, ValueError):  # that of the listing itself
            continue
        yield int(name), (status.st_dev, status.st_ino)


def _open_loops() -> list[str]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    import gc

    loops = [one for one in gc.get_objects() if issubclass(type(one), asyncio.AbstractEventLoop)]
    still_open = [loop for loop in loops if not loop.is_closed()]
    return [f"an event loop that is open ({type(loop).__module__}.{type(loop).__name__})" for loop in still_open[:1]]


def _describe_descriptor(number: int) -> str:
    """What an open descriptor is, if a fork cannot share it; else ''."""
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISSOCK(mode):
            return _describe_socket(number)
        import fcntl

        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError:
        return ""
    if stat.S_ISREG(mode) and flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND:
        return f"a file that is open for writing ({_target(number)})"  # its position, and its locks, would be shared
    return "an epoll set" if _target(number) == "anon_inode:[eventpoll]" else ""


def _target(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return f"descriptor {number}"


def _describe_socket(number: int) -> str:
    import socket

    try:
        with socket.socket(fileno=os.dup(number)) as one:
            if one.family == getattr(socket, "AF_UNIX", None):
                return f"a Unix socket ({_unix_name(one) or f'descriptor {number}'})"
            if one.type == socket.SOCK_STREAM and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"a socket that listens on {_address(one.getsockname())}"
            return f"a connection to {_address(one.getpeername())}"
    except OSError:
        return f"a socket (descriptor {number})"


def _unix_name(one: Any) -> str:
    for ask in (one.getpeername, one.getsockname):
        try:
            name = ask()
        except OSError:
            continue
        if name:
            return os.fsdecode(name) if isinstance(name, bytes) else str(name)
    return ""


def _address(address: Any) -> str:
    return ":".join(map(str, address[:2])) if isinstance(address, tuple) else str(address)


def _process_name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "that it started"
