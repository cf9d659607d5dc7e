"""Filters of system calls: as programs, on a machine of our own for them; and in force, in forks of this process."""

import ctypes
import errno
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.runner.wall import filters, landlock
from jitney.runner.wall.filters import ALLOW, KILL_PROCESS, refuse
from jitney.runner.wall.syscalls_table import MACHINES, SYSCALLS, number

HERE = platform.machine()
on_linux = pytest.mark.skipif(
    sys.platform != "linux" or HERE not in MACHINES, reason=f"needs Linux on one of {', '.join(MACHINES)}"
)
NAMES = [name + variant for name in filters.PROFILES for variant in ("", filters.FAKE_CHOWN)]
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AUDIT_ARCH_I386, AUDIT_ARCH_ARM = 0x40000003, 0x40000028
NEWNS, NEWUSER, NEWPID = 0x20000, 0x10000000, 0x20000000
THREAD_FLAGS = 0x3D0F00  # what glibc makes threads with
EPERM, ENOSYS = refuse(errno.EPERM), refuse(errno.ENOSYS)


# ------------------------------------------------------------------------------------------------ as programs


def run(program, arch, nr, arguments=()):
    """What a filter answers: the kernel's machine for them, in so far as it is used. Also the steps taken."""
    words = struct.pack(
        "<iIQ6Q", nr if nr < 1 << 31 else nr - (1 << 32), arch, 0, *arguments, *[0] * (6 - len(arguments))
    )
    accumulator, at, steps = 0, 0, 0
    while True:
        steps += 1
        code, if_true, if_false, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", words, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            at += k
        elif code == 0x15:
            at += if_true if accumulator == k else if_false
        elif code == 0x35:
            at += if_true if accumulator >= k else if_false
        elif code == 0x06:
            return k, steps
        else:
            raise AssertionError(f"an instruction that the kernel would not evaluate ahead: {code:#x}")


def answer(name, *arguments, profile="container", machine="x86_64"):
    return run(filters.program(profile, machine), AUDIT_ARCH[machine], number(name, machine), arguments)[0]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_answered_as_the_profile_says(name, machine):
    program, profile = filters.program(name, machine), filters.profile_named(name)
    names = {number(call, machine): call for call in SYSCALLS if number(call, machine) >= 0}
    for nr in range(1000):
        call, (found, steps) = names.get(nr), run(program, AUDIT_ARCH[machine], nr)
        if call is None:
            assert found == ENOSYS
        elif call in profile.fixed:
            assert found == profile.fixed[call]
        elif call in profile.rules:
            assert found in {verdict for _, verdict in profile.rules[call]}
        elif call in profile.allowed:
            assert found == ALLOW
        else:
            assert found == (ENOSYS if call in profile.absent else EPERM)
        assert steps <= 30


@pytest.mark.parametrize("name", NAMES)
def test_names_in_profiles_are_calls_and_are_decided_once(name):
    profile = filters.profile_named(name)
    groups = [profile.allowed, profile.absent, set(profile.rules)]
    assert all(group <= set(SYSCALLS) for group in groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_abi_do_not_get_in(machine):
    for name in NAMES:
        program = filters.program(name, machine)
        for arch in (AUDIT_ARCH_I386, AUDIT_ARCH_ARM, *(AUDIT_ARCH[m] for m in MACHINES if m != machine)):
            assert run(program, arch, 1)[0] == KILL_PROCESS
        assert run(program, AUDIT_ARCH[machine], 0x40000000 | 39)[0] == ENOSYS  # x32
        assert run(program, AUDIT_ARCH[machine], 0xFFFFFFFF)[0] == ENOSYS


@given(st.integers(0, 2**64 - 1))
def test_no_clone_makes_a_namespace(flags):
    is_plain = flags & 0x7E020000 == 0
    for profile in filters.PROFILES:
        for machine in MACHINES:
            assert answer("clone", flags, profile=profile, machine=machine) == (ALLOW if is_plain else EPERM)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=300)
def test_sockets_are_local_or_of_the_internet_or_ask_for_routes(domain, kind, protocol, above):
    kind_only = kind & 0xF
    allowed = (
        domain == 1
        or (domain in {2, 10} and kind_only in {1, 2} and protocol in {0, 6, 17})
        or (domain == 16 and protocol == 0)
    )
    high = above << 32  # that the kernel does not look at
    assert (answer("socket", domain | high, kind | high, protocol | high) == ALLOW) == allowed


