"""The kernel's dangerous corners: each call is asked for in a way that does nothing where it is allowed."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import struct

from jitney.testing.probes.probe import ANY, Outcome, allowed, denied, probe, skipped
from jitney.testing.probes.system import AT_FDCWD, attempt, judge, system_call
from jitney.testing.probes.targets import Targets

_BPF_MAP_CREATE = 0
_PERF_EXCLUDE_KERNEL = 1 << 5 | 1 << 6
_UFFD_USER_MODE_ONLY = 1
_PROCESS_KEYRING = -2
_KEYCTL_JOIN_SESSION = 1
_SYSLOG_READ_ALL = 3
_ADJ_TICK = 0x4000
_TIMEX_BYTES, _TIMEX_TICK_AT = 208, 88
_NO_RANDOM_ADDRESSES = 0x0004_0000
_X32 = 0x4000_0000
_SWAP_NOWHERE = b"/nowhere/at/all"


@probe()
def bpf(_: Targets) -> Outcome:
    """Give the kernel programs and maps by bpf."""
    attributes = struct.pack("<IIII", 2, 4, 4, 1).ljust(72, b"\0")
    return attempt("bpf", _BPF_MAP_CREATE, attributes, len(attributes))


@probe()
def performance_events(_: Targets) -> Outcome:
    """Count events of the processor by perf_event_open."""
    attributes = struct.pack("<IIQ", 1, 64, 0).ljust(40, b"\0") + struct.pack("<Q", _PERF_EXCLUDE_KERNEL).ljust(
        24, b"\0"
    )
    return attempt("perf_event_open", attributes, 0, -1, -1, 0)


@probe(oci=ANY)
def io_uring(_: Targets) -> Outcome:
    """Make a ring by which system calls pass the filter unseen."""
    return attempt("io_uring_setup", 1, bytes(120))


@probe()
def userfaultfd(_: Targets) -> Outcome:
    """Handle page faults, which makes races in the kernel easy to win."""
    return attempt("userfaultfd", _UFFD_USER_MODE_ONLY)


@probe()
def add_key(_: Targets) -> Outcome:
    """Put a key into the kernel's keyrings, which have no namespace."""
    return attempt("add_key", b"user", b"jitney-probe", b"x", 1, _PROCESS_KEYRING)


@probe(gvisor=ANY)
def join_keyring(_: Targets) -> Outcome:
    """Change keyrings by keyctl."""
    return attempt("keyctl", _KEYCTL_JOIN_SESSION, 0, 0, 0, 0)


@probe()
def request_key(_: Targets) -> Outcome:
    """Have the kernel start its key helper outside."""
    return attempt("request_key", b"user", b"jitney-probe", 0, _PROCESS_KEYRING, reached=(errno.ENOKEY,))


@probe()
def new_kernel(_: Targets) -> Outcome:
    """Load another kernel by kexec."""
    return attempt("kexec_load", 0, 1000, 0, 0, reached=(errno.EINVAL,))


@probe()
def load_module(_: Targets) -> Outcome:
    """Load a kernel module from memory."""
    return attempt("init_module", b"", 0, b"", reached=(errno.ENOEXEC, errno.EFAULT))


@probe()
def load_module_file(_: Targets) -> Outcome:
    """Load a kernel module from a file."""
    return attempt("finit_module", -1, b"", 0, reached=(errno.EBADF,))


@probe()
def reboot(_: Targets) -> Outcome:
    """Restart the machine (with a wrong magic number)."""
    return attempt("reboot", 0, 0, 0, 0, reached=(errno.EINVAL,))


@probe()
def swap_on(_: Targets) -> Outcome:
    """Add swap space (that is not there)."""
    return attempt("swapon", _SWAP_NOWHERE, 0, reached=(errno.ENOENT,))


@probe()
def accounting(_: Targets) -> Outcome:
    """Have the kernel write a log of processes to a file."""
    return attempt("acct", _SWAP_NOWHERE, reached=(errno.ENOENT, errno.EROFS))


