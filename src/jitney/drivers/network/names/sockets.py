"""Run as a program: goes into a hub and opens the sockets at which names are answered and carried.

    python -I -S sockets.py PID GATEWAY DESCRIPTOR

The hub is the network namespace of process PID, which belongs to its user namespace. The sockets go back through
DESCRIPTOR: UDP and TCP port 53 of GATEWAY, TCP ports 80 and 443 of every address. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

FREE_BIND = 15  # IP_FREEBIND: the address may be given to the hub later
BACKLOG = 512


def main(pid: int, gateway: str, descriptor: int) -> None:
    """See the module."""
    _enter(pid)
    opened = [
        _bound(socket.SOCK_DGRAM, gateway, 53),
        _bound(socket.SOCK_STREAM, gateway, 53),
        _bound(socket.SOCK_STREAM, "0.0.0.0", 80),
        _bound(socket.SOCK_STREAM, "0.0.0.0", 443),
    ]
    with socket.socket(fileno=descriptor) as answer:
        socket.send_fds(answer, [b"sockets"], [sock.fileno() for sock in opened])


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handles = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "net")}
    if _same(handles["net"], "net"):
        raise OSError(f"process {pid} has no network namespace of its own")
    for kind, handle in handles.items():
        if not _same(handle, kind) and libc.setns(handle, 0):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter the {kind} namespace of process {pid}: {os.strerror(number)}")


def _same(handle: int, kind: str) -> bool:
    return os.fstat(handle).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino


def _bound(kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, FREE_BIND, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(BACKLOG)
    return sock


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except OSError as error:
        sys.exit(error.strerror or str(error))
