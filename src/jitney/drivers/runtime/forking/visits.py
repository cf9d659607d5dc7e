"""Changes what is mounted in a container that lives, by a program that joins it (runner.wall.visit)."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jitney.ports.mounting import MountBusy, MountFailed


def command(kind: str, request: dict[str, Any]) -> list[str]:
    """The program; it needs nothing but the standard library."""
    import jitney.runner

    main = os.path.join(os.path.dirname(os.path.abspath(jitney.runner.__file__)), "__main__.py")
    return [sys.executable, "-I", "-S", "-E", main, kind, json.dumps(request)]


async def attach(
    pid: int,
    *,
    folder: str,
    stage: str,
    mounts: Sequence[dict[str, Any]] = (),
    trees: Sequence[tuple[int, str, bool]] = (),
    leave: Sequence[str] = (),
    here: bool = False,
    own_ids: bool = False,
    own_root: bool = False,
) -> None:
    """See the program. `pid` is one of the container, on this machine.

    `trees`: (descriptor, target, whether it is read-only) of mounts that are made already. `own_root`: what it takes
    for the root is not that of its mounts.

    Raises:
        MountBusy: files in what is to be replaced are open.
        MountFailed: it cannot be done, or the container has ended.
    """
    descriptors: list[int] = []
    try:
        descriptors.append(os.pidfd_open(pid))
        if own_root:
            descriptors.append(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        for one in descriptors:
            os.close(one)
        raise MountFailed("the container has ended") from None
    try:
        request = {
            "pidfd": descriptors[0], "root": descriptors[1] if own_root else -1, "own_ids": own_ids, "here": here,
            "folder": folder, "stage": stage, "mounts": [*mounts], "trees": [*trees],
            "leave": [*leave],
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *command("attach", request),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            pass_fds=[*descriptors, *(tree for tree, _, _ in trees)],
        )
        said, problem = await process.communicate()
    except OSError as error:
        raise MountFailed(f"no process can be started for it: {error.strerror or error}") from error
    finally:
        for one in descriptors:
            os.close(one)
    _judge(said, problem)


def _judge(said: bytes, problem: bytes) -> None:
    try:
        answer = json.loads(said)
    except ValueError:
        raise MountFailed(problem.decode(errors="replace").strip()[-500:] or "what mounts it has ended") from None
    if answer["message"]:
        kind = MountBusy if answer["code"] == errno.EBUSY else MountFailed
        raise kind("the container has ended" if answer["code"] == errno.ESRCH else answer["message"])


def make_upper(uppers: str, upper: str, owner: int | None = None) -> None:
    """The folders of a writable layer, below that of all; they are the container's user's."""
    for name in ("upper", "work"):
        path = os.path.join(uppers, upper, name)
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o711)
            os.chmod(path, 0o755)
            if owner is not None:
                os.chown(path, owner, owner)