SOCKETS = {
    (1, 1, 0): ALLOW, (1, 2, 0): ALLOW, (1, 5, 0): ALLOW, (2, 1, 0): ALLOW, (2, 0x80801, 6): ALLOW,
    (10, 2, 17): ALLOW, (16, 3, 0): ALLOW, (16, 0x80003, 0): ALLOW,
    (2, 3, 1): EPERM, (10, 3, 58): EPERM, (2, 2, 1): EPERM, (2, 2, 136): EPERM,
    (2, 1, 262): refuse(errno.EPROTONOSUPPORT), (2, 1, 132): refuse(errno.EPROTONOSUPPORT),
    (16, 3, 9): refuse(errno.EPROTONOSUPPORT), (16, 3, 12): refuse(errno.EPROTONOSUPPORT),
    (17, 3, 0): refuse(errno.EAFNOSUPPORT), (40, 1, 0): refuse(errno.EAFNOSUPPORT),
    (38, 5, 0): refuse(errno.EAFNOSUPPORT), (0, 1, 0): refuse(errno.EAFNOSUPPORT),
}  # fmt: skip


@pytest.mark.parametrize("arguments, verdict", SOCKETS.items())
def test_sockets_by_example(arguments, verdict):
    assert answer("socket", *arguments) == verdict


@pytest.mark.parametrize("profile", filters.PROFILES)
def test_characters_are_not_put_into_a_terminal(profile):
    for high in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert answer("ioctl", 0, 0x5412 | high, profile=profile) == EPERM
        assert answer("ioctl", 0, 0x541C | high, profile=profile) == EPERM
    assert answer("ioctl", 0, 0x5413, profile=profile) == ALLOW


def test_only_a_build_makes_devices_and_changes_its_root():
    for call, at in (("mknod", 1), ("mknodat", 2)):
        for kind, verdict in ((0o010000, ALLOW), (0o100000, ALLOW), (0o020000, EPERM), (0o060000, EPERM)):
            arguments = [0] * at + [kind | 0o644]
            assert answer(call, *arguments) == answer(call, *arguments, profile="template") == verdict
            assert answer(call, *arguments, profile="build") == ALLOW
    assert (answer("chroot"), answer("chroot", profile="build")) == (EPERM, ALLOW)


def test_only_a_template_joins_namespaces():
    assert [answer("setns", profile=p) for p in ("container", "template", "build")] == [EPERM, ALLOW, EPERM]


def test_personality_is_only_asked_for():
    assert [answer("personality", p) for p in (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)] == [ALLOW] * 3
    assert [answer("personality", p) for p in (0x40000, 0x8, 0x400000)] == [EPERM] * 3


@pytest.mark.parametrize("profile", filters.PROFILES)
def test_pretended_changes_of_owner_succeed(profile):
    fake = filters.fake_chown(profile)
    assert filters.fake_chown(fake) == fake
    for call in ("chown", "fchownat", "setgroups", "setresuid", "setfsgid"):
        assert (answer(call, profile=profile), answer(call, profile=fake)) == (ALLOW, refuse(0))
    assert answer("mount", profile=fake) == EPERM


# What no profile has, whoever asks. A call that is taken off here is one that somebody decided to allow.
REFUSED = """
    _sysctl acct add_key adjtimex bpf clock_adjtime clock_settime clone3 delete_module fanotify_init fanotify_mark
    file_setattr finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register
    io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl listmount lookup_dcookie lsm_get_self_attr
    lsm_list_modules lsm_set_self_attr migrate_pages modify_ldt mount mount_setattr move_mount move_pages
    name_to_handle_at nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key setdomainname
    sethostname settimeofday statmount swapoff swapon sysfs syslog umount2 unshare uselib userfaultfd ustat vhangup
"""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_to_all(name):
    profile = filters.profile_named(name)
    decided = profile.allowed | set(profile.rules) | {"chroot", "setns", "mknod", "mknodat"}
    assert set(SYSCALLS) - decided == set(REFUSED.split())
    assert not profile.allowed & set(REFUSED.split())


@pytest.mark.parametrize("profile", ["", "host", "container+", "+fake_chown"])
def test_an_unknown_profile_is_named(profile):
    with pytest.raises(ValueError, match="no filter is named"):
        filters.program(profile, "x86_64")
    with pytest.raises(ValueError, match="there is no filter for riscv64"):
        filters.program("container", "riscv64")


