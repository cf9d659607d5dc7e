"""Other processes: seeing, stopping, reading and changing them."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from jitney.testing.probes.probe import ALLOWED, ANY, Outcome, allowed, denied, probe, skipped
from jitney.testing.probes.system import attempt, judge, name_of, status, system_call
from jitney.testing.probes.targets import Target, Targets, started_at

_PTRACE_SEIZE, _PTRACE_TRACEME = 0x4206, 0
_KNOWN_PROCESSES_MAX = 200


def _others() -> list[int]:
    """Everybody that can be seen but this process."""
    found = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in sorted(found) if pid != os.getpid()][:_KNOWN_PROCESSES_MAX]


def _reachable(target: Target) -> bool:
    """Whether the number means that very process here."""
    try:
        return started_at(target.pid) == target.started
    except (OSError, ValueError, IndexError):
        return False


def _shares(kind: str, targets: Targets) -> Outcome:
    try:
        mine, theirs = os.readlink(f"/proc/self/ns/{kind}"), targets.namespaces.get(kind, "")
    except FileNotFoundError:
        return denied("there are none")
    return allowed(f"is in {mine}") if mine == theirs else denied(f"{mine}, not {theirs}")


@probe(process=ALLOWED, oci=ANY, needs=("namespaces",))
def shares_users(targets: Targets) -> Outcome:
    """Be in the machine's user namespace."""
    return _shares("user", targets)


@probe(process=ALLOWED, needs=("namespaces",))
def shares_processes(targets: Targets) -> Outcome:
    """Be in the machine's process namespace."""
    return _shares("pid", targets)


@probe(process=ALLOWED, needs=("namespaces",))
def shares_mounts(targets: Targets) -> Outcome:
    """Be in the machine's mount namespace."""
    return _shares("mnt", targets)


@probe(process=ALLOWED, needs=("namespaces",))
def shares_network(targets: Targets) -> Outcome:
    """Be in the machine's network namespace."""
    return _shares("net", targets)


@probe(process=ALLOWED, needs=("namespaces",))
def shares_ipc(targets: Targets) -> Outcome:
    """Be in the machine's namespace of shared memory and message queues."""
    return _shares("ipc", targets)


@probe(process=ALLOWED, needs=("namespaces",))
def shares_host_name(targets: Targets) -> Outcome:
    """Be in the machine's namespace of host names."""
    return _shares("uts", targets)


@probe(process=ALLOWED, oci=ANY, needs=("namespaces",))
def shares_control_groups(targets: Targets) -> Outcome:
    """Be in the machine's namespace of control groups."""
    return _shares("cgroup", targets)


@probe(process=ALLOWED, needs=("processes",))
def sees_outside(targets: Targets) -> Outcome:
    """See processes of the outside."""
    seen = [target.what for target in targets.processes if _reachable(target)]
    return allowed(f"sees {', '.join(seen)}") if seen else denied("sees none of them")


@probe(process=ALLOWED, needs=("processes",))
def signals_outside(targets: Targets) -> Outcome:
    """Send signals (number 0) to processes of the outside."""
    for target in targets.processes:
        try:
            os.kill(target.pid, 0)
        except OSError:
            continue
        if _reachable(target):
            return allowed(f"may signal {target.what}")
    return denied("none of them")


@probe(needs=("processes",))
def reads_memory_outside(targets: Targets) -> Outcome:
    """Read the memory of the worker, of a template, of another container."""
    for target in targets.processes:
        if _reachable(target) and _open(f"/proc/{target.pid}/mem", os.O_RDONLY) == 0:
            return allowed(f"opened the memory of {target.what}")
    return denied("none of them")


@probe(needs=("processes",))
def reads_environment_outside(targets: Targets) -> Outcome:
    """Read the environment of the worker, of a template, of another container."""
    for target in targets.processes:
        if _reachable(target) and _open(f"/proc/{target.pid}/environ", os.O_RDONLY) == 0:
            return allowed(f"opened the environment of {target.what}")
    return denied("none of them")


