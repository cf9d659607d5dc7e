"""One command: its lines as they come, its last ones kept, and no process left when it is over."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from io import RawIOBase
from pathlib import Path

LAST_LINES = 20  # that are kept for an error
LINE_CHARS_MAX = 2_000  # a longer line is cut: it is a progress bar, or base64
READ_BYTES = 64 * 1024
EOF_GRACE_S = 0.5  # for a process in the background that holds the pipe open after the command has ended


class Lines:
    """Bytes in, whole lines out; the last ones are in `last`."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._on_line = on_line
        self._rest = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> None:
        """More output."""
        text = self._rest + self._decode(data).replace("\r", "\n")
        *whole, self._rest = text.split("\n")
        if len(self._rest) > LINE_CHARS_MAX:
            whole.append(self._rest)
            self._rest = ""
        for line in whole:
            self._take(line)

    def end(self) -> None:
        """No more output: what has no newline is a line too."""
        self._take(self._rest)
        self._rest = ""

    def _take(self, line: str) -> None:
        line = line.rstrip()
        if line:
            line = line if len(line) <= LINE_CHARS_MAX else line[: LINE_CHARS_MAX - 1] + "…"
            self.last.append(line)
            self._on_line(line)


async def run(
    argv: Sequence[str],
    *,
    cwd: Path | str,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    keep_fds: Sequence[int] = (),
) -> tuple[int, list[str]]:
    """The exit code (negative: a signal) and the last lines. Cancelled, it ends the whole tree before it is over."""
    lines = Lines(on_line)
    # A pipe of our own: asyncio's `wait` would wait for its end too, which a process in the background can hold up.
    output, given = os.pipe()
    pipe = os.fdopen(output, "rb", buffering=0)
    reader = asyncio.create_task(_pump(pipe, lines))
    try:
        process = await _start(argv, cwd, env, given, keep_fds)
    except BaseException:
        await _stop(reader, pipe)
        raise
    finally:
        os.close(given)
    try:
        code = await process.wait()
        await asyncio.wait({reader}, timeout=EOF_GRACE_S)
    finally:
        # As long as the reader has not seen the end, something of the group lives.
        if process.returncode is None or not reader.done():
            _end_group(process.pid)
        await _stop(reader, pipe)
        if process.returncode is None:
            await process.wait()
    lines.end()
    return code, list(lines.last)


async def kill(process: Process) -> None:
    """End one process, which may have ended; it is collected."""
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            pass
    await process.wait()


async def _start(
    argv: Sequence[str], cwd: Path | str, env: Mapping[str, str], output: int, keep_fds: Sequence[int]
) -> Process:
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of its own, so that the tree can be ended as one
            pass_fds=tuple(keep_fds),
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may run already, with children: cancelled itself, asyncio would end the first process alone.
        await asyncio.wait({starting})
        if starting.exception() is None:
            process = starting.result()
            _end_group(process.pid)
            await process.wait()
        raise


async def _pump(pipe: RawIOBase, lines: Lines) -> None:
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe
    )
    try:
        while data := await stream.read(READ_BYTES):
            lines.feed(data)
    finally:
        transport.close()


async def _stop(reader: asyncio.Task[None], pipe: RawIOBase) -> None:
    reader.cancel()
    await asyncio.wait({reader})
    pipe.close()  # also where the reader never came to run


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