@pytest.mark.skipif(not os.path.exists("/usr/include/asm-generic/unistd.h"), reason="needs the kernel's headers")
def test_numbers_are_those_of_the_kernel_headers():
    for machine, path in (
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ):
        if os.path.exists(path):
            with open(path) as file:
                found = dict(re.findall(r"^#define __NR_(\w+)\s+(\d+)$", file.read(), re.MULTILINE))
            shared = {name: int(nr) for name, nr in found.items() if name in SYSCALLS}
            assert len(shared) > 250
            assert shared == {name: number(name, machine) for name in shared}


# ------------------------------------------------------------------------------------------------ in force

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name, *arguments):
    """0, or the error, of a system call."""
    ctypes.set_errno(0)
    result = libc.syscall(
        ctypes.c_long(number(name, HERE)), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    )
    return ctypes.get_errno() if result < 0 else 0


def inside(check, *profiles):
    """Run `check` in a fork under these filters: what it prints, and how it ended."""
    programs = [filters.program(profile, HERE) for profile in profiles or ("container",)]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            for one in programs:
                filters.install(one)
            os.write(write, repr(check()).encode())
            code = 0
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(pid, 0)
    return said, os.waitstatus_to_exitcode(status)


def gives(check, *profiles):
    said, code = inside(check, *profiles)
    assert code == 0, said
    return said


NO, ABSENT = errno.EPERM, errno.ENOSYS
REALLY = {  # call and arguments -> answer in a container
    ("unshare", NEWUSER): NO, ("unshare", 0x400): NO, ("setns", 0, 0): NO, ("mount", 0, 0, 0, 0, 0): NO,
    ("umount2", b"/proc", 2): NO, ("pivot_root", b".", b"."): NO, ("chroot", b"/"): NO, ("fsopen", b"tmpfs", 0): NO,
    ("open_tree", -100, b"/", 1): NO, ("move_mount", 0, b"", 0, b"", 0): NO, ("mount_setattr", 0, b"", 0, 0, 0): NO,
    ("bpf", 0, 0, 0): NO, ("perf_event_open", 0, 0, 0, 0, 0): NO, ("keyctl", 0, 0): NO, ("add_key", 0, 0, 0, 0, 0): NO,
    ("request_key", 0, 0, 0, 0): NO, ("ptrace", 0, 0, 0, 0): NO, ("process_vm_readv", 1, 0, 0, 0, 0, 0): NO,
    ("kexec_load", 0, 0, 0, 0): NO, ("init_module", 0, 0, 0): NO, ("reboot", 0, 0, 0): NO, ("swapon", b"x", 0): NO,
    ("acct", b"x"): NO, ("quotactl", 0, 0, 0, 0): NO, ("open_by_handle_at", 0, 0, 0): NO, ("userfaultfd", 1): NO,
    ("io_uring_setup", 1, 0): ABSENT, ("clone3", 0, 0): ABSENT, ("syslog", 10, 0, 0): NO, ("settimeofday", 0, 0): NO,
    ("clock_settime", 0, 0): NO, ("adjtimex", 0): NO, ("personality", 0x40000): NO, ("personality", 0xFFFFFFFF): 0,
    ("pidfd_getfd", 0, 0, 0): NO, ("clone", NEWUSER | 17, 0, 0, 0, 0): NO, ("clone", NEWPID | 17, 0, 0, 0, 0): NO,
    ("socket", 2, 3, 1): NO, ("socket", 17, 3, 0): errno.EAFNOSUPPORT, ("socket", 40, 1, 0): errno.EAFNOSUPPORT,
    ("socket", 1, 1, 0): 0, ("socket", 2, 1, 0): 0, ("socket", 16, 3, 0): 0,
    ("socket", 16, 3, 15): errno.EPROTONOSUPPORT,
    ("ioctl", 0, 0x5412, b"x"): NO, ("ioctl", 0, 0x5412 | 1 << 32, b"x"): NO, ("sethostname", b"x", 1): NO,
    ("mknodat", -100, b"/nowhere/device", 0o020666, 0): NO,
    ("mknodat", -100, b"/nowhere/pipe", 0o010666, 0): errno.ENOENT,
    ("getpid",): 0, ("getppid",): 0, ("sched_yield",): 0, ("membarrier", 0, 0): 0,
}  # fmt: skip


@on_linux
def test_the_kernel_answers_as_the_profile_says():
    found = eval(gives(lambda: [call(*key) for key in REALLY]))
    assert dict(zip(REALLY, found, strict=True)) == REALLY


@on_linux
def test_a_container_on_top_of_a_template_is_a_container():
    def joins():
        with open("/proc/self/ns/uts") as file:
            return call("setns", file.fileno(), 0), call("mount", 0, 0, 0, 0, 0)

    assert eval(gives(joins, "template"))[0] in ({0} if os.geteuid() == 0 else {NO})
    assert eval(gives(joins, "template", "container")) == (NO, NO)


