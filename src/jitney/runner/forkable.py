"""Whether a process that has imported the user's module can be forked, and why not.

A fork has one thread. What the other threads held or would have done stays as it was for ever:

- Python threads: a lock that one of them holds is never released in the fork.
- GNU OpenMP: once a parallel region has run (`torch` and `scikit-learn` do that for any real work), its pool exists,
  and the next parallel region in the fork waits for threads that are not there. Importing such a library is harmless.
- Other native pools (polars, gRPC, tokio, ...) are known by the names that they give their threads.
- CUDA refuses to work in a fork of a process that has initialised it; contexts of other devices are alike.

OpenBLAS starts its threads as it is loaded, but stops and starts them around a fork. So they are counted out: the
library says how many it has.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_COUNTS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
)
_MACHINERY = frozenset({"threading", "concurrent", "queue", "asyncio", "socketserver", "selectors", "multiprocessing"})
_MIND_FORKS = ("jemalloc_bg",)  # stopped and started around a fork by their library
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/render", "/dev/accel", "/dev/vfio/")


def python_threads() -> list[str]:
    """Python threads but the main one, in words."""
    main = _main_thread()
    return [_describe(ident, frame) for ident, frame in sys._current_frames().items() if ident != main]


def native_threads() -> int:
    """Threads of this process but the main one, Python's or not; 0 where the system does not tell."""
    return max(0, len(_tasks()) - 1)


def obstacles() -> dict[str, int]:
    """What stands against forking this process: in words -> how many threads (at least 1). Empty if nothing does."""
    found: dict[str, int] = {}
    threads = python_threads()
    for words in threads:
        found[words] = found.get(words, 0) + 1
    others = native_threads() - len(threads)
    if others > 0:
        libraries = _mapped_libraries()
        pool = others - sum(_openblas_threads(path) for path in libraries if "openblas" in os.path.basename(path))
        if pool > 0 and any("libgomp" in path for path in libraries):
            found["a pool of OpenMP threads (libgomp)"] = pool
        for name in _named_threads():
            found[f"threads of a native library ({name})"] = 1
    for device in sorted(_open_devices()):
        found[f"an accelerator ({device} is open)"] = 1
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        found["CUDA, which torch has initialised"] = 1
    return found


def _main_thread() -> int:
    threading = sys.modules.get("threading")
    if threading is not None:
        return int(threading.main_thread().ident or 0)
    import _thread  # the caller is the main thread: who has threads without `threading` calls from there

    return _thread.get_ident()


def _describe(ident: int, frame: Any) -> str:
    """'the thread 'monitor' of tqdm'."""
    threading = sys.modules.get("threading")
    thread = getattr(threading, "_active", {}).get(ident)
    name = f" {thread.name!r}" if thread is not None else ""
    library = ""
    while frame is not None:  # from where it is to where it began: the outermost that is no machinery wins
        module = str(frame.f_globals.get("__name__") or "").split(".")[0]
        if module and module not in _MACHINERY:
            library = f" of {module}"
        frame = frame.f_back
    return f"the thread{name}{library}"


def _tasks() -> list[str]:
    try:
        return os.listdir("/proc/self/task")
    except OSError:
        return []


def _named_threads() -> list[str]:
    """Names that native libraries gave to their threads: those that do not mind forks left out.

    A thread inherits the name of the one that starts it, and Python (before 3.14) gives its threads none.
    """
    python = {str(one.native_id) for one in getattr(sys.modules.get("threading"), "_active", {}).values()}
    own = _thread_name(str(os.getpid()))
    names = {_thread_name(task) for task in _tasks() if task != str(os.getpid()) and task not in python}
    return sorted(name for name in names if name and name != own and not name.startswith(_MIND_FORKS))


def _thread_name(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _open_devices() -> set[str]:
    """Accelerators that this process has open: their contexts do not survive a fork."""
    found: set[str] = set()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in descriptors:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith(_DEVICES):
            found.add(target)
    return found


def _mapped_libraries() -> set[str]:
    with open("/proc/self/maps") as file:
        paths = {line.split(None, 5)[-1].strip() for line in file if ".so" in line}
    return {path for path in paths if path.startswith("/")}


def _openblas_threads(path: str) -> int:
    """Threads that an OpenBLAS has beside its caller."""
    import ctypes

    library: Any = ctypes.CDLL(path)
    for name in _COUNTS:
        try:
            return max(0, int(getattr(library, name)()) - 1)
        except AttributeError:
            continue
    return 0
