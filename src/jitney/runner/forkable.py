"""Whether a process that has imported the user's module can be forked, and why not.

A fork has one thread. What the other threads held or would have done stays as it was for ever:

- Python threads: a lock that one of them holds is never released in the fork.
- GNU OpenMP: once a parallel region has run (`torch` and `scikit-learn` do that for any real work), its pool exists,
  and the next parallel region in the fork waits for threads that are not there. Importing such a library is harmless.
- CUDA refuses to work in a fork of a process that has initialised it.

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


def python_threads() -> int:
    """Python threads but the main one."""
    return len(sys._current_frames()) - 1


def native_threads() -> int:
    """Threads of this process but the main one, Python's or not; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task")) - 1
    except OSError:
        return 0


def obstacles() -> dict[str, int]:
    """What stands against forking this process: in words -> how many threads (at least 1). Empty if nothing does."""
    found: dict[str, int] = {}
    threads = python_threads()
    if threads:
        found["Python threads"] = threads
    others = native_threads() - threads
    if others > 0:
        libraries = _mapped_libraries()
        pool = others - sum(_openblas_threads(path) for path in libraries if "openblas" in os.path.basename(path))
        if pool > 0 and any("libgomp" in path for path in libraries):
            found["a pool of OpenMP threads"] = pool
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        found["CUDA"] = 1
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
