"""Who the container's code is, and whether it can become more."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import struct
import subprocess
import tempfile

from jitney.testing.probes.probe import ANY, HELD, Outcome, allowed, denied, limited, probe, skipped
from jitney.testing.probes.system import attempt, attempt_all, judge, libc, status, system_call
from jitney.testing.probes.targets import Targets

_CAPABILITY_VERSION_3 = 0x2008_0522
_CAP_SYS_ADMIN = 21
_PR_GET_NO_NEW_PRIVS = 39
_PR_SET_SECUREBITS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 28, 47, 2
_ELSEWHERE = 54_321  # an id that nobody has
_SETUID_PROGRAMS = ("su", "mount", "passwd", "chsh", "newgrp", "gpasswd", "sudo")


def _has_none(field: str) -> Outcome:
    fields = status()
    value = fields[field] if field != "CapAmb" else fields.get(field, "0")  # gVisor has none
    return denied("none") if int(value, 16) == 0 else allowed(f"{field} {value}")


@probe(oci=ANY)
def capabilities(_: Targets) -> Outcome:
    """Have capabilities."""
    return _has_none("CapEff")


@probe(oci=ANY)
def capabilities_to_gain(_: Targets) -> Outcome:
    """Have capabilities that a program started from here could regain."""
    return next(
        (one for one in map(_has_none, ("CapPrm", "CapInh", "CapAmb", "CapBnd")) if one.verdict == "allowed"),
        denied("none"),
    )


@probe(oci=ANY)
def new_privileges(_: Targets) -> Outcome:
    """Run without no_new_privs."""
    is_set = libc().prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
    return denied("no_new_privs") if is_set else allowed("no_new_privs is off")


@probe(process=ANY, gvisor=ANY)
def unfiltered(_: Targets) -> Outcome:
    """Run without a filter of system calls."""
    return denied("filtered") if status()["Seccomp"] == "2" else allowed("no filter")


@probe(oci=ANY, gvisor=ANY)
def host_ids(_: Targets) -> Outcome:
    """Have the machine's own user ids."""
    with open("/proc/self/uid_map") as file:
        lines = [tuple(map(int, line.split())) for line in file]
    if any(inside == outside and count > 1 for inside, outside, count in lines) or any(o == 0 for _, o, _ in lines):
        return allowed(f"uid_map {lines}")
    return denied(f"uid_map {lines}")


@probe(oci=ANY)
def regain_by_exec(_: Targets) -> Outcome:
    """Regain capabilities by starting a program as uid 0."""
    done = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    field = next(line for line in done.stdout.splitlines() if line.startswith("CapEff"))
    return denied("none") if int(field.split()[1], 16) == 0 else allowed(field)


@probe(process=ANY, oci=ANY)
def setuid_program(_: Targets) -> Outcome:
    """Become another user by a setuid program."""
    return _with_setuid(())


@probe(process=ANY, oci=ANY)
def setuid_by_loader(_: Targets) -> Outcome:
    """Become another user by a setuid program that the dynamic loader is told to run."""
    loaders = [path for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(path)]
    return _with_setuid(tuple(loaders[:1])) if loaders else denied("there is no loader")