@on_linux
def test_ownership_is_pretended(tmp_path):
    file = tmp_path / "f"
    file.touch()
    before = file.stat()

    def hand_over():
        os.chown(file, 12345, 12345)
        os.setgroups([7])
        os.setresuid(9, 9, 9)
        return os.stat(file).st_uid, os.getuid()

    assert gives(hand_over, "build+fake_chown") == repr((before.st_uid, os.getuid()))


@on_linux
def test_all_threads_are_behind_it():
    def from_another_thread():
        ready, answers = threading.Barrier(2), []
        installed = threading.Event()

        def work():
            ready.wait()
            installed.wait()
            answers.append(call("unshare", 0))

        thread = threading.Thread(target=work)
        thread.start()
        ready.wait()
        filters.install(filters.program("container", HERE))
        installed.set()
        thread.join()
        return answers

    assert gives(from_another_thread, "template") == f"[{NO}]"


@on_linux
def test_a_thread_with_a_filter_of_its_own_is_not_overlooked():
    def install():
        ready, done = threading.Event(), threading.Event()

        def alone():  # without the flag that takes the others along
            one = filters.program("container", HERE)
            described = filters._SockFprog(len(one) // 8, one)
            assert libc.syscall(number("seccomp", HERE), 1, 0, ctypes.byref(described)) == 0
            ready.set()
            done.wait()

        thread = threading.Thread(target=alone)
        thread.start()
        ready.wait()
        try:
            filters.install(filters.program("container", HERE))
        finally:
            done.set()
            thread.join()

    said, code = inside(install, "template")
    assert code == 1
    assert "has a filter of its own" in said


@on_linux
def test_what_is_in_force_is_inherited_and_shown():
    def look():
        done = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True, check=True)
        return dict(line.split(":\t") for line in done.stdout.splitlines() if line.startswith(("Secc", "NoNew")))

    shown = eval(gives(look, "template", "container"))
    assert (shown["NoNewPrivs"], shown["Seccomp"], shown["Seccomp_filters"]) == ("1", "2", "2")


@on_linux
@pytest.mark.skipif(HERE != "x86_64", reason="32-bit calls of x86")
def test_thirty_two_bit_calls_end_the_process():
    def by_the_old_gate():
        import mmap

        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
        return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

    assert inside(by_the_old_gate)[1] in {-signal.SIGSYS, -signal.SIGSEGV}  # the latter: the kernel has no such gate


PROGRAMS = {
    "python": "import sys, ssl, json, decimal; print('ok')",
    "subprocess": "import subprocess; print(subprocess.check_output(['/bin/sh', '-c', 'echo ok | cat'], text=True))",
    "sqlite": "import sqlite3; c = sqlite3.connect('a.db'); c.execute('pragma journal_mode=wal'); "
    "c.execute('create table t(x)'); c.commit(); print('ok')",
    "asyncio": """
import asyncio
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b''
    process = await asyncio.create_subprocess_exec('/bin/true')
    assert await process.wait() == 0
    print('ok')
asyncio.run(main())
""",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(abs, range(100))) == 4950
print('ok')
""",
    "multiprocessing": """
import multiprocessing, os
from multiprocessing import shared_memory
if __name__ == '__main__':
    for method in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(abs, [-1, 2]) == [1, 2]
    block = shared_memory.SharedMemory(create=True, size=100)
    block.close(); block.unlink()
    print('ok')
""",
    "files": """
import os, shutil, tempfile, fcntl, select, signal, mmap
with tempfile.NamedTemporaryFile() as f:
    f.write(b'x' * 9000); f.flush(); fcntl.flock(f, fcntl.LOCK_EX)
    shutil.copyfile(f.name, 'copy'); os.link('copy', 'link'); os.symlink('copy', 'soft'); os.replace('link', 'moved')
os.mkfifo('pipe'); os.chmod('copy', 0o600); os.utime('copy'); os.truncate('copy', 10); os.setxattr
os.memfd_create('m'); os.sched_setaffinity(0, os.sched_getaffinity(0)); os.getrandom(4); os.pidfd_open(os.getpid())
print('ok')
""",
    "names and interfaces": "import socket; socket.if_nameindex(); socket.getaddrinfo('localhost', 80); print('ok')",
    "numpy": """
try:
    import numpy
except ImportError:
    raise SystemExit(77)
