"""The launcher: from a process of the worker to a wall with a warden in it.

    python .../runner/__main__.py wall FD

The worker sends one message on the socket FD (frames as in runner.template_protocol):

    wall   {"ids": [[inside, outside, count], ...], "writer": "root" | "self", "stage": folder,
            "stage_ops": [...], "ops": [...] (the warden's, once the stage is its root), "hostname": name}

and is answered by

    warden  {"pid"} with a pidfd of the warden, and from then on by the warden itself;
    failed  {"message"}, and nothing is left.

Who lays out the stage must be able to read what goes there: with the worker's root privileges that is before the user
namespace is entered, whose root owns nothing of the machine. Without them it is after: only there it may mount.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from jitney.runner import template_protocol as protocol
from jitney.runner.wall import kernel, warden
from jitney.runner.wall.ops import perform

_ALL = kernel.NEWNS | kernel.NEWPID | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET | kernel.NEWCGROUP


def main(descriptor: int) -> int:
    """Be the launcher (and, in a fork, the warden); the exit code."""
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    splitter = protocol.Splitter()
    messages: list[dict[str, Any]] = []
    while not messages:
        data, _ = protocol.receive(control)
        if not data:
            return 0
        messages = splitter.feed(data)
    try:
        wall, *early = messages
        pid = _launch(wall, early, control)
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        with contextlib.suppress(OSError):  # the worker waits no longer
            protocol.send_frame(control, protocol.pack({"kind": "failed", "message": str(error)}))
        return 1
    protocol.send_frame(control, protocol.pack({"kind": "warden", "pid": pid}), [pidfd])
    return 0


def _launch(wall: dict[str, Any], early: list[dict[str, Any]], control: socket.socket) -> int:
    """The pid of the warden, as the machine sees it."""
    user_namespace = make_user_namespace(wall["ids"], wall["writer"])
    if wall["writer"] == "root":
        _own_mounts()
        perform(wall["stage_ops"], user_namespace=user_namespace)
        os.chdir(wall["stage"])  # no way leads there any more once we own nothing
        enter_user_namespace(user_namespace)
        kernel.unshare(_ALL)
    else:
        enter_user_namespace(user_namespace)
        kernel.unshare(_ALL)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        perform(wall["stage_ops"])
        os.chdir(wall["stage"])
    os.close(user_namespace)
    pid = os.fork()
    if pid == 0:
        warden.run(control, wall, early)
    return pid


def _own_mounts() -> None:
    kernel.unshare(kernel.NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def enter_user_namespace(descriptor: int) -> None:
    """Become root of a user namespace: nobody outside it."""
    if os.geteuid() == 0:
        os.setgroups([])
    kernel.setns(descriptor, kernel.NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.set_dumpable(True)  # changed ids had made this process opaque, also to those who join its namespaces


def make_user_namespace(ids: list[list[int]], writer: str) -> int:
    """A user namespace with these ids: its descriptor. It lives as long as somebody has it."""
    ready, started = os.pipe()
    done, finish = os.pipe()
    group = os.getgid()  # once we are in, it is nobody's
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.close(finish)
            kernel.unshare(kernel.NEWUSER)
            if writer == "self":
                _write("self", "setgroups", "deny")
                _write("self", "uid_map", _lines(ids[:1]))
                _write("self", "gid_map", _lines([[0, group, 1]]))
            os.write(started, b"x")
            os.read(done, 1)
        except OSError as error:
            os.write(started, str(error).encode())
        finally:
            os._exit(0)
    try:
        os.close(started)
        os.close(done)
        answer = os.read(ready, 4096)
        if answer != b"x":
            raise OSError(f"no user namespace: {answer.decode(errors='replace') or 'its process ended'}")
        if writer == "root":
            _write(str(child), "uid_map", _lines(ids))
            _write(str(child), "gid_map", _lines(ids))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(finish)
        os.waitpid(child, 0)


def _write(pid: str, name: str, text: str) -> None:
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _lines(ids: list[list[int]]) -> str:
    return "\n".join(" ".join(map(str, line[:3])) for line in ids)
