"""Using more than one's share. Each goes on to a bound that a machine survives, and is run only where a limit is said
to be in force: without one, nothing but the bound would stop it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable

from jitney.testing.probes.probe import ANY, HELD, LIMITED, SKIPPED, Outcome, Verdict, allowed, limited, probe
from jitney.testing.probes.system import libc, name_of
from jitney.testing.probes.targets import Targets

PROCESSES_MAX = 5_000
THREADS_MAX = 5_000
FILES_MAX = 300_000
INODES_MAX = 300_000
DISK_BYTES_MAX = 4 << 30
MEMORY_BYTES_MAX = 8 << 30
BLOCK_BYTES = 4 << 20
WATCHES_MAX = 100_000
WATCHED_S = 20  # a limit that somebody looks at now and then is one: too much was held for this long, or it is none


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="processes")
def fork_bomb(_: Targets) -> Outcome:
    """Fork without end."""
    children: list[int] = []
    try:
        while len(children) < PROCESSES_MAX:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError as error:
        return limited(f"{len(children)} processes, then {name_of(error.errno or 0)}")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
    return allowed(f"{PROCESSES_MAX} processes")


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="processes")
def thread_bomb(_: Targets) -> Outcome:
    """Start threads without end."""
    end, threads = threading.Event(), 0
    threading.stack_size(65_536)
    try:
        while threads < THREADS_MAX:
            threading.Thread(target=end.wait, daemon=True).start()
            threads += 1
    except (RuntimeError, MemoryError) as error:
        return limited(f"{threads} threads, then {error}")
    finally:
        end.set()
    return allowed(f"{THREADS_MAX} threads")


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="memory")
def memory_hog(_: Targets) -> Outcome:
    """Take memory without end."""
    return _in_sacrifice(_take_memory)


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="memory")
def hidden_memory_hog(_: Targets) -> Outcome:
    """Take memory that no process seems to have: in files without a name."""
    return _in_sacrifice(lambda: _fill(os.memfd_create("jitney-probe"), MEMORY_BYTES_MAX))


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="memory")
def buffer_hog(_: Targets) -> Outcome:
    """Take memory of the kernel by full sockets and pipes that nobody reads."""
    return _in_sacrifice(_take_buffers)


@probe(process=SKIPPED, oci=ANY, namespaces=HELD, gvisor=ANY, limit="memory")
def locked_memory(_: Targets) -> Outcome:
    """Lock memory, so that it cannot be swapped or reclaimed."""
    size = 1 << 30
    page = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if libc().mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)) == 0:
        return allowed("locked 1 GiB")
    return limited(f"{name_of(ctypes.get_errno())} beyond {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]} bytes")


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="shared memory")
def fill_shared_memory(_: Targets) -> Outcome:
    """Fill /dev/shm."""
    return _in_sacrifice(lambda: _fill_folder("/dev/shm"))


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="disk")
def fill_disk(_: Targets) -> Outcome:
    """Fill the disk by a file in the temporary folder."""
    return _in_sacrifice(lambda: _fill_folder(tempfile.gettempdir()))


@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="files")
def use_up_descriptors(_: Targets) -> Outcome:
    """Open files without end."""
    held: list[int] = []
    try:
        while len(held) < FILES_MAX:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return limited(f"{len(held)} files, then {name_of(error.errno or 0)}")
    finally:
        for fd in held:
            os.close(fd)
    return allowed(f"{FILES_MAX} files")


@probe(process=SKIPPED, oci=ANY, namespaces=HELD, gvisor=ANY, limit="files")
def use_up_watches(_: Targets) -> Outcome:
    """Watch files without end, by as many inotify instances as there are."""
    made = 0
    held: list[int] = []
    try:
        while made < WATCHES_MAX:
            fd = libc().inotify_init1(0)
            if fd < 0:
                return limited(f"{made} instances, then {name_of(ctypes.get_errno())}")
            held.append(fd)
            made += 1
    finally:
        for fd in held:
            os.close(fd)
    return allowed(f"{WATCHES_MAX} instances")


@probe(process=SKIPPED, oci=ANY, namespaces=HELD, gvisor=ANY, limit="files")
def use_up_terminals(_: Targets) -> Outcome:
    """Open terminals without end."""
    held: list[int] = []
    try:
        while len(held) < FILES_MAX:
            held += os.openpty()
    except OSError as error:
        return limited(f"{len(held) // 2} terminals, then {name_of(error.errno or 0)}")
    finally:
        for fd in held:
            os.close(fd)
    return allowed(f"{len(held) // 2} terminals")


# Last: where nothing but memory limits them, little of it is left then.
@probe(process=SKIPPED, oci=ANY, namespaces=LIMITED, gvisor=ANY, limit="disk")
def use_up_inodes(_: Targets) -> Outcome:
    """Make empty files without end."""
    folder = tempfile.mkdtemp()
    try:
        return _in_sacrifice(lambda: _make_files(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_sacrifice(use: Callable[[], Outcome]) -> Outcome:
    """Do it in a child that the kernel kills first when memory is short."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
            outcome = use()
            os.write(write, f"{outcome.verdict.value}:{outcome.detail}".encode())
        except MemoryError:
            os.write(write, b"limited:MemoryError")
        except BaseException as error:
            os.write(write, f"skipped:{type(error).__name__}: {error}".encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return limited(f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
    verdict, _, detail = said.partition(":")
    return Outcome(Verdict(verdict), detail)


def _take_memory() -> Outcome:
    held = []
    for taken in range(0, MEMORY_BYTES_MAX, BLOCK_BYTES):
        try:
            block = mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            return limited(f"{taken >> 20} MiB, then {name_of(error.errno or 0)}")
        block.write(b"\xa5" * BLOCK_BYTES)
        held.append(block)
    return allowed(f"{MEMORY_BYTES_MAX >> 20} MiB")


def _take_buffers() -> Outcome:
    held, taken = [], 0
    block = b"\xa5" * 65_536
    while taken < MEMORY_BYTES_MAX:
        try:
            pair = socket.socketpair()
        except OSError as error:
            return limited(f"{taken >> 20} MiB, then {name_of(error.errno or 0)}")
        held.append(pair)
        for sock in pair:
            sock.setblocking(False)
            try:
                while True:
                    taken += sock.send(block)
            except BlockingIOError:
                continue
            except OSError as error:
                return limited(f"{taken >> 20} MiB, then {name_of(error.errno or 0)}")
    return allowed(f"{taken >> 20} MiB")


def _make_files(folder: str) -> Outcome:
    for at in range(INODES_MAX):
        try:
            os.close(os.open(f"{folder}/{at}", os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            return limited(f"{at} files, then {name_of(error.errno or 0)}")
    time.sleep(WATCHED_S)
    return allowed(f"{INODES_MAX} files")


def _fill_folder(folder: str) -> Outcome:
    fd, path = tempfile.mkstemp(dir=folder)
    os.unlink(path)  # gone as soon as this process is
    outcome = _fill(fd, DISK_BYTES_MAX)
    if outcome.verdict is Verdict.ALLOWED:
        time.sleep(WATCHED_S)
    return outcome


def _fill(fd: int, bytes_max: int) -> Outcome:
    block = b"\xa5" * BLOCK_BYTES
    for taken in range(0, bytes_max, BLOCK_BYTES):
        try:
            os.write(fd, block)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}:
                return limited(f"{taken >> 20} MiB, then {name_of(error.errno)}")
            raise
    return allowed(f"{bytes_max >> 20} MiB")
