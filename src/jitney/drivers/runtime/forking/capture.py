"""Reads what a process prints, from two pipes, on the event loop.

A process that prints faster than the log takes is read on, so that it is not stopped, but at no more than
READ_BYTES each DRAIN_S (some 60 MB/s): reading a gigabyte a second only to drop it would cost a CPU.
"""

from __future__ import annotations

import asyncio
import os
import time

from jitney.drivers.runtime.forking.output import OutputGate
from jitney.ports.runtime import Output
from jitney.values.containers import LogLine

READ_BYTES = 64 * 1024
DRAIN_S = 0.001
TAIL_READS_MAX = 256  # of a pipe whose other end somebody still writes to


class Capture:
    """The output of one process. Made with pipes of its own: hand `child_fds` to the process, then `begin`."""

    def __init__(self, container_id: str, output: Output) -> None:
        self.container_id = container_id
        self._output = output
        self._gates = _gates(container_id)
        self._fds: dict[int, int] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        read_out, write_out = os.pipe()
        try:
            read_err, write_err = os.pipe()
        except OSError:
            os.close(read_out)
            os.close(write_out)
            raise
        self._fds = {1: read_out, 2: read_err}
        self.child_fds = [write_out, write_err]

    def begin(self) -> None:
        """The process has its ends: close ours of them, and read."""
        self._close_child_fds()
        for which, fd in self._fds.items():
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._on_readable, which)

    def finish(self) -> None:
        """The process has ended: deliver what it wrote before, and close."""
        self._close_child_fds()
        for which in list(self._fds):
            os.set_blocking(self._fds[which], False)
            for _ in range(TAIL_READS_MAX):
                if not self._read(which):
                    break
            if which in self._fds:  # it was not closed at the other end
                self._close(which)
        self._end_text()

    def flush(self, container_id: str | None = None) -> None:
        """Deliver what has been written until now; from here on it belongs to `container_id`."""
        for which in list(self._fds):
            for _ in range(TAIL_READS_MAX):
                if not self._read(which):
                    break
        self._end_text()
        if container_id is not None and container_id != self.container_id:
            self.container_id = container_id
            self._gates = _gates(container_id)

    def _on_readable(self, which: int) -> None:
        if self._read(which) and self._gates[which].is_dropping:
            self._loop.remove_reader(self._fds[which])
            self._timers[which] = self._loop.call_later(DRAIN_S, self._resume, which)

    def _resume(self, which: int) -> None:
        self._timers.pop(which, None)
        if which in self._fds:
            self._loop.add_reader(self._fds[which], self._on_readable, which)

    def _read(self, which: int) -> bool:
        """Whether there was something."""
        fd = self._fds.get(which)
        if fd is None:
            return False
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close(which)
            return False
        gate = self._gates[which]
        self._deliver(gate, gate.feed(data, at_ms=now_ms(), now_s=time.monotonic()))
        return True

    def _deliver(self, gate: OutputGate, lines: list[LogLine]) -> None:
        if lines and not self._output(lines):
            gate.refused(lines)

    def _end_text(self) -> None:
        for gate in self._gates.values():
            self._deliver(gate, gate.finish(at_ms=now_ms()))
            self._deliver(gate, gate.finish(at_ms=now_ms()))  # a note alone, if those lines were refused

    def _close(self, which: int) -> None:
        fd = self._fds.pop(which)
        timer = self._timers.pop(which, None)
        if timer is not None:
            timer.cancel()
        self._loop.remove_reader(fd)
        os.close(fd)

    def _close_child_fds(self) -> None:
        for fd in self.child_fds:
            os.close(fd)
        self.child_fds = []


def _gates(container_id: str) -> dict[int, OutputGate]:
    return {fd: OutputGate(container_id, fd, time.monotonic()) for fd in (1, 2)}


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000
