"""Devices, and terminals."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import signal
import stat
import tempfile
import termios

from jitney.testing.probes.probe import ANY, Outcome, allowed, denied, probe, skipped
from jitney.testing.probes.system import attempt_all, judge, opens
from jitney.testing.probes.targets import Targets

_PLAIN = frozenset(
    {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx", "console", "stdin", "stdout", "stderr"}
)
_ACCELERATORS = ("nvidia", "dri/", "kfd", "accel", "vfio/", "infiniband/", "dxg")
_TIOCLINUX = 0x541C


def _nodes() -> list[str]:
    found = []
    for folder, _, files in os.walk("/dev"):
        for file in files:
            path = os.path.join(folder, file)
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                found.append(path.removeprefix("/dev/"))
    return found


@probe(gvisor=ANY)
def unexpected(_: Targets) -> Outcome:
    """Find device nodes beyond null, zero, random, terminals and accelerators."""
    others = [
        name
        for name in _nodes()
        if name not in _PLAIN and not name.startswith(_ACCELERATORS) and not name.removeprefix("pts/").isdigit()
    ]
    return allowed(", ".join(others)[:200]) if others else denied("none")


@probe()
def disks(_: Targets) -> Outcome:
    """Open a disk of the machine."""
    names = [name for name in _nodes() if stat.S_ISBLK(os.lstat(f"/dev/{name}").st_mode)]
    return opens([f"/dev/{name}" for name in names], os.O_RDONLY) if names else denied("there is none")


@probe()
def memory(_: Targets) -> Outcome:
    """Open the machine's memory or ports."""
    return opens(("/dev/mem", "/dev/kmem", "/dev/port"), os.O_RDONLY)


@probe(gvisor=ANY)
def kernel_interfaces(_: Targets) -> Outcome:
    """Open devices that give a hold on the kernel: tunnels, loops, FUSE, virtual machines, input."""
    names = (
        "net/tun",
        "loop-control",
        "fuse",
        "kvm",
        "vhost-net",
        "vhost-vsock",
        "uinput",
        "mapper/control",
        "kmsg",
        "autofs",
    )
    return opens([f"/dev/{name}" for name in names], os.O_RDWR)


@probe(oci=ANY, gvisor=ANY)
def make_disk(_: Targets) -> Outcome:
    """Make a node for the machine's first disk."""
    return _make(stat.S_IFBLK, os.makedev(8, 0))


@probe(oci=ANY, gvisor=ANY)
def make_memory(_: Targets) -> Outcome:
    """Make a node for the machine's memory."""
    return _make(stat.S_IFCHR, os.makedev(1, 1))


def _make(kind: int, device: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "node")
        return attempt_all(
            [
                ("mknod", lambda: os.mknod(path, kind | 0o600, device)),
                ("mknod in /dev/shm", lambda: _make_and_remove("/dev/shm/jitney-probe-node", kind, device)),
            ],
            reached=(errno.EEXIST,),
        )


def _make_and_remove(path: str, kind: int, device: int) -> None:
    os.mknod(path, kind | 0o600, device)
    os.unlink(path)


def _on_own_terminal(request: int, argument: bytes) -> Outcome:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # comes when the terminal goes
    primary, secondary = pty.openpty()
    try:
        fcntl.ioctl(secondary, termios.TIOCSCTTY, 0)
        fcntl.ioctl(secondary, request, argument)
    except OSError as error:
        if error.errno in {errno.EIO, errno.ENOTTY}:
            return denied(f"the kernel itself: {os.strerror(error.errno)}")
        return judge(error.errno or 0, "ioctl")
    finally:
        os.close(primary)
        os.close(secondary)
    return allowed("the terminal took it")


@probe(oci=ANY)
def type_into_terminal(_: Targets) -> Outcome:
    """Put characters into a terminal's input by TIOCSTI, as if its user had typed them."""
    return _on_own_terminal(termios.TIOCSTI, b"x")


@probe()
def paste_into_console(_: Targets) -> Outcome:
    """Put characters into the machine's console by TIOCLINUX."""
    return _on_own_terminal(_TIOCLINUX, b"\x03")


@probe(oci=ANY)
def terminal_of_worker(_: Targets) -> Outcome:
    """Have the terminal from which the platform was started as the controlling one."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO}:
            return denied(f"/dev/tty: {os.strerror(error.errno)}")
        return skipped(f"/dev/tty: {error}")
    os.close(fd)
    return allowed("/dev/tty opens")
