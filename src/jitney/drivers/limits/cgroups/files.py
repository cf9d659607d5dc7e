"""Reading and writing the files of control groups.

Every write is one system call on a descriptor, as its errors are the kernel's answer: a buffered file would tell them
when it is closed, if at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

READ_MAX = 1 << 16


def read(path: str) -> str:
    """A file's text; "" where there is none, or it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        pieces = []
        while piece := os.read(fd, READ_MAX):
            pieces.append(piece)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return b"".join(pieces).decode("utf-8", "replace")


def write(path: str, text: str) -> None:
    """Write a line.

    Raises:
        OSError: what the kernel says.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def try_write(path: str, text: str) -> bool:
    """Write a line that may be refused."""
    try:
        write(path, text)
    except OSError:
        return False
    return True


def pids(folder: str) -> list[int]:
    """The processes of a group; 0 stands for one that cannot be seen from here, and is left out."""
    return [int(line) for line in read(f"{folder}/cgroup.procs").split() if line.isdecimal() and line != "0"]


def remove(folder: str) -> bool:
    """Remove a group that should be empty; False: the kernel still has references."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # EBUSY, mostly
    return True


def subfolders(folder: str) -> list[str]:
    """The groups right below one."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def remove_all(folders: Iterable[str]) -> bool:
    """Remove several groups; whether none is left."""
    left = [folder for folder in folders if not remove(folder)]
    return not left
