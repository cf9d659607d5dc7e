"""Mounts that come into a pod later: volumes, at the start of a container and when it asks for what is new.

Where the folders of a volume are is known to the warden alone, and mounts are the pod's own. So the warden makes the
mount where it is itself, takes a copy that is attached nowhere, joins the pod's mounts for a moment, attaches it there,
and comes back. What was there before goes first: while files in it are open that is refused (EBUSY), and nothing has
changed. Nothing of the pod is executed, and what is looked up there is one path, whose links lead nowhere but into the
pod.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jitney.runner.wall import kernel
from jitney.runner.wall.ops import perform

STAGE = "/r"


def own_mounts() -> int:
    """The descriptor of the caller's own mounts: for coming back."""
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def mount(pod: int, own: int, mounts: Sequence[dict[str, Any]]) -> None:
    """Attach mounts in a pod, in order.

    Args:
        pod: its first process, as a pidfd.
        own: the caller's `own_mounts`.
        mounts: of each "target", "ops" that make it at the stage's /r, "part": which folder of it is meant ("": all),
            "read_only", and "replaces": whether one of ours is at the target.

    Raises:
        OSError: one could not be (EBUSY: files of what was there are open); those before it have been attached.
    """
    for one in mounts:
        if one["replaces"]:
            with _joined(pod, own):
                kernel.unmount_unused(one["target"])
        perform(one["ops"])
        try:
            tree = kernel.take(_part(one["part"], one["read_only"]), recursive=False)
        finally:
            kernel.unmount(STAGE)
        try:
            with _joined(pod, own):
                _make_folder(one["target"])
                kernel.put(tree, one["target"])
                kernel.set_flags(one["target"], read_only=one["read_only"], recursive=False)
        finally:
            os.close(tree)


@contextmanager
def _joined(pod: int, own: int) -> Iterator[None]:
    kernel.setns(pod, kernel.NEWNS)
    try:
        yield
    finally:
        kernel.setns(own, kernel.NEWNS)


def _part(path: str, read_only: bool) -> str:
    """A folder of what was mounted. Links are hostile: they would lead to what the warden sees."""
    found = STAGE
    for name in filter(None, path.split("/")):
        found = f"{found}/{name}"
        if not os.path.lexists(found) and not read_only:
            os.mkdir(found, 0o755)
        if not os.path.lexists(found) or not stat.S_ISDIR(os.lstat(found).st_mode):
            raise OSError(errno.ENOENT, f"the volume has no folder {path!r}")
    return found


def _make_folder(path: str) -> None:
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        os.mkdir(path, 0o755)
