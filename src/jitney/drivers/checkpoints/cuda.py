"""The memory of NVIDIA's GPUs, moved by NVIDIA's `cuda-checkpoint` (a part of drivers since 550).

It works on one process. What its children have on a GPU cannot be moved, nor what is on devices of other makers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess

from jitney.ports.checkpoints import CheckpointFailed

TOGGLE_S = 120.0
NVIDIA = "/dev/nvidia"
OTHERS = ("/dev/kfd", "/dev/dri/render", "/dev/accel", "/dev/vfio/")


class CudaHooks:
    """See `ports.checkpoints.AcceleratorHooks`.

    Args:
        program: `cuda-checkpoint`; looked up in PATH by default.
    """

    def __init__(self, program: str | None = None, *, proc: str = "/proc") -> None:
        self._program = program
        self._proc = proc

    async def before_checkpoint(self, pid: int) -> bool:
        """See the port."""
        tree = await asyncio.to_thread(descendants, self._proc, pid)
        opened = {one: devices(self._proc, one) for one in tree}
        foreign = sorted({path for paths in opened.values() for path in paths if path.startswith(OTHERS)})
        if foreign:
            raise CheckpointFailed(f"it has {foreign[0]} open, and nothing can checkpoint that device")
        users = [one for one, paths in opened.items() if paths]
        if not users:
            return False
        if users != [pid]:
            raise CheckpointFailed("a child process uses a GPU: only what the process itself has there can be moved")
        await self._toggle(pid)
        return True

    async def after_restore(self, pid: int) -> None:
        """See the port."""
        await self._toggle(pid)

    async def _toggle(self, pid: int) -> None:
        program = self._program or shutil.which("cuda-checkpoint")
        if program is None:
            raise CheckpointFailed("it uses a GPU, and there is no `cuda-checkpoint` in PATH")
        try:
            process = await asyncio.create_subprocess_exec(
                *render_toggle(program, pid), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise CheckpointFailed(f"{program} cannot be started: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(TOGGLE_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise CheckpointFailed(f"cuda-checkpoint took longer than {TOGGLE_S:g} s", is_process_lost=True) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise CheckpointFailed(f"cuda-checkpoint: {said.decode(errors='replace').strip()[-300:] or 'it failed'}")


def render_toggle(program: str, pid: int) -> tuple[str, ...]:
    """From the device to memory, or back: whichever it is not."""
    return (program, "--toggle", "--pid", str(pid))


def devices(proc: str, pid: int) -> list[str]:
    """The accelerators that a process has open."""
    found = []
    try:
        for name in os.listdir(f"{proc}/{pid}/fd"):
            try:
                target = os.readlink(f"{proc}/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith((NVIDIA, *OTHERS)):
                found.append(target)
    except OSError:
        return []
    return sorted(found)


def descendants(proc: str, pid: int) -> list[int]:
    """The process, and those below it."""
    found = [pid]
    for one in found:  # grows while it is read
        try:
            for thread in os.listdir(f"{proc}/{one}/task"):
                with open(f"{proc}/{one}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
        except OSError:
            continue
    return found
