"""The porter as a process: it reads what containers say, so it is not the worker, and has no privilege.

    python -m jitney.drivers.network.names.process DESCRIPTOR

Messages are JSON, one a packet: {"number", "do": "open" | "admit" | "forget" | "shut", ...}, with the sockets of a hub
at "open". Each is answered {"number", "failed": "" or why}; {"refused": [hub, address, name, why]} comes by itself. It
ends with the worker, which closes the other end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  (asked for later, when we may not be able to read it)
import ctypes
import encodings.idna  # noqa: F401
import json
import os
import resource
import socket
import sys
from typing import Any

from jitney.drivers.network.names.porter import Porter

MESSAGE_BYTES_MAX = 128 * 1024
SOCKETS = 4
NOBODY = 65_534
_PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG, _SIGKILL = 38, 1, 9


def main(descriptor: int) -> None:
    """See the module."""
    give_up_privileges()
    with socket.socket(fileno=descriptor) as control:
        control.setblocking(False)
        asyncio.run(serve(control))


def give_up_privileges() -> None:
    """Become nobody, if we are root; never gain anything again; hold as many connections as we may."""
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError:
            # Root of a user namespace that has no such user is nobody outside already.
            if _is_root_of_the_machine():
                raise
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_root_of_the_machine() -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


async def serve(control: socket.socket) -> None:
    """Do what we are told, until nobody is there to tell."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    def tell(message: dict[str, Any]) -> None:
        try:
            control.send(json.dumps(message).encode())
        except BlockingIOError:
            pass  # a worker that reads nothing misses what was refused; it asks again for the rest
        except OSError:
            ended.set()

    porter = Porter(lambda *refused: tell({"refused": refused}))

    async def perform(message: dict[str, Any], descriptors: list[int]) -> None:
        failed = ""
        try:
            await _perform(porter, message, descriptors)
        except (KeyError, OSError, ValueError) as error:
            failed = f"{type(error).__name__}: {error}"
        tell({"number": message["number"], "failed": failed})

    def read() -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, SOCKETS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            ended.set()
            return
        task = asyncio.create_task(perform(json.loads(data), descriptors))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(control.fileno(), read)
    await ended.wait()
    loop.remove_reader(control.fileno())


async def _perform(porter: Porter, message: dict[str, Any], descriptors: list[int]) -> None:
    hub_id = message["hub"]
    if message["do"] == "open":
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in sockets:
            sock.setblocking(False)
        await porter.open(hub_id, sockets, message["refused"])
    elif message["do"] == "admit":
        porter.admit(hub_id, message["address"], message["names"], message["cidrs"])
    elif message["do"] == "forget":
        porter.forget(hub_id, message["address"])
    elif message["do"] == "shut":
        porter.shut(hub_id)


if __name__ == "__main__":
    main(int(sys.argv[1]))
