"""Which system calls a container may make: seccomp filters, computed from lists of names.

A profile is data: the calls that are allowed, and rules for those whose arguments decide. All else is refused: a call
that we know and do not want with EPERM, and one that we do not know with ENOSYS, as by a kernel that is older than the
program, so that the program does without it. `program` turns a profile into the bytes of a filter, purely;
`install` puts such bytes in force for this process, all its threads and all that it will ever start.

    container   what ordinary programs need, and nothing that reaches beyond the container
    template    the same, and joining namespaces (setns). Its forks put "container" on top: the stricter answer holds
    build       "container", and what package managers need: chroot, and making any kind of file
    x+fake_chown  profile x where changes of owner and of identity succeed and do nothing: for walls with a single id,
                where they would fail and package managers with them

The tree of comparisons has about eight steps to any call. The kernel walks it for every number when a filter is
installed and remembers which are always allowed, so that those (nearly all that programs make) do not run it at all.
What a filter cannot see is what pointers point to: so clone3 is answered with ENOSYS, and the C library takes clone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import Any, NamedTuple

from jitney.runner.wall.syscalls_table import MACHINES, SYSCALLS, number

EPERM, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = 1, 38, 93, 97  # Linux's, wherever this is computed

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
SUCCEED = _ERRNO  # "error 0": the call is not made, and has succeeded


def refuse(errno: int) -> int:
    """The verdict that a call fails with this error."""
    return _ERRNO | errno


class Test(NamedTuple):
    """Whether the low 32 bits of an argument, masked, are one of `values`. The kernel looks at no more of these."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFF_FFFF


class Clause(NamedTuple):
    """A verdict for calls that pass all tests."""

    tests: tuple[Test, ...]
    verdict: int


Rule = tuple[Clause, ...]  # the first that fits; the last has no tests


class Profile(NamedTuple):
    """Names of calls -> what is done about them. Every other call is refused."""

    allowed: frozenset[str]
    absent: frozenset[str]  # ENOSYS instead of EPERM: programs look whether these are there
    rules: dict[str, Rule]
    fixed: dict[str, int]  # verdicts that go before all of that


FAKE_CHOWN = "+fake_chown"

_NAMESPACE_FLAGS = 0x7E02_0000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM = 1, 2
_TYPE_MASK = 0xF  # SOCK_CLOEXEC and SOCK_NONBLOCK are above
_NETLINK_ROUTE = 0
_IPPROTO_ANY, _IPPROTO_TCP, _IPPROTO_UDP = 0, 6, 17
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000
_PER_LINUX, _PERSONALITY_QUERY = 0, 0xFFFF_FFFF

_FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr flistxattr flock
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr listxattrat
    llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat
    renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs
    tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 io_cancel io_destroy
    io_getevents io_pgetevents io_setup io_submit pipe pipe2 poll ppoll pselect6 select signalfd signalfd4
"""
_MEMORY = """
    brk cachestat get_mempolicy madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    remap_file_pages set_mempolicy set_mempolicy_home_node
"""
_PROCESSES = """
    arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake
    get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority
    getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill pause pidfd_open
    pidfd_send_signal
    prctl prlimit64 process_mrelease restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address setfsgid
    setfsuid setgid setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid
    sigaltstack tgkill tkill uretprobe uprobe vfork wait4 waitid
"""
_TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
"""
_TALKING = """
    accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop
    semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
"""
_ITSELF = """
    getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp sysinfo uname
"""
_ABSENT = """
    clone3 io_uring_enter io_uring_register io_uring_setup listmount lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr open_tree_attr file_setattr statmount
"""
_IDENTITY = """
    chown fchown fchownat lchown setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid
"""

_ALLOWED = frozenset((_FILES + _WAITING + _MEMORY + _PROCESSES + _TIME + _TALKING + _ITSELF).split())


