"""Which trees of files may be made, and what they are called.

Paths come from a client and name files on the server's disk, so they are taken as hostile: what is not plainly a path
below the import root is refused, by a sentence that says what is wrong with it. Two paths that some disk takes for one
(they differ only in case, or in how an accent is written) are refused everywhere, for the tree that they make would
depend on the machine.

Absolute paths are those of a container. `/root` is the working folder, as with Modal, and here that is the import
root: '/root/data/x' is 'data/x'. Elsewhere a container of the process runtime has no file system of its own to put
anything into, and that is said rather than done by halves.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
from jitney.values.sources import SourceFile

REMOTE_ROOT = "/root"
FILES_MAX = 100_000
PATH_BYTES_MAX = 1_024
NAME_BYTES_MAX = 255

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def manifest(files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The tree that the files make: paths relative to the import root, sorted, each once.

    Raises:
        InvalidError: a path that may not be, two files that are in each other's way, or too many.
        UnsupportedError: an absolute path outside `/root`.
    """
    if len(files) > FILES_MAX:
        raise InvalidError(
            f"{len(files):,} files are too many for one source: {FILES_MAX:,} may be",
            hint="leave out what the containers do not need",
        )
    tree: dict[str, SourceFile] = {}
    for file in files:
        if not _DIGEST.fullmatch(file.digest):
            raise InvalidError(f"{file.path[:100]!r} has no SHA-256 digest")
        path = relative(file.path)
        known = tree.setdefault(path, SourceFile(path, file.digest, file.executable))
        if (known.digest, known.executable) != (file.digest, file.executable):
            raise InvalidError(f"two different files are to be at {path!r}", hint="ship them to different paths")
    _check_apart(tree)
    return tuple(tree[path] for path in sorted(tree))


def relative(path: str) -> str:
    """`path` below the import root.

    >>> relative("/root/pkg/mod.py")
    'pkg/mod.py'

    Raises:
        InvalidError: it is not a path that may be.
        UnsupportedError: it is absolute and outside `/root`.
    """
    shown = repr(path[:100])
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidError(f"{shown} is not text") from None
    if not 0 < size <= PATH_BYTES_MAX:
        raise InvalidError(f"a path has from 1 to {PATH_BYTES_MAX:,} bytes, not {size:,}: {shown}")
    if _CONTROL.search(path) or "\\" in path:
        raise InvalidError(f"{shown} has a control character or a backslash", hint="rename the file")
    parts = path.split("/")
    if ".." in parts or "." in parts or "" in parts[1:] or parts == [""]:
        raise InvalidError(f"{shown} has an empty, '.' or '..' part", hint="give the path in its plain form")
    for part in parts:
        if len(part.encode()) > NAME_BYTES_MAX:
            raise InvalidError(f"a name in {shown} is over {NAME_BYTES_MAX} bytes")
    if not path.startswith("/"):
        return path
    if not path.startswith(REMOTE_ROOT + "/"):
        raise UnsupportedError(
            f"{shown} is outside {REMOTE_ROOT}: containers of this runtime have no file system of their own",
            hint=f"ship it to a relative path, or below {REMOTE_ROOT}, which is the folder that code starts in",
        )
    return path[len(REMOTE_ROOT) + 1 :]


def source_id(tree: Sequence[SourceFile]) -> str:
    """The id of a manifest: equal trees, equal ids."""
    digest = hashlib.sha256()
    for file in tree:
        digest.update(f"{file.path}\0{file.digest}\0{int(file.executable)}\n".encode())
    return ids.make(ids.SOURCE, digest.digest())


def _check_apart(tree: dict[str, SourceFile]) -> None:
    """No two paths that a disk may take for one, and no file where a folder has to be."""
    seen: dict[str, tuple[str, bool]] = {}  # as a disk may see it -> (path, whether it is a file)
    for path in tree:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            prefix, is_file = "/".join(parts[:depth]), depth == len(parts)
            known, was_file = seen.setdefault(_folded(prefix), (prefix, is_file))
            if known != prefix:
                raise InvalidError(
                    f"{known!r} and {prefix!r} are the same path on some disks", hint="rename one of them"
                )
            if was_file != is_file:
                raise InvalidError(f"{prefix!r} is to be a file and a folder", hint="rename one of them")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
