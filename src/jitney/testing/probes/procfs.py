"""What /proc, /sys and the control groups give away, and what they let be changed. Files are opened, not written."""

from __future__ import annotations

import glob
import os

from jitney.testing.probes.probe import ANY, Outcome, allowed, denied, probe
from jitney.testing.probes.system import opens
from jitney.testing.probes.targets import Targets

_WALK_FOLDERS_MAX = 2_000


@probe()
def kernel_memory(_: Targets) -> Outcome:
    """Read the kernel's memory from /proc/kcore."""
    return _reads("/proc/kcore")


@probe()
def kernel_messages(_: Targets) -> Outcome:
    """Read the kernel's log from /proc/kmsg or /dev/kmsg."""
    return opens(("/proc/kmsg", "/dev/kmsg"), os.O_RDONLY)


@probe(oci=ANY)
def kernel_addresses(_: Targets) -> Outcome:
    """Learn where the kernel is in memory from /proc/kallsyms."""
    try:
        with open("/proc/kallsyms") as file:
            lines = [file.readline() for _ in range(100)]
    except OSError as error:
        return denied(f"/proc/kallsyms: {error.strerror}")
    real = [line for line in lines if line.split() and int(line.split()[0], 16)]
    return allowed(real[0].strip()) if real else denied("addresses are hidden")


@probe(oci=ANY)
def timers_and_keys(_: Targets) -> Outcome:
    """Read what tells of everybody on the machine: timers, keys, the scheduler."""
    for path in ("/proc/timer_list", "/proc/keys", "/proc/key-users", "/proc/sched_debug", "/proc/latency_stats"):
        outcome = _reads(path)
        if outcome.verdict == "allowed":
            return outcome
    return denied("all are masked")


@probe()
def firmware(_: Targets) -> Outcome:
    """Read the machine's firmware tables."""
    for pattern in ("/sys/firmware/*/*", "/proc/acpi/*", "/sys/firmware/acpi/tables/*"):
        for path in glob.glob(pattern)[:20]:
            if os.path.isfile(path) and _reads(path).verdict == "allowed":
                return allowed(f"read {path}")
    return denied("nothing can be read")


@probe()
def system_requests(_: Targets) -> Outcome:
    """Have the kernel crash or restart by /proc/sysrq-trigger."""
    return opens(("/proc/sysrq-trigger",), os.O_WRONLY)


@probe()
def core_pattern(_: Targets) -> Outcome:
    """Name a program that the kernel runs outside: for core dumps, modules, hot-plugging."""
    return opens(
        (
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hotplug",
            "/sys/kernel/uevent_helper",
            "/proc/sys/kernel/usermodehelper/bset",
        ),
        os.O_WRONLY,
    )


@probe()
def settings(_: Targets) -> Outcome:
    """Change settings of the kernel in /proc/sys."""
    names = (
        "kernel/panic",
        "kernel/randomize_va_space",
        "kernel/kptr_restrict",
        "vm/overcommit_memory",
        "fs/file-max",
        "vm/drop_caches",
    )
    return opens([f"/proc/sys/{name}" for name in names], os.O_WRONLY)


@probe()
def network_settings(_: Targets) -> Outcome:
    """Change settings of the network in /proc/sys."""
    names = ("ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv4/ping_group_range", "core/somaxconn")
    return opens([f"/proc/sys/net/{name}" for name in names], os.O_WRONLY)


@probe()
def binary_formats(_: Targets) -> Outcome:
    """Register an interpreter for programs of others."""
    return opens(("/proc/sys/fs/binfmt_misc/register",), os.O_WRONLY)


@probe()
def sysfs_settings(_: Targets) -> Outcome:
    """Change settings of the machine in /sys."""
    paths = [
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        *glob.glob("/sys/module/*/parameters/*")[:300],
    ]
    return opens([path for path in paths if os.path.exists(path)], os.O_WRONLY)


@probe(oci=ANY)
def debugging(_: Targets) -> Outcome:
    """Trace the kernel."""
    for folder in ("/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        try:
            inside = os.listdir(folder)
        except OSError:
            continue
        if inside:
            return allowed(f"{folder} has {len(inside)} entries")
    return denied("nothing there")


def _group_files(*names: str) -> list[str]:
    found = []
    for at, (folder, _, files) in enumerate(os.walk("/sys/fs/cgroup")):
        found += [os.path.join(folder, name) for name in names if name in files]
        if at >= _WALK_FOLDERS_MAX:
            break
    return found


@probe()
def release_agent(_: Targets) -> Outcome:
    """Name a program that the kernel runs outside when a control group is empty."""
    return _open_groups("release_agent", "notify_on_release")


@probe()
def raise_group_limits(_: Targets) -> Outcome:
    """Raise the limits of a control group."""
    return _open_groups("memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us")


@probe()
def leave_group(_: Targets) -> Outcome:
    """Move to another control group."""
    return _open_groups("cgroup.procs", "tasks", "cgroup.kill")


def _open_groups(*names: str) -> Outcome:
    files = _group_files(*names)
    return opens(files, os.O_WRONLY) if files else denied("no control group can be seen")


def _reads(path: str) -> Outcome:
    try:
        with open(path, "rb") as file:
            content = file.read(64)
    except OSError as error:
        return denied(f"{path}: {error.strerror}")
    return allowed(f"read {path}") if content.strip(b"\0") else denied(f"{path} reads empty")