def _no_devices(argument: int) -> Rule:
    devices = Test(argument, (_S_IFCHR, _S_IFBLK), _S_IFMT)
    return (Clause((devices,), refuse(EPERM)), Clause((), ALLOW))


_RULES: dict[str, Rule] = {
    "clone": (Clause((Test(0, (0,), _NAMESPACE_FLAGS),), ALLOW), Clause((), refuse(EPERM))),
    "socket": (
        Clause((Test(0, (_AF_UNIX,)),), ALLOW),
        # why these errors: programs that look for what they can do without (audit, MPTCP) take them for "not there"
        Clause(
            (
                Test(0, (_AF_INET, _AF_INET6)),
                Test(1, (_SOCK_STREAM, _SOCK_DGRAM), _TYPE_MASK),
                Test(2, (_IPPROTO_ANY, _IPPROTO_TCP, _IPPROTO_UDP)),
            ),
            ALLOW,
        ),
        Clause((Test(0, (_AF_INET, _AF_INET6)), Test(1, (_SOCK_STREAM,), _TYPE_MASK)), refuse(EPROTONOSUPPORT)),
        Clause((Test(0, (_AF_INET, _AF_INET6)),), refuse(EPERM)),
        Clause((Test(0, (_AF_NETLINK,)), Test(2, (_NETLINK_ROUTE,))), ALLOW),
        Clause((Test(0, (_AF_NETLINK,)),), refuse(EPROTONOSUPPORT)),
        Clause((), refuse(EAFNOSUPPORT)),
    ),
    "socketpair": (Clause((Test(0, (_AF_UNIX,)),), ALLOW), Clause((), refuse(EAFNOSUPPORT))),
    "ioctl": (Clause((Test(1, (_TIOCSTI, _TIOCLINUX)),), refuse(EPERM)), Clause((), ALLOW)),
    "personality": (
        Clause((Test(0, (_PER_LINUX, _PERSONALITY_QUERY)),), ALLOW),
        Clause((), refuse(EPERM)),
    ),
    "mknod": _no_devices(1),
    "mknodat": _no_devices(2),
}

_CONTAINER = Profile(_ALLOWED, frozenset(_ABSENT.split()), _RULES, {})
PROFILES: dict[str, Profile] = {
    "container": _CONTAINER,
    "template": _CONTAINER._replace(allowed=_ALLOWED | {"setns"}),
    "build": _CONTAINER._replace(
        allowed=_ALLOWED | {"chroot", "mknod", "mknodat"},
        rules={name: rule for name, rule in _RULES.items() if not name.startswith("mknod")},
    ),
}


def fake_chown(profile: str) -> str:
    """The name of a profile's variant for walls with a single id."""
    return profile if profile.endswith(FAKE_CHOWN) else profile + FAKE_CHOWN


def profile_named(name: str) -> Profile:
    """A profile, or its variant."""
    base = name.removesuffix(FAKE_CHOWN)
    if base not in PROFILES:
        raise ValueError(f"no filter is named {name!r}: there are {', '.join(PROFILES)}, each also with {FAKE_CHOWN}")
    profile = PROFILES[base]
    if base != name:
        profile = profile._replace(fixed=profile.fixed | dict.fromkeys(_IDENTITY.split(), SUCCEED))
    return profile


# ------------------------------------------------------------------------------------------------ assembler

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # a word of seccomp_data; the accumulator with a constant; the verdict
_JUMP, _JUMP_EQUAL, _JUMP_AT_LEAST = 0x05, 0x15, 0x35
_AT_NUMBER, _AT_MACHINE, _AT_ARGUMENTS = 0, 4, 16  # in seccomp_data, little-endian
_AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_JUMP_MAX = 255

_INSTRUCTION = struct.Struct("<HBBI")
Instruction = tuple[int, int, int, int]  # code, steps to skip if true, and if false, constant
Code = list[Instruction]


