"""The programs that carry packets: how each is started, watched and ended."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from pathlib import Path
from typing import Protocol

from jitney.drivers.command import kill
from jitney.drivers.network.usermode import render
from jitney.values.network import HubPlan

READY_WITHIN_S = 10.0
WORDS_MAX = 400


class ProgramFailed(Exception):
    """It did not start: the message says what it said."""


class Carrier(Protocol):
    """One running program."""

    async def end(self) -> None:
        """It ends, and is waited for."""
        ...


class Slirp:
    """slirp4netns as our child. It ends with us: it holds the read end of a pipe that nobody writes to."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self._process = process
        self._lifeline = lifeline

    @classmethod
    async def start(cls, path: str, pid: int, plan: HubPlan) -> Slirp:
        """Start it, and wait until the interface is there.

        Raises:
            ProgramFailed: it is not.
        """
        ready, tell_ready = os.pipe()
        ended, lifeline = os.pipe()
        try:
            try:
                process = await asyncio.create_subprocess_exec(
                    *render.slirp_argv(path, pid, plan, tell_ready, ended),
                    pass_fds=(tell_ready, ended),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                )
            finally:
                os.close(tell_ready)
                os.close(ended)
            running = cls(process, lifeline)
        except BaseException as error:
            os.close(ready)
            os.close(lifeline)
            if isinstance(error, OSError):
                raise ProgramFailed(str(error)) from error
            raise
        try:
            words = await _first_bytes(ready)
        except BaseException:
            await running.end()
            raise
        finally:
            os.close(ready)
        if not words:
            said = await process.stderr.read(WORDS_MAX) if process.stderr else b""
            await running.end()
            raise ProgramFailed(_last_line(said))
        running._forget_output()
        return running

    def _forget_output(self) -> None:
        """What it says from now on is read and dropped: a full pipe would stop it."""

        async def drain(reader: asyncio.StreamReader) -> None:
            while await reader.read(4096):
                pass

        if self._process.stderr is not None:
            self._draining = asyncio.create_task(drain(self._process.stderr))

    async def end(self) -> None:
        """Its pipe is closed; it is killed as well, should it not listen."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        await kill(self._process)


class Pasta:
    """pasta in the background, known by the file with its number: so it is found again after a crash of ours."""

    def __init__(self, pid_file: Path) -> None:
        self._pid_file = pid_file

    @classmethod
    async def start(cls, path: str, pid: int, plan: HubPlan, pid_file: Path) -> Pasta:
        """Start it, and wait until the interface is there.

        Raises:
            ProgramFailed: it is not.
        """
        await asyncio.to_thread(pid_file.unlink, missing_ok=True)
        try:
            process = await asyncio.create_subprocess_exec(
                *render.pasta_argv(path, pid, plan, str(pid_file)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise ProgramFailed(str(error)) from error
        try:
            said = await asyncio.wait_for(
                process.stderr.read(WORDS_MAX) if process.stderr else _nothing(), READY_WITHIN_S
            )
            failed = await asyncio.wait_for(process.wait(), READY_WITHIN_S)
        except BaseException:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await cls(pid_file).end()
            raise
        if failed:
            await cls(pid_file).end()
            raise ProgramFailed(_last_line(said))
        return cls(pid_file)

    async def end(self) -> None:
        """Ended by its number, if that is still its own."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            handle = os.pidfd_open(pid)
        except (OSError, ValueError):
            self._pid_file.unlink(missing_ok=True)
            return
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if os.fsencode(self._pid_file) in command:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                poll = select.poll()
                poll.register(handle, select.POLLIN)
                poll.poll(READY_WITHIN_S * 1000)
        except (FileNotFoundError, ProcessLookupError):
            pass
        finally:
            os.close(handle)
            self._pid_file.unlink(missing_ok=True)


async def _first_bytes(descriptor: int) -> bytes:
    """What is written first; b"" where it is closed before, or nothing comes in time."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), READY_WITHIN_S)
        return os.read(descriptor, 16)
    except TimeoutError:
        return b""
    finally:
        loop.remove_reader(descriptor)


async def _nothing() -> bytes:
    return b""


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