def _with_setuid(before: tuple[str, ...]) -> Outcome:
    mine = status()
    for name in _SETUID_PROGRAMS:
        path = f"/usr/bin/{name}"
        if not os.path.exists(path) or not os.stat(path).st_mode & stat.S_ISUID:
            continue
        program = subprocess.Popen(
            [*before, path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            its = status(program.pid)
        except OSError:
            continue
        finally:
            program.kill()
            program.wait()
        gained = its.get("CapEff", "0") != mine["CapEff"] or its["Uid"] != mine["Uid"]
        return (
            allowed(f"{name}: Uid {its['Uid']}, CapEff {its.get('CapEff')}")
            if gained
            else denied(f"{name} gained nothing")
        )
    return denied("there is no setuid program")


@probe(oci=ANY)
def raise_capabilities(_: Targets) -> Outcome:
    """Give oneself CAP_SYS_ADMIN by capset."""
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    low = 1 << _CAP_SYS_ADMIN
    return attempt("capset", header, struct.pack("<IIIIII", low, low, low, 0, 0, 0))


@probe(oci=ANY)
def ambient_capabilities(_: Targets) -> Outcome:
    """Hand capabilities on to programs by prctl, or change how uid 0 gets them."""
    if libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, 0, 0, 0) == 0:
        return allowed("raised an ambient capability")
    if libc().prctl(_PR_SET_SECUREBITS, 1, 0, 0, 0) == 0:
        return allowed("set secure bits")
    if ctypes.get_errno() == errno.EINVAL:
        return denied("there are none")
    return judge(ctypes.get_errno(), "prctl")


@probe(oci=ANY)
def other_user(_: Targets) -> Outcome:
    """Become another user by setresuid."""
    try:
        system_call("setresuid", _ELSEWHERE, _ELSEWHERE, _ELSEWHERE)
    except OSError as error:
        return judge(error.errno or 0, "setresuid", ()) if error.errno != errno.EINVAL else denied("no such id here")
    return allowed("is another user") if os.getuid() == _ELSEWHERE else denied("was told so, and is not")


@probe(oci=ANY)
def other_groups(_: Targets) -> Outcome:
    """Join other groups, or leave one's own, by setgroups."""
    before = os.getgroups()
    wanted = [_ELSEWHERE % 1000] if before != [_ELSEWHERE % 1000] else []
    try:
        os.setgroups(wanted)
    except OSError as error:
        return judge(error.errno or 0, "setgroups", ()) if error.errno != errno.EINVAL else denied("no such id here")
    return allowed(f"groups {os.getgroups()}") if os.getgroups() == wanted else denied("was told so, and is not")


@probe(oci=ANY)
def give_files_away(_: Targets) -> Outcome:
    """Make a file another user's, by chown."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.chown(file.name, 1, 1)
        except OSError as error:
            return denied(f"chown: {os.strerror(error.errno or 0)}")
        return allowed("it is uid 1's") if os.stat(file.name).st_uid == 1 else denied("was told so, and it is not")


@probe(oci=ANY)
def raise_limits(_: Targets) -> Outcome:
    """Raise a hard limit of resources."""
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        soft, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY:
            continue
        try:
            resource.setrlimit(kind, (soft, hard + 1))
        except (OSError, ValueError):
            continue
        return allowed(f"raised {kind}")
    return denied("none can be raised")


@probe(oci=ANY, gvisor=ANY)
def real_time(_: Targets) -> Outcome:
    """Run before everybody else, in real time or by a negative nice value."""
    return attempt_all(
        [
            ("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
            ("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)),
        ],
    )


@probe(oci=ANY, namespaces=HELD, gvisor=ANY)
def escape_the_out_of_memory_killer(_: Targets) -> Outcome:
    """Have others killed first when memory is short, by an oom_score_adj below everybody's."""
    try:
        with open("/proc/self/oom_score_adj") as file:
            now = int(file.read())
        if now <= -1000:
            return skipped("it is as low as it gets")
        _set_out_of_memory_score(min(now, 0) - 1)
    except OSError as error:
        code = error.errno or 0
    else:
        return allowed(f"went from {now} to {min(now, 0) - 1}")
    try:
        _set_out_of_memory_score(now - 1)
    except OSError:
        return judge(code, "oom_score_adj")
    return limited(f"below {now}, but not below 0, where the rest of the machine is")


def _set_out_of_memory_score(score: int) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


@probe(oci=ANY)
def write_id_map(_: Targets) -> Outcome:
    """Change which ids of the machine this process has."""
    try:
        with open("/proc/self/uid_map", "w") as file:
            file.write("0 0 1\n")
    except OSError as error:
        return judge(error.errno or 0, "uid_map")
    return allowed("wrote uid_map")
