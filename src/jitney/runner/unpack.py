"""Unpacks one layer of an image into a folder that an overlay file system takes as a layer.

    python -I -S -E unpack.py TARGET [--bytes N] [--ids INSIDE:OUTSIDE:COUNT] [--files N] [--most N] [--open] < LAYER

The archive is a stranger's. Three things keep it in its folder:

- Nothing in it is looked up by path. Each folder on the way is opened from the one above it and never through a link;
  files are created and never opened. A name that leads out, a name that is there already, a hard link out of the
  layer, a device: the archive is refused as a whole.
- Where the kernel allows it, the process that reads it is root only of a user namespace, without a network, and sees
  no file system but TARGET (`--open`: not tried).
- What it may fill is limited: bytes, files, and how much larger than its compressed form it may be.

`.wh.name` ("this is gone") becomes a character device 0:0, `.wh..wh..opq` ("all below is gone") an attribute: the forms
that overlay file systems understand when mounted with `userxattr`. Owners go through `--ids`; those that cannot be
given are root's. Extended attributes are not taken: those of the security kind would be a way around
the wall, and `user.overlay.*` a way to forge what is gone. Devices in /dev are left out, as containers have their own.

What came of it is one line of JSON on standard output (before it, lines that tell how far it is); the exit code says
the rest: 0, or a key of `EXITS`. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

if __name__ == "__main__":  # by path, isolated: the package's modules by their names, without what its heads import
    for _name, _folder in (("jitney", ".."), ("jitney.runner", ".")):
        sys.modules[_name] = ModuleType(_name)
        sys.modules[_name].__path__ = [os.path.join(os.path.dirname(os.path.abspath(__file__)), _folder)]

from jitney.runner import tarstream
from jitney.runner.layer import FILES_MAX, FOLDER_FLAGS, FOLDER_MODE, Layer
from jitney.runner.tarstream import Refused, Stream, Unreadable

REFUSED, FULL, UNREADABLE, FAILED = 3, 4, 5, 6
EXITS = {REFUSED: "refused", FULL: "disk full", UNREADABLE: "unreadable", FAILED: "failed"}

BYTES_MAX = 1 << 40
TELL_BYTES = 128 << 20  # a line of progress for so much

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 1 << 28, 1 << 30
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

Ids = tuple[tuple[int, int, int], ...]  # (inside, outside, count)


def unpack(
    raw: tarstream.Readable,
    root: int,
    *,
    owner: Callable[[int], int | None],
    raw_bytes: int | None = None,
    files_max: int = FILES_MAX,
    bytes_max: int = BYTES_MAX,
    zstd: Callable[[], Any] | None = None,
    tell: Callable[[int, int], None] = lambda plain, files: None,
) -> dict[str, object]:
    """Fill the empty folder `root` with what the archive holds, and say what that was.

    Raises:
        Refused: the archive is damaged or hostile.
        OSError: the file system refused.
        Unreadable: its compression is not known here.
    """
    stream = Stream(raw, raw_bytes=raw_bytes, bytes_max=bytes_max, zstd=zstd)
    layer = Layer(root, files_max=files_max, owner=owner)
    told = 0
    for entry in tarstream.entries(stream):
        layer.add(entry, stream)
        if stream.count - told >= TELL_BYTES:
            told = stream.count
            tell(stream.count, layer.files)
    stream.drain()
    layer.finish()
    return {
        "diff_id": stream.diff_id,
        "bytes": stream.count,
        "files": layer.files,
        "unowned": layer.unowned,
        "left_out": layer.left_out,
        "hides_all": layer.hides_all,
    }


# ------------------------------------------------------------------------------------------------- the wall


def owner_through(ids: Ids) -> Callable[[int], int | None]:
    """Owners as a map has them: for processes that may give files away. No map: nobody may."""

    def owner(inside: int) -> int | None:
        for first, outside, count in ids:
            if first <= inside < first + count:
                return outside + inside - first
        return None

    return owner


def confine(root: int, ids: Ids) -> bool | None:
    """Go behind a wall, in a child: True there. None here, once the child has ended well; it ends this process if not.

    False: the kernel does not allow it, and nothing has changed.
    """
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready[0])
        os.close(go[1])
        return _go_behind(root, ready[1], go[0])
    os.close(ready[1])
    os.close(go[0])
    is_there = os.read(ready[0], 1) == b"y"
    if is_there and _write_maps(child, ids):
        os.write(go[1], b"y")
    os.close(go[1])
    # The child says that it is root there: only then is it too late to do without.
    is_in = is_there and os.read(ready[0], 1) == b"y"
    os.close(ready[0])
    _, status = os.waitpid(child, 0)
    if not is_in:
        return False
    code = os.waitstatus_to_exitcode(status)
    if code:
        sys.stdout.flush()
        os._exit(code if code > 0 else 128 - code)
    return None


def _go_behind(root: int, ready: int, go: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS):
        os._exit(FAILED)
    os.write(ready, b"y")
    if os.read(go, 1) != b"y":
        os._exit(FAILED)
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.fchdir(root)
        os.chroot(".")
    except OSError:
        os._exit(FAILED)
    os.write(ready, b"y")
    os.close(ready)
    os.close(go)
    # From here on an import would find what the archive brings.
    sys.path.clear()
    sys.meta_path.clear()
    return True


def _write_maps(child: int, ids: Ids) -> bool:
    lines = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ids)
    groups = lines if os.geteuid() == 0 else f"0 {os.getegid()} 1\n"
    try:
        if os.geteuid() != 0:
            with open(f"/proc/{child}/setgroups", "w") as file:
                file.write("deny")
        for name, text in (("uid_map", lines), ("gid_map", groups)):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(text)
    except OSError:
        return False
    return True


def _zstd() -> Callable[[], Any] | None:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
    except ImportError:
        return None
    return zstd.ZstdDecompressor  # type: ignore[no-any-return, unused-ignore]


def _arguments(argv: list[str]) -> tuple[str, dict[str, str]]:
    options: dict[str, str] = {}
    target = ""
    words: Iterator[str] = iter(argv)
    for word in words:
        if word == "--open":
            options["open"] = "y"
        elif word.startswith("--"):
            options[word[2:]] = next(words, "")
        else:
            target = word
    if not target or set(options) - {"open", "bytes", "ids", "files", "most"}:
        sys.exit("usage: unpack.py TARGET [--bytes N] [--ids INSIDE:OUTSIDE:COUNT] [--files N] [--most N] [--open]")
    return target, options


def _ids(text: str) -> Ids:
    """What the map says; without one, this user is root of the layer and nobody else is there."""
    if not text:
        return ((0, os.geteuid(), 1),)
    parts = [tuple(int(number) for number in part.split(":")) for part in text.split(",")]
    return tuple((inside, outside, count) for inside, outside, count in parts)


def main(argv: list[str]) -> int:
    """As a script: see the head of this file."""
    target, options = _arguments(argv)
    ids = _ids(options.get("ids", ""))
    is_root = os.geteuid() == 0
    zstd = _zstd()
    root = os.open(target, FOLDER_FLAGS)
    os.umask(0)
    if is_root:
        os.fchown(root, *[owner_through(ids)(0) or 0] * 2)
    os.fchmod(root, FOLDER_MODE)
    behind = False if "open" in options else confine(root, ids)
    if behind is None:
        return 0
    if behind:
        owner = owner_through(tuple((inside, inside, count) for inside, _, count in ids))
    else:
        owner = owner_through(ids if is_root else ())
    try:
        result = unpack(
            io.FileIO(0, closefd=False),
            root,
            owner=owner,
            raw_bytes=int(options["bytes"]) if "bytes" in options else None,
            files_max=int(options.get("files", FILES_MAX)),
            bytes_max=int(options.get("most", BYTES_MAX)),
            zstd=zstd,
            tell=lambda plain, files: _say({"bytes": plain, "files": files}),
        )
    except Refused as error:
        return _fail(REFUSED, str(error))
    except Unreadable as error:
        return _fail(UNREADABLE, str(error))
    except OSError as error:
        code = FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else FAILED
        name = error.filename
        where = f"{os.fsdecode(name)!r}: " if isinstance(name, str | bytes) else ""
        return _fail(code, f"{where}{error.strerror}")
    _say({**result, "walled": behind})
    return 0


def _say(line: dict[str, object]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def _fail(code: int, text: str) -> int:
    os.write(2, text.encode(errors="backslashreplace") + b"\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
