"""What a freshly forked container does to itself before user code runs, and how it ends.

On Linux a container is a "child subreaper": what its processes leave behind becomes its child, so that it can end it.
Elsewhere that is missing, and nothing else changes.
"""

from __future__ import annotations

import gc
import json  # as `resource`
import os
import resource  # here, so that no fork has to: an import touches much of what it shares with its template
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jitney.runner import state
from jitney.runner.failures import format_traceback
from jitney.runner.link import Link, close_in_child

_PR_SET_CHILD_SUBREAPER = 36
END_ROUNDS_MAX = 100  # of killing descendants: each may show new ones

_libc: Any = None


def prepare_prctl() -> None:
    """Load what `prctl` needs; in the template, so that its forks have it."""
    global _libc
    if sys.platform == "linux" and _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)


def libc() -> Any:
    """The C library, once `prepare_prctl` has loaded it; None where it is not needed."""
    return _libc


def prctl(option: int, value: int) -> None:
    """Where there is none, nothing happens."""
    if _libc is not None:
        _libc.prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def detach_from_template() -> None:
    """A session of its own, and without the template's only signal handler. What the user's import set up stays."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    adopt_orphans()


def set_up(message: dict[str, Any], stdout: int, stderr: int) -> None:
    """Output, folder, environment and limits, as a FORK message says."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for descriptor in {stdout, stderr} - {1, 2}:
        os.close(descriptor)
    for name, value in (message.get("env") or {}).items():
        os.environ[name] = value  # not `update`, which touches memory that a fork shares till then
    if message.get("private") is not None:
        for name, value in read_private(message["private"]).items():
            os.environ[name] = value
            state.private += (name,)
    os.environ["JITNEY_IS_REMOTE"] = "1"
    os.environ["JITNEY_TASK_ID"] = str(message["container"])
    if message.get("cwd"):
        os.chdir(message["cwd"])
    limits = message.get("rlimits")
    if limits:
        for name, (soft, hard) in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))


def read_private(descriptor: int) -> dict[str, str]:
    """The variables that are for this process alone; the pipe is closed."""
    with open(descriptor, "rb") as pipe:
        return {str(name): str(value) for name, value in json.loads(pipe.read()).items()}


@contextmanager
def without_private() -> Iterator[None]:
    """In the block, variables that came from secrets are not there."""
    taken = {name: os.environ.pop(name) for name in state.private if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def join(groups: Sequence[int]) -> None:
    """Enter control groups, by descriptors that whoever made them has opened."""
    for group in groups:
        os.write(group, b"0")
        os.close(group)


def line_buffer_output() -> None:
    """Whole lines reach the log as they are printed, though it is a pipe."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)


def reseed() -> None:
    """Give this fork random numbers of its own: those of the libraries' common generators.

    `secrets`, `uuid.uuid4` and `os.urandom` ask the system. OpenSSL and `tempfile` know a fork by its process id, which
    in a process namespace of its own may be that of the template. Generators that user code made (`random.Random()`,
    `numpy.random.default_rng()`) are not known here.
    """
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    ssl = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None  # type: ignore[attr-defined]
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))
    torch = sys.modules.get("torch")
    if torch is not None:
        # Not torch.manual_seed: for devices that are not initialised it queues a call with a formatted stack, 9 ms.
        # They seed themselves from the system when they are initialised, which no fork has done.
        torch.default_generator.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)


def prepare_reseed() -> None:
    """In a template: OpenSSL sets its generator up at the first use, which would cost every fork 0.6 MiB."""
    ssl = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_bytes(1)


def guard_forks(link: Link) -> Callable[[], None]:
    """Have processes that user code forks let go of the link. The function ends one that comes back from user code."""
    is_child = False

    def after_fork() -> None:
        nonlocal is_child
        is_child = True
        close_in_child(link)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGURG, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def guard() -> None:
        if is_child:
            _leave_child()

    os.register_at_fork(after_in_child=after_fork)
    return guard


def _leave_child() -> None:
    """End as a script would whose last line was reached, or that raised."""
    error = sys.exc_info()[1]
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        code = 1
        os.write(2, format_traceback(error).encode(errors="replace"))
    flush_output()
    os._exit(code & 0xFF)


def flush_output() -> None:
    """Whatever the streams are by now."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the user's own object, or a closed one
            pass


def end(code: int) -> None:
    """End this process: exit functions, output, and no descendant left behind. Does not return."""
    import atexit

    kill_children(set())  # first: exit functions (that of `multiprocessing`) wait for children that nobody ends
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        os.write(2, format_traceback(error).encode(errors="replace"))
    flush_output()
    kill_children(set())
    os._exit(code)


def children() -> set[int]:
    """Processes whose parent this one is; empty where the system does not tell."""
    found: set[int] = set()
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        return found
    return found


def is_process(pid: int) -> bool:
    """Whether the number is of a process, and not of one of its threads, which gVisor lists among children too."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return f"\nTgid:\t{pid}\n" in file.read(1000)
    except OSError:
        return False  # it has gone


def kill_children(spared: set[int]) -> None:
    """SIGKILL all descendants but the children `spared` (and what is below them).

    The children of a killed process come to us, as we adopt orphans, and are found in the next round.
    """
    for _ in range(END_ROUNDS_MAX):
        doomed = set(filter(is_process, children() - spared))
        if not doomed:
            return
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        for pid in doomed:
            try:
                os.waitpid(pid, 0)
            except OSError:
                continue


def freeze() -> None:
    """Before forking: collect what is garbage, and keep the collector away from what is shared."""
    gc.collect()
    gc.freeze()


def remember(config: dict[str, Any]) -> None:
    """Make Launch.config what `jitney.runner.state` answers from."""
    state.config = config