a = numpy.random.rand(200, 200)
assert numpy.allclose(numpy.linalg.inv(a) @ a, numpy.eye(200), atol=1e-4)
print('ok')
""",
    "torch": """
try:
    import torch
except ImportError:
    raise SystemExit(77)
x = torch.randn(300, 300, requires_grad=True)
(x @ x).sum().backward()
print('ok')
""",
}


def python_with(module):
    """An interpreter that has a package, or this one."""
    for folder in (".venv-bench", ".venv"):
        path = os.path.join(os.path.dirname(__file__), "..", "..", folder, "bin", "python")
        if os.path.exists(path) and module in {"torch", "numpy"}:
            return path
    return sys.executable


@on_linux
@pytest.mark.parametrize("profiles", [("container",), ("template", "container"), ("build+fake_chown",)], ids="/".join)
@pytest.mark.parametrize("what", PROGRAMS)
def test_programs_work(what, profiles, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAMS[what])

    def start():
        os.chdir(tmp_path)
        done = subprocess.run(
            [python_with(what), "program.py"], capture_output=True, text=True, timeout=50, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = eval(gives(start, *profiles))
    if code == 77:
        pytest.skip(f"{what} is not installed")
    assert (code, out.strip()) == (0, "ok"), err


TOOLS = {
    "git": [
        ["git", "init", "-q", "r"],
        ["git", "-C", "r", "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "--allow-empty", "-m", "m"],
        ["git", "clone", "-q", "r", "s"],
    ],
    "gcc": [["gcc", "-O1", "-pthread", "a.c", "-o", "a"], ["./a"]],
    "tar": [["tar", "cf", "t.tar", "a.c"], ["tar", "xf", "t.tar"]],
}


@on_linux
@pytest.mark.parametrize("tool", TOOLS)
def test_tools_work(tool, tmp_path):
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    (tmp_path / "a.c").write_text(
        "#include <pthread.h>\nvoid *f(void *p) { return p; }\n"
        "int main(void) { pthread_t t; return pthread_create(&t, 0, f, 0) || pthread_join(t, 0); }\n"
    )

    def start():
        os.chdir(tmp_path)
        for command in TOOLS[tool]:
            done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
            if done.returncode:
                return command, done.stderr
        return "ok"

    assert gives(start) == "'ok'"


# ------------------------------------------------------------------------------------------------ Landlock

has_landlock = pytest.mark.skipif(
    sys.platform != "linux" or landlock.abi() == 0, reason="this kernel has no Landlock, or has it turned off"
)


def confined(check, *, read, write):
    def confine():
        enforced = landlock.restrict(read, write)
        return enforced, check()

    return inside(confine)


def tried(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return error.errno
    return 0


def test_rights_only_grow_with_the_kernel():
    for version in range(1, 9):
        assert landlock.rights(version) & landlock.rights(version + 1) == landlock.rights(version)
    assert [len(landlock.ruleset(version)) for version in (1, 3, 4, 5, 6, 7)] == [8, 8, 16, 16, 24, 24]


@has_landlock
def test_files_outside_are_given_up(tmp_path):
    for name in ("mine", "theirs", "seen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("x")
    mine, seen, theirs = (str(tmp_path / name / "f") for name in ("mine", "seen", "theirs"))

    def check():
        return [
            tried(open, mine), tried(open, mine, "w"), tried(os.mkdir, mine + "d"),
            tried(open, seen), tried(open, seen, "w"), tried(os.unlink, seen),
            tried(open, theirs), tried(open, theirs, "w"), tried(os.truncate, theirs, 0), tried(os.unlink, theirs),
            tried(os.rename, theirs, mine),
        ]  # fmt: skip

    said, code = confined(check, read=[str(tmp_path / "seen"), "/nowhere/at/all"], write=[str(tmp_path / "mine")])
    assert code == 0, said
    enforced, found = eval(said, {"Enforced": landlock.Enforced})
    no = errno.EACCES
    assert found[:8] == [0, 0, 0, 0, no, no, no, no]
    assert found[8:] == [no if enforced.truncation else 0, no, no]
    assert (enforced.files, enforced.missing) == (True, ("/nowhere/at/all",))
    assert (tmp_path / "theirs" / "f").read_text() == "x"


@has_landlock
def test_signals_stay_inside():
    if landlock.abi() < 6:
        pytest.skip("needs Landlock ABI 6 (Linux 6.12)")
    outside = os.getpid()
    said, code = confined(lambda: tried(os.kill, outside, 0), read=["/"], write=[])
    assert code == 0, said
    assert eval(said, {"Enforced": landlock.Enforced})[1] == errno.EPERM
