"""Holds the hub of containers that somebody else has put behind a wall: an engine's.

    python .../runner/__main__.py hub FD

Behind our own wall the warden is the hub's holder (`hub`, `warden`). Here it is a process of the worker's, with the
worker's root privileges and a network namespace of its own. No code of users runs in it, and none can reach it. The
namespace ends with it, and with that every link to a container; it ends with the worker, which has the other end of FD.

Messages on the socket (frames as in runner.template_protocol; descriptors come with the first byte):

    worker -> holder
      hub    {"plan"}           set up the hub (`hub.set_up_hub`), once its uplink is connected
      join   {"plan", "pod"}    link the network namespace that the descriptor is of (`hub.set_up_pod`, `finish_pod`)
    holder -> worker
      ready  {"message"}        its namespace is there
      hub    {"message"}
      join   {"message"}        "" or why not
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from jitney.runner import template_protocol as protocol
from jitney.runner.wall import hub, kernel

ANSWER_BYTES = 4096
ANSWERS_LIMIT = "/proc/sys/net/ipv4/icmp_ratelimit"  # ms between two; of the namespace of who opens it


def main(descriptor: int) -> int:
    """Be the holder; the exit code."""
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    _answer(control, "ready", _enter)
    splitter = protocol.Splitter()
    waiting: list[int] = []
    while True:
        data, descriptors = protocol.receive(control)
        if not data:
            return 0
        waiting += descriptors
        for message in splitter.feed(data):
            _perform(control, message, waiting)


def _enter() -> None:
    """A namespace of its own.

    There every packet that is refused is answered, and not the first few of each second only: a network stack of the
    container's own has no other way to learn of it, and would try for minutes.
    """
    kernel.unshare(kernel.NEWNET)
    try:
        with open(ANSWERS_LIMIT, "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass  # /proc/sys may be read-only: then some refusals are silence


def _perform(control: socket.socket, message: dict[str, Any], waiting: list[int]) -> None:
    kind = message["kind"]
    if kind == "hub":
        _answer(control, kind, lambda: hub.set_up_hub(message["plan"]))
    elif kind == "join":
        namespace = waiting.pop(0)
        try:
            _answer(control, kind, lambda: join(message["plan"], message["pod"], namespace))
        finally:
            os.close(namespace)


def _answer(control: socket.socket, kind: str, work: Callable[[], None]) -> None:
    why = ""
    try:
        work()
    except OSError as error:
        why = error.strerror or str(error)
    protocol.send_frame(control, protocol.pack({"kind": kind, "message": why}))


def join(plan: dict[str, Any], pod: dict[str, Any], namespace: int) -> None:
    """Link a network namespace with this one, and finish it from the inside.

    A child goes there, so that the kernel's number for it is a process of ours, whatever becomes of those that live
    there.

    Raises:
        OSError: the kernel refused; the message says what.
    """
    told, tell = os.pipe()
    go, let_go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        os.close(let_go)
        _finish(pod, namespace, tell, go)
    try:
        os.close(tell)
        os.close(go)
        _expect(told, b"n")
        hub.set_up_pod(plan, pod, child)
        os.write(let_go, b"x")
        _expect(told, b"r")
    finally:
        os.close(told)
        os.close(let_go)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _finish(pod: dict[str, Any], namespace: int, tell: int, go: int) -> NoReturn:
    try:
        kernel.setns(namespace, kernel.NEWNET)
        os.write(tell, b"n")
        if os.read(go, 1) == b"x":
            hub.finish_pod(pod)
            os.write(tell, b"r")
    except OSError as error:
        os.write(tell, b"e" + (error.strerror or str(error)).encode())
    finally:
        os._exit(0)


def _expect(told: int, word: bytes) -> None:
    if os.read(told, 1) != word:
        raise OSError(os.read(told, ANSWER_BYTES).decode(errors="replace") or "the process that went there has ended")
