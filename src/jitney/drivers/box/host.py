"""No wall at all: commands run on the host as they are, as the worker's own user.

For the process tier and for systems without namespaces. What it cannot do it refuses, rather than doing it by halves: a
root file system, a path that is seen at another place, a network policy. Limits of cpu, memory and processes need a
control group and are not enforced; the time limit is.

What a command starts carries a mark in its environment, so that also a daemon that made a session of its own is found
and ended with it (where the system shows environments: Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from jitney.drivers.command import run
from jitney.ports.box import BoxCapabilities, BoxFailed, BoxSpec
from jitney.values.isolation import Isolation

MARK_NAME = "JITNEY_BOX"
ROUNDS_MAX = 200  # of ending what is left: each ends all that can be seen
ROUND_S = 0.005

WHY = "commands run on the host itself"
REMEDY = "use the runtime `namespaces` (Linux), which has a wall and root file systems of its own"


class HostBox:
    """`ports.box.Box` without a wall."""

    def capabilities(self) -> BoxCapabilities:
        """See the port."""
        return BoxCapabilities(
            isolation=Isolation.PROCESS,
            root_filesystem=False,
            host_layer_writable=False,
            many_users=False,
            network=True,
            why=WHY,
            remedy=REMEDY,
        )

    async def run(self, spec: BoxSpec, on_line: Callable[[str], None]) -> int:
        """See the port."""
        _refuse(spec)
        mark = secrets.token_hex(8)
        env = {**spec.env, MARK_NAME: mark}
        try:
            async with asyncio.timeout(spec.timeout_ms / 1000):
                code, _ = await run(spec.argv, cwd=spec.cwd, env=env, on_line=on_line)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC):
                raise
            raise BoxFailed(f"{spec.argv[0]} cannot be started: {error.strerror}") from error
        finally:
            await asyncio.shield(_end_marked(f"{MARK_NAME}={mark}".encode()))
        return code

    def adopt(self, folder: str) -> None:
        """See the port."""
        os.mkdir(folder, 0o755)

    async def discard(self, folder: str) -> None:
        """See the port."""
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def reap(self) -> int:
        """See the port: nothing is left anywhere."""
        return 0


def _refuse(spec: BoxSpec) -> None:
    if spec.layers or spec.upper:
        raise BoxFailed(f"there is no root file system here: {WHY}")
    if spec.volumes:
        raise BoxFailed(f"{spec.volumes[0].target} cannot be a volume: {WHY}")
    for bind in spec.binds:
        if bind.source != bind.target:
            raise BoxFailed(f"{bind.source} cannot be seen at {bind.target}: {WHY}")
    if not spec.network.is_open:
        raise BoxFailed(f"the network cannot be limited: {WHY}")


async def _end_marked(mark: bytes) -> None:
    for _ in range(ROUNDS_MAX):
        found = await asyncio.to_thread(_carriers, mark)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(ROUND_S)


def _carriers(mark: bytes) -> list[int]:
    """Living processes that have the mark in their environment."""
    found = []
    with contextlib.suppress(OSError):
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found
