"""The program that a pod's first process becomes: it waits for ever, in one page of memory.

As Python it would keep three MiB that no other process shares, for each container. What it has to do the kernel does
for it: children of a process that ignores SIGCHLD are collected as they end. So all that is left is to exist. The
program is a loop around one system call, made here as the bytes of an ELF file, for the processors that we know.
"""

from __future__ import annotations

import os
import struct

_BASE = 0x400000
_HEADERS = 64 + 56
# x86_64: loop: mov eax, 34 (pause); syscall; jmp loop
# aarch64: loop: x0-x3 = 0; x8 = 73 (ppoll); svc 0; b loop
_CODE = {
    "x86_64": (62, bytes.fromhex("b8220000000f05ebf7")),
    "aarch64": (
        183,
        struct.pack("<7I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA),
    ),
}


def program(machine: str) -> bytes:
    """The file; b'' for a processor that we do not know."""
    if machine not in _CODE:
        return b""
    number, code = _CODE[machine]
    size = _HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return identity + header + segment + code


def open_program() -> int:
    """A descriptor to execute it by; -1 where that cannot be had."""
    found = program(os.uname().machine)
    if not found or not hasattr(os, "memfd_create"):
        return -1
    fd = os.memfd_create("pod", os.MFD_CLOEXEC)
    os.write(fd, found)
    return fd


def become(fd: int) -> None:
    """Become it; returns if that cannot be."""
    if fd >= 0:
        try:
            os.execve(fd, ["pod"], {})
        except OSError:
            return
