"""Joins the mounts of a container that lives, from outside: to change them, or to run a command there.

    python .../runner/__main__.py attach JSON
        {"pidfd": n, "root": n or -1, "own_ids": bool, "here": bool, "folder": path, "stage": path,
         "mounts": [...], "trees": [[descriptor, target, read_only]], "leave": [targets]}

Prints {"message": "" or why not, "code": its errno}. `leave` are mounts to take away, whoever still uses them; then
come `mounts` (runner.wall.mounting), and `trees`, which others have made. With `here` mounts are made in the
container's own view, where the machine's paths are the same (runner.view), otherwise in that of the machine, and handed
over. `root`: what the container takes for its root, where that is not the root of its mounts.

    python .../runner/__main__.py inside JSON
        {"pidfd": n, "own_ids": bool, "cwd": path, "path": program, "argv": [...], "keeps_ctype": bool, "tty": bool}

Becomes the program.

    python .../runner/__main__.py view JSON

Tries whether such a view (runner.view) can be made, and leaves nothing.

A process with threads cannot join anything, and a worker has some: so these are programs.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any, NoReturn

from jitney.runner import signals
from jitney.runner.wall import kernel, mounting

EXIT_NOT_EXECUTABLE = 126


def attach(text: str) -> int:
    """See the module; the exit code."""
    request = json.loads(text)
    message, code = "", 0
    try:
        _attach(request)
    except OSError as error:
        message, code = str(error) or repr(error), error.errno or errno.EIO
    print(json.dumps({"message": message, "code": code}))
    return 0


def _attach(request: dict[str, Any]) -> None:
    mounts, stage = request["mounts"], request["stage"]
    if request["here"]:
        _join(request)
        os.chdir(request["folder"])
        mounting.mount_here(mounts, stage)
        return
    kernel.unshare(kernel.NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    own = mounting.own_mounts()
    folder = request["folder"]
    if request["leave"]:
        _join(request)
        for target in request["leave"]:
            _leave(target)
        kernel.setns(own, kernel.NEWNS)
    pod, root = request["pidfd"], request["root"]
    mounting.mount(pod, own, mounts, root=root, stage=stage, folder=folder, make_folder=_make_folder)
    for tree, target, read_only in request["trees"]:
        mounting.attach(pod, own, tree, target, read_only=read_only, root=root, make_folder=_make_folder)


def view(text: str) -> int:
    """See the module; the exit code."""
    from jitney.runner.view import enter

    try:
        enter(json.loads(text))
    except OSError as error:
        os.write(2, str(error).encode())
        return 1
    return 0


def _leave(target: str) -> None:
    try:
        kernel.unmount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # it is there no more
            raise


def _join(request: dict[str, Any]) -> None:
    flags = kernel.NEWNS | (kernel.NEWUSER if request["own_ids"] else 0)
    kernel.setns(request["pidfd"], flags)
    mounting.take_root(request.get("root", -1))


def _make_folder(path: str) -> None:
    """In a container whose root is read-only: it is not for as long as that takes. What is mounted there stays so."""
    parent = path
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    if parent == path:
        return
    is_root = os.stat(parent).st_dev == os.stat("/").st_dev
    if is_root:
        kernel.set_writable("/")
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        reason = f"{parent} is read-only there, and has no folder {os.path.relpath(path, parent)!r}"
        raise OSError(error.errno, reason) from error
    finally:
        if is_root:
            kernel.set_flags("/", read_only=True, recursive=False)


def inside(text: str) -> NoReturn:
    """See the module."""
    request = json.loads(text)
    env = dict(os.environ)
    if not request["keeps_ctype"]:
        env.pop("LC_CTYPE", None)  # this interpreter's own doing
    name = request["argv"][0]
    try:
        _join(request)
        os.close(request["pidfd"])
        os.chdir(request["cwd"])
        if request["tty"]:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signals.reset()
        os.execve(request["path"], request["argv"], env)
    except OSError as error:
        end = "\r\n" if request["tty"] else "\n"
        os.write(2, f"{name}: {error.strerror}{end}".encode())
    os._exit(EXIT_NOT_EXECUTABLE)
