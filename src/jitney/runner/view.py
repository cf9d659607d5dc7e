"""A container's own view of the file system, where there is no wall: the machine's, and volumes in it.

The view is a mount namespace, which a fork makes for itself before any code of users runs in it. It is as private as a
working folder: all that is not a volume is the machine's own, and what others mount there comes in. Without root the
namespace is inside a user namespace in which the user is who they are, and has no privilege.

A volume's path need not be there on the machine, and no folder is made for it: the folder that would have it gets a
*frame*, in memory and read-only, with everything that is in the folder and places for volumes beside it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

from jitney.runner.wall import kernel, mounting

_FRAME_OPTIONS = "mode=755,size=1m"


def enter(plan: dict[str, Any]) -> None:
    """Make it, and be in it.

    Args:
        plan: "own_ids": whether a user namespace is needed; "folder": what relative paths start from; "stage": an empty
            folder of ours; "frames": of each "at" and "folders" (relative); "mounts": see runner.wall.mounting.

    Raises:
        OSError: it cannot be made, and this process is of no use any more.
    """
    user, group = os.geteuid(), os.getegid()
    if plan["own_ids"]:
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
        _write("setgroups", "deny")
        _write("uid_map", f"{user} {user} 1")
        _write("gid_map", f"{group} {group} 1")
    else:
        kernel.unshare(kernel.NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SLAVE)
    for frame in plan["frames"]:
        _frame(frame["at"], frame["folders"], plan["stage"])
    os.chdir(plan["folder"])
    mounting.mount_here(plan["mounts"], plan["stage"])
    if plan["own_ids"]:
        kernel.keep_capabilities(())


def _write(name: str, text: str) -> None:
    descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _frame(at: str, folders: Iterable[str], stage: str) -> None:
    """Put a folder of ours in the place of `at`: what is in that, and these folders."""
    new = {folder.partition("/")[0] for folder in folders}
    entries = _taken(at, new)
    try:
        kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _FRAME_OPTIONS)
        for name, tree, link in entries:
            path = f"{stage}/{name}"
            if tree < 0:
                os.symlink(link, path)
            else:
                _make_like(tree, path)
                kernel.put(tree, path)
    finally:
        for _, tree, _ in entries:
            if tree >= 0:
                os.close(tree)
    for folder in folders:
        os.makedirs(f"{stage}/{folder}", 0o755, exist_ok=True)
    kernel.set_flags(stage, read_only=True, recursive=False)
    if at == "/":
        kernel.pivot_root(stage)
        return
    tree = kernel.take(stage)
    try:
        kernel.put(tree, at)
    finally:
        os.close(tree)
    kernel.unmount(stage)


def _taken(at: str, left_out: set[str]) -> list[tuple[str, int, str]]:
    """(name, copy of what is there or -1, text of a link) of what is in a folder."""
    taken: list[tuple[str, int, str]] = []
    for name in sorted(os.listdir(at)):
        path = os.path.join(at, name)
        try:
            if os.path.islink(path):
                taken.append((name, -1, os.readlink(path)))
            elif name not in left_out:
                taken.append((name, kernel.take(path), ""))
        except FileNotFoundError:
            continue  # it has gone meanwhile
    return taken


def _make_like(tree: int, path: str) -> None:
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
