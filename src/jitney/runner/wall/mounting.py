"""Mounts that come into a pod later: volumes, at the start of a container and when it asks for what is new.

Where the folders of a volume are is known to the warden alone, and mounts are the pod's own. So the warden makes the
mount where it is itself, takes a copy that is attached nowhere, joins the pod's mounts for a moment, attaches it there,
and comes back. What was there before goes first: while files in it are open that is refused (EBUSY), and nothing has
changed. Nothing of the pod is executed, and what is looked up there is one path, whose links lead nowhere but into the
pod.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jitney.runner.wall import kernel
from jitney.runner.wall.ops import part, perform

STAGE = "/r"


def own_mounts() -> int:
    """The descriptor of the caller's own mounts: for coming back."""
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def mount(
    pod: int,
    own: int,
    mounts: Sequence[dict[str, Any]],
    *,
    root: int = -1,
    stage: str = STAGE,
    folder: str = "/",
    make_folder: Callable[[str], None] | None = None,
) -> None:
    """Attach mounts in a pod, in order.

    Args:
        pod: its first process, as a pidfd.
        own: the caller's `own_mounts`.
        mounts: of each "target", "ops" that make it at the stage, "part": which folder of it is meant ("": all),
            "read_only", and "replaces": whether one of ours is at the target.
        root: what the pod takes for its root, where that is not the root of its mounts; -1: it is.
        stage: the caller's folder where each is made.
        folder: of the caller's, what relative paths in operations start from.
        make_folder: makes the target where it is missing, seen from the pod.

    Raises:
        OSError: one could not be (EBUSY: files of what was there are open); those before it have been attached.
    """
    for one in mounts:
        if one["replaces"]:
            with _joined(pod, own, root):
                kernel.unmount_unused(one["target"])
        os.chdir(folder)  # joining leaves it
        tree = make(one, stage)
        try:
            with _joined(pod, own, root):
                (make_folder or _make_folder)(one["target"])
                _put(tree, one)
        finally:
            os.close(tree)


def attach(
    pod: int,
    own: int,
    tree: int,
    target: str,
    *,
    read_only: bool,
    root: int = -1,
    make_folder: Callable[[str], None] | None = None,
) -> None:
    """Attach a mount that another has made, and that is attached nowhere, in a pod; the rest as for `mount`.

    Raises:
        OSError: it could not be.
    """
    with _joined(pod, own, root):
        (make_folder or _make_folder)(target)
        _put(tree, {"target": target, "read_only": read_only})


def mount_here(mounts: Sequence[dict[str, Any]], stage: str) -> None:
    """The same for the caller's own view of the file system.

    Raises:
        OSError: as `mount`.
    """
    for one in mounts:
        if one["replaces"]:
            kernel.unmount_unused(one["target"])
        tree = make(one, stage)
        try:
            _put(tree, one)
        finally:
            os.close(tree)


def make(one: dict[str, Any], stage: str) -> int:
    """A mount that is attached nowhere; the stage is free again."""
    perform(one["ops"])
    try:
        return kernel.take(part(stage, one["part"], one["read_only"]), recursive=False)
    finally:
        kernel.unmount(stage)


def _put(tree: int, one: dict[str, Any]) -> None:
    kernel.put(tree, one["target"])
    kernel.set_flags(one["target"], read_only=one["read_only"], recursive=False)


def take_root(root: int) -> None:
    """Take a folder for the root; -1: it is already. Joining other mounts undoes it."""
    if root >= 0:
        os.fchdir(root)
        os.chroot(".")


@contextmanager
def _joined(pod: int, own: int, root: int = -1) -> Iterator[None]:
    kernel.setns(pod, kernel.NEWNS)
    try:
        take_root(root)
        yield
    finally:
        kernel.setns(own, kernel.NEWNS)


def _make_folder(path: str) -> None:
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        os.mkdir(path, 0o755)
