"""Files of a mounted volume are brought into memory before a container asks for them: as much as there is room for.

Nothing is copied: the kernel is told that they will be needed (`posix_fadvise`), reads them in the background, and
drops them again if somebody else needs the room.
"""

from __future__ import annotations

import logging
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

log = logging.getLogger("jitney.worker")

STEP_BYTES = 64 * 1024 * 1024  # that the kernel is told of at a time
SHARE = 2  # of the memory that is free, one of so many parts is used
FILES_MAX = 10_000
SECONDS_MAX = 600.0


def room_bytes() -> int:
    """What prefetching may bring into memory now."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024 // SHARE
    return 0


def wanted(layers: Sequence[Path], patterns: Sequence[str], sub_path: str = "") -> Iterator[Path]:
    """The files of a volume that match, each once: by the name or by the path of it, or of a link to it.

    Args:
        layers: its folders, lowest first; what a higher one has is seen instead.
        patterns: such as "*.safetensors" or "models/*/tokenizer.json"; '*' matches '/' too.
        sub_path: only what is below that folder.
    """
    seen: set[str] = set()
    for layer in reversed(layers):
        for folder, _, names in os.walk(layer / sub_path):
            for name in sorted(names):
                path = posixpath.join(os.path.relpath(folder, layer), name).removeprefix("./")
                shown = posixpath.relpath(path, sub_path) if sub_path else path
                if path in seen or not any(fnmatchcase(shown, one) or fnmatchcase(name, one) for one in patterns):
                    continue
                seen.add(path)
                found = _file_at(layers, path)
                if found is not None and str(found) not in seen:
                    seen.add(str(found))
                    yield found


def _file_at(layers: Sequence[Path], path: str, links_left: int = 8) -> Path | None:
    """The plain file that a path of the volume leads to. No link is followed by the kernel."""
    for layer in reversed(layers):
        full = layer / path
        with suppress(OSError):
            if full.is_symlink():
                target = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.readlink(full)))
                is_inside = links_left and not target.startswith(("/", "../")) and target != ".."
                return _file_at(layers, target, links_left - 1) if is_inside else None
            if full.is_file():
                return full
            if full.exists():
                return None
    return None


def prefetch(files: Iterator[Path], room: int, *, now_s: Callable[[], float] = time.monotonic) -> int:
    """Have files read into memory, in order, as long as there is room: how many bytes. Blocks as disks do."""
    until_s, told = now_s() + SECONDS_MAX, 0
    for number, path in enumerate(files):
        if told >= room or number >= FILES_MAX or now_s() > until_s:
            break
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it was collected meanwhile
        try:
            size = min(os.fstat(file).st_size, room - told)
            for at in range(0, size, STEP_BYTES):
                os.posix_fadvise(file, at, min(STEP_BYTES, size - at), os.POSIX_FADV_WILLNEED)
            told += size
        finally:
            os.close(file)
    return told
