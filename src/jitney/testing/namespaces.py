"""Machines of network namespaces, made by a test for itself: nothing of the machine that runs the test is touched.

`apart` runs a function in a child with a network namespace of its own (for a user without privileges: in a user
namespace of its own too, where it is root). That child is "the machine". It makes `Place`s: processes that hold further
namespaces, in which functions can be performed. All of them end with the process that made them. `put_over` gives the
machine another file in place of one; `as_a_user` runs a function as somebody without privileges.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

from jitney.runner.wall.netlink import (
    Netlink,
    add_address,
    add_route,
    index_of,
    link_up,
    make_veth,
)

NEWNS, NEWUSER, NEWNET = 0x2_0000, 0x1000_0000, 0x4000_0000
MS_BIND, MS_REC_PRIVATE = 4096, 16384 | 1 << 18
USER = 65_533
TUN = "/dev/net/tun"
FILES = "/mnt"  # where a machine has its files
SILENCE_S = 1.0  # nothing answers in this time: the packet was dropped
MACHINE, INTERNET = "93.184.216.2", "93.184.216.1"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def possible() -> str:
    """Why this machine gives us no namespaces; "" = it does."""
    try:
        apart(lambda: None)
    except (AssertionError, OSError) as error:
        return f"no network namespaces here: {str(error).splitlines()[-1]}"
    return ""


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a machine of its own; what it returns (as JSON has it).

    Raises:
        AssertionError: it failed, with its traceback.
    """

    def enter() -> None:
        _unshare(NEWNET | NEWNS | (NEWUSER if os.geteuid() else 0))
        _mount("none", "/", "", MS_REC_PRIVATE)
        _mount("tmpfs", FILES, "tmpfs", 0)
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
            file.write("0")  # a new namespace has what the machine has, which may be a router
        with Netlink() as netlink:
            netlink.perform([link_up("lo")])

    return _in_a_child(enter, function, arguments)


def as_a_user(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run as a user without privileges, who may open /dev/net/tun as on most machines; we are root.

    Raises:
        AssertionError: it failed, with its traceback.
    """

    def enter() -> None:
        _unshare(NEWNS)
        _mount("none", "/", "", MS_REC_PRIVATE)
        _mount("tmpfs", FILES, "tmpfs", 0)
        if os.path.exists(TUN):
            tun = os.path.join(FILES, "tun")
            os.mknod(tun, 0o020000, os.stat(TUN).st_rdev)
            os.chmod(tun, 0o666)
            _mount(tun, TUN, "", MS_BIND)
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        _check(_libc.prctl(4, 1, 0, 0, 0))  # what is in /proc of us is ours again

    return _in_a_child(enter, function, arguments)


def put_over(path: str, text: str) -> None:
    """In this machine, `path` has this text."""
    file = os.path.join(FILES, path.replace("/", "_"))
    with open(file, "w", encoding="utf-8") as opened:
        opened.write(text)
    os.chmod(file, 0o644)
    _mount(file, path, "", MS_BIND)


class Place:
    """A process that holds a network namespace, and a user namespace if asked."""

    def __init__(self, *, user: bool = False, within: Place | None = None) -> None:
        ready, made = os.pipe()
        self._user = user or within is not None
        self.pid = os.fork()
        if not self.pid:
            with_failures_shown(lambda: self._hold(made, user, within))
        os.close(made)
        try:
            assert os.read(ready, 1), "the place could not be made"
        finally:
            os.close(ready)

    def _hold(self, made: int, user: bool, within: Place | None) -> None:
        _die_with_parent()
        if within is not None:
            within.enter()
        _unshare(NEWNET | (NEWUSER if user else 0))
        os.write(made, b"1")
        os.close(made)
        while True:
            signal.pause()

    def enter(self) -> None:
        """This process (it must have one thread) joins the namespaces."""
        kinds = ["user", "net"] if self._user else ["net"]
        handles = [os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
        for handle in handles:
            _check(_libc.setns(handle, 0))
            os.close(handle)

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Perform a function there."""
        return _in_a_child(self.enter, function, arguments)

    def serve(self, function: Callable[[Callable[[], None]], None]) -> int:
        """Run a function there, in the background, and go on when it calls what it is given; the process's number."""
        ready, started = os.pipe()
        pid = os.fork()
        if not pid:

            def run() -> None:
                _die_with_parent()
                self.enter()
                function(lambda: os.close(started) if os.write(started, b"1") else None)

            with_failures_shown(run)
        os.close(started)
        assert os.read(ready, 1), "the server could not be started"
        os.close(ready)
        return pid

    def end(self) -> None:
        """The process goes, and with it the namespaces, unless others hold them."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def internet(addresses: list[str], ports: list[int]) -> Place:
    """A place that this machine has a default route to, where servers on `addresses` and `ports` say who asked them."""
    place = Place()
    with Netlink() as netlink:
        netlink.perform([make_veth("wan0", "eth0", place.pid)])
        number = index_of("wan0")
        netlink.perform([add_address(number, f"{MACHINE}/24"), link_up("wan0")])
        netlink.perform([add_route("0.0.0.0/0", INTERNET, number)])

    def settle() -> None:
        with Netlink() as netlink:
            number = index_of("eth0")
            netlink.perform([add_address(number, f"{INTERNET}/24"), link_up("lo"), link_up("eth0")])
            netlink.perform([add_address(1, f"{address}/32") for address in addresses])

    place.do(settle)
    for port in ports:
        place.serve(lambda ready, port=port: say_who_asked("0.0.0.0", port, ready))  # type: ignore[misc]
    return place


def say_who_asked(address: str, port: int, ready: Callable[[], None]) -> None:
    """A server that answers each connection with both of its addresses."""
    with socket.create_server((address, port), backlog=64) as server:
        ready()
        while True:
            connection, peer = server.accept()
            with connection:
                connection.sendall(f"{connection.getsockname()[0]} asked by {peer[0]}".encode())


def ask(address: str, port: int) -> str:
    """What `say_who_asked` answers, or why nobody does."""
    try:
        with socket.create_connection((address, port), timeout=SILENCE_S) as connection:
            return connection.recv(200).decode()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)


def with_failures_shown(function: Callable[[], None]) -> None:
    """Run in a fork that never comes back."""
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _in_a_child(enter: Callable[[], None], function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(ours)
            _die_with_parent()
            enter()
            answer = {"result": function(*arguments)}
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        try:
            with os.fdopen(theirs, "w", encoding="utf-8") as file:
                json.dump(answer, file)
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        with os.fdopen(ours, encoding="utf-8") as file:
            text = file.read()
    finally:
        os.waitpid(pid, 0)
    answer = json.loads(text or '{"failed": "the child ended without an answer"}')
    if "failed" in answer:
        raise AssertionError("in the other namespace:\n" + answer["failed"])
    return answer["result"]


def _unshare(flags: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(flags))
    if flags & NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)


def _die_with_parent() -> None:
    _check(_libc.prctl(1, signal.SIGKILL, 0, 0, 0))


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, None))


def _check(status: int) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