@probe(needs=("processes",))
def traces_outside(targets: Targets) -> Outcome:
    """Trace the worker, a template, another container."""
    seen = "none can be seen"
    for target in targets.processes:
        if not _reachable(target):
            continue
        try:
            system_call("ptrace", _PTRACE_SEIZE, target.pid, 0, 0)
            return allowed(f"seized {target.what}")  # and let go of it as this process ends
        except OSError as error:
            seen = name_of(error.errno or 0)
    return denied(seen)


@probe(gvisor=ANY, oci=ANY)
def traces_own_child(_: Targets) -> Outcome:
    """Be traced by the parent: what debuggers do, and what has opened ways out of filters."""
    return attempt("ptrace", _PTRACE_TRACEME, 0, 0, 0)


@probe(oci=ANY, gvisor=ANY)
def reads_memory_of_init(_: Targets) -> Outcome:
    """Read or change the memory of process 1, which has made this container."""
    if os.getppid() == 1 and os.getpid() == 1:
        return skipped("this is process 1")
    for flags in (os.O_RDWR, os.O_RDONLY):
        code = _open("/proc/1/mem", flags)
        if code == 0:
            return allowed("opened /proc/1/mem")
    return denied(name_of(code))


@probe(oci=ANY, gvisor=ANY)
def unfiltered_others(_: Targets) -> Outcome:
    """Find a process of the same user without a filter of system calls, to make them through it."""
    for pid in _others():
        try:
            its = status(pid)
        except OSError:
            continue
        if its.get("Seccomp") != "2" and int(its["Uid"].split()[0]) == os.getuid():
            return allowed(f"process {pid} ({its['Name']}) has none")
    return denied("all have one")


@probe(oci=ANY, gvisor=ANY)
def reads_environment_of_init(_: Targets) -> Outcome:
    """Read the environment of process 1, which may have been told secrets."""
    try:
        with open("/proc/1/environ", "rb") as file:
            has_some = bool(file.read(1))
    except OSError as error:
        return denied(error.strerror or "")
    return allowed("it can be read") if has_some else denied("it is empty")


@probe(oci=ANY, gvisor=ANY)
def descriptors_of_init(_: Targets) -> Outcome:
    """Open what process 1 has open."""
    try:
        names = os.listdir("/proc/1/fd")
    except OSError as error:
        return denied(error.strerror or "")
    for name in names:
        try:
            link = os.readlink(f"/proc/1/fd/{name}")
        except OSError:
            continue
        return allowed(f"descriptor {name} is {link}")
    return denied("none can be read")


@probe()
def roots_of_others(_: Targets) -> Outcome:
    """Find a process whose root is another one, and look into it by /proc/PID/root and /proc/PID/cwd."""
    mine = os.stat("/")
    for pid in _others():
        for link in ("root", "cwd"):
            try:
                theirs = os.stat(f"/proc/{pid}/{link}/.." if link == "cwd" else f"/proc/{pid}/root")
                top = _top_of(f"/proc/{pid}/{link}")
            except OSError:
                continue
            if (top.st_dev, top.st_ino) != (mine.st_dev, mine.st_ino):
                return allowed(f"the {link} of process {pid} is elsewhere ({theirs.st_dev}:{theirs.st_ino})")
    return denied("all have the same root, or are closed")


def _top_of(path: str) -> os.stat_result:
    """Where `..` ends."""
    return os.stat(path + "/.." * 64)


@probe(oci=ANY)
def copies_memory(_: Targets) -> Outcome:
    """Read the parent's memory by process_vm_readv."""
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("<QQ", ctypes.addressof(buffer), 8)
    remote = struct.pack("<QQ", ctypes.addressof(buffer), 8)  # a fork has the same addresses
    return attempt("process_vm_readv", os.getppid(), local, 1, remote, 1, 0, reached=(errno.EFAULT,))


@probe(oci=ANY)
def takes_descriptors(_: Targets) -> Outcome:
    """Take an open file of the parent by pidfd_getfd."""
    try:
        fd = os.pidfd_open(os.getppid())
    except OSError as error:
        return judge(error.errno or 0, "pidfd_open") if error.errno != errno.EINVAL else denied("the parent is outside")
    return attempt("pidfd_getfd", fd, 0, 0, reached=(errno.EBADF,))


def _open(path: str, flags: int) -> int:
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno or errno.EIO
    return 0
