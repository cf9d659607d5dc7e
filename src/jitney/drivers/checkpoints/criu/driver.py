"""Runs CRIU."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from jitney.drivers.checkpoints.criu import attend, probe, render
from jitney.drivers.checkpoints.criu.restored import CriuRestored, only_child
from jitney.ports.checkpoints import CheckpointCapabilities, CheckpointFailed

DUMP_S = 300.0
RESTORE_S = 120.0
LOG_BYTES_MAX = 256 * 1024
DAMAGED = "no process can be made from it"


class CriuCheckpointer:
    """See `ports.checkpoints.Checkpointer`.

    Args:
        find: the programs, and whether they work.
        dump_s: a dump that takes longer is ended, and its process lost.
    """

    def __init__(self, find: Callable[[], probe.Finding] = probe.probe, *, dump_s: float = DUMP_S) -> None:
        self._find = find
        self._dump_s = dump_s

    def capabilities(self) -> CheckpointCapabilities:
        """See the port."""
        found = self._find()
        return CheckpointCapabilities(
            name="criu", possible=not found.why, why=found.why, remedy=found.remedy, version=found.version
        )

    async def dump(self, pid: int, folder: Path) -> None:
        """See the port."""
        found = await self._ready()
        if state_of(pid) != "T":
            raise CheckpointFailed(f"the process {pid} is not stopped")
        try:
            await asyncio.to_thread(folder.mkdir, 0o700)
        except OSError as error:
            raise CheckpointFailed(f"its folder cannot be made: {error.strerror or error}") from error
        try:
            code = await self._run(render.render_dump(found.criu, pid, str(folder)))
            if code:
                raise CheckpointFailed(render.reason(_log(folder)))
            (folder / render.LOG).unlink(missing_ok=True)
        except BaseException:
            await asyncio.shield(self.remove(folder))
            raise

    async def _run(self, argv: tuple[str, ...]) -> int:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckpointFailed(f"{argv[0]} cannot be started: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(self._dump_s):
                return await process.wait()
        except TimeoutError:
            raise CheckpointFailed(f"criu took longer than {self._dump_s:g} s", is_process_lost=True) from None
        finally:
            if process.returncode is None:  # also where we were cancelled
                process.kill()
                await process.wait()

    async def restore(self, folder: Path) -> CriuRestored:
        """See the port."""
        found = await self._ready()
        work = Path(tempfile.mkdtemp(prefix="jitney-restore-"))  # where its log goes: others restore at the same time
        reader, writer = os.pipe()
        try:
            argv = render.render_attended(
                found.unshare,
                sys.executable,
                attend.__file__,
                writer,
                render.render_restore(found.criu, str(folder), str(work)),
            )
            process = _attended(argv, writer)
        except OSError as error:
            os.close(reader)
            shutil.rmtree(work, ignore_errors=True)
            raise CheckpointFailed(f"{error.filename or found.unshare} cannot be started: {error.strerror}") from error
        finally:
            os.close(writer)
        restored = CriuRestored(process, reader)
        try:
            async with asyncio.timeout(RESTORE_S):
                code = await restored.made()
            pid = only_child(only_child(process.pid)) if code == 0 else 0
            if not pid:
                raise CheckpointFailed(f"{DAMAGED}: {render.reason(_log(work))}")
            restored.pid = pid
        except BaseException as error:
            await asyncio.shield(restored.give_up())
            if isinstance(error, TimeoutError):
                raise CheckpointFailed(f"{DAMAGED}: criu took longer than {RESTORE_S:g} s") from None
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return restored

    async def remove(self, folder: Path) -> None:
        """See the port."""
        await asyncio.to_thread(shutil.rmtree, folder, True)

    async def _ready(self) -> probe.Finding:
        found = await asyncio.to_thread(self._find)
        if found.why:
            raise CheckpointFailed(found.why)
        return found


def _attended(argv: tuple[str, ...], told: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH") or os.defpath},
        pass_fds=[told],
        start_new_session=True,
    )


def state_of(pid: int) -> str:
    """'T' for a process that is stopped; '' where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return text[text.rfind(")") + 2 :][:1]


def _log(folder: Path) -> str:
    try:
        with open(folder / render.LOG, errors="replace") as file:
            return file.read(LOG_BYTES_MAX)
    except OSError:
        return ""
