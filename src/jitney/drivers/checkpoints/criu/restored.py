"""A process that CRIU has made, as the child of `attend` in a process namespace of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jitney.values.containers import Exit

READ_BYTES = 4096


class CriuRestored:
    """See `ports.checkpoints.Restored`. Takes the descriptor that `attend` tells on, and collects the process."""

    def __init__(self, process: subprocess.Popen[bytes], told: int) -> None:
        self.pid = 0
        self._process = process
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._text = b""
        self._made: asyncio.Future[int] = self._loop.create_future()
        self._ended: asyncio.Future[Exit] = self._loop.create_future()
        os.set_blocking(told, False)
        self._loop.add_reader(told, self._read)
        self._watched = os.pidfd_open(process.pid)
        self._loop.add_reader(self._watched, self._collect)

    async def made(self) -> int:
        """The exit code of criu; -1 where nobody tells."""
        return await asyncio.shield(self._made)

    def watch(self, on_ended: Callable[[Exit], None]) -> None:
        """See the port."""
        self._ended.add_done_callback(lambda ended: on_ended(ended.result()))

    def kill(self) -> None:
        """See the port."""
        if self._ended.done():
            return
        try:  # process 1 of the namespace: the kernel ends all that is inside before it lets that one go
            os.kill(only_child(self._process.pid) or self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is just being collected

    def attendants(self) -> tuple[int, ...]:
        """See the port."""
        return (self._process.pid,)

    async def give_up(self) -> None:
        """End it; until nothing is left."""
        self.kill()
        await asyncio.shield(self._ended)

    def _read(self) -> None:
        try:
            data = os.read(self._told, READ_BYTES)
        except BlockingIOError:
            return
        self._text += data
        if not data:
            self._loop.remove_reader(self._told)
        if not self._made.done() and (b"\n" in self._text or not data):
            self._made.set_result(int(_find(self._text, "restored").get("restored", -1)))

    def _collect(self) -> None:
        """`unshare` has ended, after process 1 of the namespace, and that after all others of it."""
        self._loop.remove_reader(self._watched)
        os.close(self._watched)
        self._process.wait()
        self._read()
        self._loop.remove_reader(self._told)
        os.close(self._told)
        if not self._made.done():
            self._made.set_result(-1)
        told = _find(self._text, "status")
        if not told:
            self._ended.set_result(Exit(signal=signal.SIGKILL))
            return
        code = os.waitstatus_to_exitcode(told["status"])
        self._ended.set_result(
            Exit(
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                cpu_ms=told["cpu_ms"],
                max_rss_kib=told["rss_kib"],
            )
        )


def only_child(pid: int) -> int:
    """The one child of a process with one thread; 0 where there is none."""
    try:
        return int((Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"])[0]) if pid else 0
    except OSError:
        return 0


def _find(text: bytes, key: str) -> dict[str, Any]:
    for line in text.splitlines():
        told = json.loads(line)
        if key in told:
            return dict(told)
    return {}
