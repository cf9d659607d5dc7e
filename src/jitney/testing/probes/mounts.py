"""Changing what is mounted, or where the root is."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import tempfile

from jitney.testing.probes.probe import ANY, Outcome, allowed, denied, probe
from jitney.testing.probes.system import (
    AT_FDCWD,
    MNT_DETACH,
    MS_BIND,
    MS_REMOUNT,
    NEWNS,
    NEWUSER,
    aside,
    attempt,
    judge,
    libc,
    name_of,
    system_call,
)
from jitney.testing.probes.targets import Targets

_OPEN_TREE_CLONE = 1
_NEW_NAMESPACES = {"cgroup": 0x0200_0000, "ipc": 0x0800_0000, "mnt": NEWNS, "net": 0x4000_0000, "pid": 0x2000_0000}
_SIGCHLD = 17


def _mount(source: str, kind: str | None, flags: int = 0, options: str = "") -> Outcome:
    aside()
    with tempfile.TemporaryDirectory() as folder:
        encoded = kind.encode() if kind else None
        result = libc().mount(source.encode(), folder.encode(), encoded, ctypes.c_ulong(flags), options.encode())
        code = ctypes.get_errno()
        if result == 0:
            libc().umount2(folder.encode(), MNT_DETACH)
            return allowed(f"mounted {kind or source}")
    return judge(code, f"mount {kind or source}", (errno.EINVAL, errno.EBUSY))


@probe()
def tmpfs(_: Targets) -> Outcome:
    """Mount a file system of memory."""
    return _mount("tmpfs", "tmpfs")


@probe()
def bind(_: Targets) -> Outcome:
    """Mount the root folder at a second place."""
    return _mount("/", None, MS_BIND)


@probe()
def fresh_proc(_: Targets) -> Outcome:
    """Mount a /proc without masks."""
    return _mount("proc", "proc")


@probe()
def fresh_sysfs(_: Targets) -> Outcome:
    """Mount a writable /sys."""
    return _mount("sysfs", "sysfs")


@probe()
def overlay(_: Targets) -> Outcome:
    """Mount an overlay of the root folder."""
    return _mount("overlay", "overlay", 0, "lowerdir=/usr:/etc")


@probe()
def control_groups(_: Targets) -> Outcome:
    """Mount the control groups, to escape by their release_agent."""
    second = _mount("cgroup", "cgroup", 0, "rdma")
    return second if second.verdict == "allowed" else _mount("cgroup2", "cgroup2")


@probe()
def root_writable(_: Targets) -> Outcome:
    """Mount the root folder again, with other flags."""
    aside()
    result = libc().mount(None, b"/", None, ctypes.c_ulong(MS_REMOUNT | MS_BIND), None)
    return allowed("remounted /") if result == 0 else judge(ctypes.get_errno(), "remount /", (errno.EINVAL,))


@probe()
def unmask(_: Targets) -> Outcome:
    """Unmount what hides parts of /proc, and /proc itself."""
    aside()
    for path in (b"/proc/kcore", b"/proc/keys", b"/proc/sys", b"/sys", b"/proc"):
        if libc().umount2(path, MNT_DETACH) == 0:
            return allowed(f"unmounted {path.decode()}")
    return judge(ctypes.get_errno(), "umount", (errno.EINVAL,))


@probe()
def new_interface(_: Targets) -> Outcome:
    """Mount by fsopen."""
    return attempt("fsopen", b"tmpfs", 0)


@probe()
def clone_tree(_: Targets) -> Outcome:
    """Copy the tree of mounts by open_tree."""
    return attempt("open_tree", AT_FDCWD, b"/", _OPEN_TREE_CLONE)


@probe()
def move_tree(_: Targets) -> Outcome:
    """Attach a tree of mounts by move_mount."""
    return attempt("move_mount", -1, b"", -1, b"", 4, reached=(errno.EBADF, errno.ENOENT))


@probe()
def change_attributes(_: Targets) -> Outcome:
    """Change a mount's flags by mount_setattr."""
    return attempt("mount_setattr", AT_FDCWD, b"/", 0, bytes(32), 32)


@probe()
def change_root(_: Targets) -> Outcome:
    """Make another folder the root by pivot_root."""
    return attempt("pivot_root", b"/nowhere/at/all", b"/nowhere/at/all", reached=(errno.ENOENT,))


@probe(oci=ANY)
def chroot(_: Targets) -> Outcome:
    """Make another folder the root by chroot."""
    return attempt("chroot", b"/")


@probe(gvisor=ANY)
def new_user_namespace(_: Targets) -> Outcome:
    """Become root of a user namespace of one's own by unshare."""
    return attempt("unshare", NEWUSER)


@probe(gvisor=ANY)
def new_namespaces(_: Targets) -> Outcome:
    """Make any other namespace by unshare."""
    for kind, flag in _NEW_NAMESPACES.items():
        if libc().unshare(flag) == 0:
            return allowed(f"has a {kind} namespace of its own")
    return judge(ctypes.get_errno(), "unshare")


@probe(gvisor=ANY)
def clone_into_namespace(_: Targets) -> Outcome:
    """Start a process in a new user namespace by clone."""
    try:
        pid = system_call("clone", NEWUSER | _SIGCHLD, 0, 0, 0, 0)
    except OSError as error:
        return judge(error.errno or 0, "clone")
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return allowed("clone(CLONE_NEWUSER)")


@probe(gvisor=ANY)
def clone3_into_namespace(_: Targets) -> Outcome:
    """Start a process in a new user namespace by clone3, whose flags a filter cannot see."""
    arguments = struct.pack("<8Q", NEWUSER, 0, 0, 0, _SIGCHLD, 0, 0, 0)
    try:
        pid = system_call("clone3", arguments, len(arguments))
    except OSError as error:
        return judge(error.errno or 0, "clone3")
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return allowed("clone3(CLONE_NEWUSER)")


@probe()
def join_namespaces(_: Targets) -> Outcome:
    """Join the namespaces of any process that can be seen, by setns."""
    seen = "no namespace can be opened"
    for pid in ("self", *sorted(filter(str.isdigit, os.listdir("/proc")), key=int)[:50]):
        for kind in ("user", "mnt", "pid", "net"):
            try:
                fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
            except OSError:
                continue
            try:
                system_call("setns", fd, 0)
                return allowed(f"joined the {kind} namespace of process {pid}")
            except OSError as error:
                seen = f"setns: {name_of(error.errno or 0)}"
            finally:
                os.close(fd)
    return denied(seen)


@probe(oci=ANY)
def shared_propagation(_: Targets) -> Outcome:
    """Find a mount whose changes travel to the outside."""
    with open("/proc/self/mountinfo") as file:
        shared = [line.split()[4] for line in file if " shared:" in line]
    return allowed(f"shared: {', '.join(shared)[:200]}") if shared else denied("every mount is private")
