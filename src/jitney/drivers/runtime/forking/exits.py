"""How processes end: noticed on the event loop, and collected."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from jitney.drivers.runtime.forking import procfs
from jitney.values.containers import Exit

POLL_S = 0.05  # where the system cannot tell of the end of a process


def watch_exit(pid: int, on_exit: Callable[[], None]) -> Callable[[], None]:
    """Call `on_exit` once when a process has ended (a zombie has); gives what stops the watching."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return _poll_exit(loop, pid, on_exit)

    def stop() -> None:
        nonlocal fd
        if fd >= 0:
            loop.remove_reader(fd)
            os.close(fd)
            fd = -1

    def ended() -> None:
        stop()
        on_exit()

    loop.add_reader(fd, ended)
    return stop


def _poll_exit(loop: asyncio.AbstractEventLoop, pid: int, on_exit: Callable[[], None]) -> Callable[[], None]:
    timer: list[asyncio.Handle] = []

    def look() -> None:
        stat = procfs.stat(pid)
        if stat is not None and stat.state not in ("Z", "X"):
            timer[:] = [loop.call_later(POLL_S, look)]
        else:
            on_exit()

    timer.append(loop.call_soon(look))

    def stop() -> None:
        timer[0].cancel()

    return stop


def collect_exit(pid: int) -> Exit:
    """How a child of ours that has ended did so; neither code nor signal if somebody else has collected it."""
    found = collect(pid)
    if found is None:
        return Exit()
    status, cpu_ms, rss_kib = found
    return exit_of(status, cpu_ms, rss_kib)


def exit_of(status: int, cpu_ms: int, rss_kib: int) -> Exit:
    """A status as waitpid gives it, as a value."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Exit(signal=-code, cpu_ms=cpu_ms, max_rss_kib=rss_kib)
    return Exit(exit_code=code, cpu_ms=cpu_ms, max_rss_kib=rss_kib)


def collect(pid: int) -> tuple[int, int, int] | None:
    """(wait status, CPU in ms, largest resident size in KiB) of a child that has ended; None when it has not."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if not found:
        return None
    return status, int((usage.ru_utime + usage.ru_stime) * 1000), usage.ru_maxrss