@functools.lru_cache(maxsize=32)
def program(profile: str, machine: str) -> bytes:
    """The filter of a profile ("container", "build+fake_chown"...) for a machine (`platform.machine()`)."""
    if machine not in MACHINES:
        raise ValueError(f"there is no filter for {machine}: only for {', '.join(MACHINES)}")
    code: Code = [
        (_LOAD, 0, 0, _AT_MACHINE),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, KILL_PROCESS),  # 32-bit calls: their numbers mean something else
        (_LOAD, 0, 0, _AT_NUMBER),
        *_search(_ranges(profile_named(profile), machine)),
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _verdict(profile: Profile, name: str) -> int | Rule:
    if name in profile.fixed:
        return profile.fixed[name]
    if name in profile.rules:
        return profile.rules[name]
    if name in profile.allowed:
        return ALLOW
    return refuse(ENOSYS if name in profile.absent else EPERM)


def _ranges(profile: Profile, machine: str) -> list[tuple[int, int | Rule]]:
    """(first number, verdict) in order, each up to the next: all numbers there are, those of the x32 ABI among them."""
    found: list[tuple[int, int | Rule]] = []
    verdicts = {number(name, machine): _verdict(profile, name) for name in SYSCALLS}
    verdicts.pop(-1, None)
    unknown = refuse(ENOSYS)
    for at in range(max(verdicts) + 2):
        verdict = verdicts.get(at, unknown)
        if not found or found[-1][1] != verdict:
            found.append((at, verdict))
    return found


def _search(ranges: list[tuple[int, int | Rule]]) -> Code:
    """A balanced tree of comparisons, with verdicts for leaves."""
    if len(ranges) == 1:
        verdict = ranges[0][1]
        return [(_RETURN, 0, 0, verdict)] if isinstance(verdict, int) else _decide(verdict)
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    border = ranges[middle][0]
    if len(below) <= _JUMP_MAX:
        return [(_JUMP_AT_LEAST, len(below), 0, border), *below, *above]
    return [(_JUMP_AT_LEAST, 0, 1, border), (_JUMP, 0, 0, len(below)), *below, *above]


def _decide(rule: Rule) -> Code:
    """The clauses one after the other; a test that fails goes on to the next clause."""
    code: Code = []
    for tests, verdict in reversed(rule):
        clause: Code = [(_RETURN, 0, 0, verdict)]
        for test in reversed(tests):
            clause = [*_compare(test, past=len(clause)), *clause]
        code = clause + code
    return code


def _compare(test: Test, *, past: int) -> Code:
    """Falls through if the test passes; else skips `past` more steps."""
    code: Code = [(_LOAD, 0, 0, _AT_ARGUMENTS + 8 * test.argument)]
    if test.mask != 0xFFFF_FFFF:
        code.append((_AND, 0, 0, test.mask))
    last = len(test.values) - 1
    for at, value in enumerate(test.values):
        code.append((_JUMP_EQUAL, last - at, past if at == last else 0, value))
    return code


# ------------------------------------------------------------------------------------------------ in force

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1

_libc: Any = None


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def load() -> None:
    """Load what `install` needs; in a template, so that its forks have it."""
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long


def install(filter_program: bytes) -> None:
    """Put a filter in force for all threads of this process, for good. No program gains privileges from now on."""
    load()
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        raise _failed("no_new_privs")
    described = _SockFprog(len(filter_program) // _INSTRUCTION.size, filter_program)
    seccomp = number("seccomp", os.uname().machine)
    answer = _libc.syscall(
        ctypes.c_long(seccomp),
        ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_ulong(_SECCOMP_FILTER_FLAG_TSYNC),
        ctypes.byref(described),
    )
    if answer < 0:
        raise _failed("seccomp")
    if answer > 0:
        raise OSError(EPERM, f"seccomp: thread {answer} has a filter of its own, which cannot be replaced")


def _failed(what: str) -> OSError:
    errno = ctypes.get_errno()
    return OSError(errno, f"{what}: {os.strerror(errno)}")