@probe()
def quotas(_: Targets) -> Outcome:
    """Ask for quotas of a file system by quotactl."""
    return attempt("quotactl", 0x8000_0700, _SWAP_NOWHERE, 0, bytes(128), reached=(errno.ENOENT,))


@probe(gvisor=ANY)
def kernel_log(_: Targets) -> Outcome:
    """Read the kernel's log, which tells addresses and other people's crashes."""
    return attempt("syslog", _SYSLOG_READ_ALL, ctypes.create_string_buffer(256), 256)


@probe()
def set_clock(_: Targets) -> Outcome:
    """Change the machine's clock (to the speed that it has)."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        system_call("adjtimex", timex)
        struct.pack_into("<I", timex, 0, _ADJ_TICK)
        system_call("adjtimex", timex)
    except OSError as error:
        return judge(error.errno or 0, "adjtimex")
    return allowed(f"set the tick to {struct.unpack_from('<q', timex, _TIMEX_TICK_AT)[0]}")


@probe()
def set_host_name(_: Targets) -> Outcome:
    """Change the host's name (to what it is)."""
    name = socket.gethostname().encode()
    return attempt("sethostname", name, len(name))


@probe()
def io_ports(_: Targets) -> Outcome:
    """Talk to hardware by its ports."""
    if platform.machine() != "x86_64":
        return denied("this machine has no ports")
    first = attempt("ioperm", 0x80, 1, 1)
    return first if first.verdict == "allowed" else attempt("iopl", 3)


@probe(oci=ANY)
def segments(_: Targets) -> Outcome:
    """Make segments of the processor by modify_ldt."""
    if platform.machine() != "x86_64":
        return denied("this machine has no segments")
    return attempt("modify_ldt", 0, bytes(64), 64)


@probe()
def file_handles(_: Targets) -> Outcome:
    """Open the root folder of the disk by a made-up handle (2 is its number on most)."""
    handle = struct.pack("<IiII", 8, 1, 2, 0)
    fd = os.open("/", os.O_RDONLY)
    try:
        return attempt("open_by_handle_at", fd, handle, 0, reached=(errno.ESTALE, errno.EINVAL))
    finally:
        os.close(fd)


@probe()
def handle_of_file(_: Targets) -> Outcome:
    """Learn the handle of a file, to guess others."""
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128))
    return attempt("name_to_handle_at", AT_FDCWD, b"/", handle, ctypes.create_string_buffer(8), 0)


@probe()
def watch_file_system(_: Targets) -> Outcome:
    """Watch what others do to files by fanotify."""
    return attempt("fanotify_init", 0x200, 0)


@probe(gvisor=ANY, oci=ANY)
def personality(_: Targets) -> Outcome:
    """Turn random addresses off by personality."""
    found = attempt("personality", _NO_RANDOM_ADDRESSES)
    return denied("there is none") if found.detail.startswith("personality: EINVAL") else found


@probe()
def move_pages(_: Targets) -> Outcome:
    """Move pages of memory between nodes of the machine."""
    return attempt("move_pages", 0, 0, 0, 0, 0, 0)


@probe(oci=ANY)
def thirty_two_bit_calls(_: Targets) -> Outcome:
    """Make system calls by the old 32-bit gate, where their numbers mean something else."""
    if platform.machine() != "x86_64":
        return skipped(f"{platform.machine()} has no such gate")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    answer = getpid()
    return allowed("getpid by int 0x80") if answer == os.getpid() else denied(f"int 0x80 gave {answer}")


@probe()
def x32_calls(_: Targets) -> Outcome:
    """Make system calls by the numbers of the x32 ABI."""
    if platform.machine() != "x86_64":
        return denied("no such numbers here")
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(ctypes.c_long(_X32 | 39))
    return allowed("getpid") if answer == os.getpid() else denied(f"errno {ctypes.get_errno()}")
