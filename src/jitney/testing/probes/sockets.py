"""Sockets that lead to those who serve containers: the runner's, and what may have been mounted by mistake."""

from __future__ import annotations

import os
import socket
import stat
import struct

from jitney.runner import protocol
from jitney.testing.probes.probe import ALLOWED, ANY, DENIED, Outcome, allowed, denied, probe
from jitney.testing.probes.targets import Targets

_ANSWER_SECONDS = 5.0
_IDLE_LINKS = 200
_FORGED = "f" * 64
_ENGINES = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
    "/run/dbus/system_bus_socket",
    "/run/snapd.socket",
    "/run/libvirt/libvirt-sock",
    "/tmp/.X11-unix/X0",
)


def _connect(targets: Targets) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_ANSWER_SECONDS)
    sock.connect(targets.runner_socket)
    return sock


def _hello(container: str, token: str) -> bytes:
    said = {"container": container, "token": token, "pid": 1, "python": "3", "ready": False, "running": []}
    return protocol.pack_json(protocol.HELLO, said)


def _answer(sock: socket.socket) -> int:
    """The kind of the first frame; 0 when the link was closed, -1 when nothing came."""
    head = b""
    try:
        while len(head) < 5:
            more = sock.recv(5 - len(head))
            if not more:
                return 0
            head += more
    except TimeoutError:
        return -1
    except OSError:
        return 0
    return head[4]


def _still_serves(targets: Targets) -> bool:
    """Whether a HELLO is answered at all, be it by a refusal."""
    try:
        with _connect(targets) as sock:
            sock.sendall(_hello("nobody", _FORGED))
            return _answer(sock) >= 0
    except OSError:
        return False


def _say(targets: Targets, data: bytes) -> Outcome:
    """Refused if the link is closed (or the message answered by a refusal), and the server goes on."""
    try:
        with _connect(targets) as sock:
            try:
                sock.sendall(data)
            except OSError:
                pass
            kind = _answer(sock)
    except OSError as error:
        return denied(f"the socket does not let us in: {error.strerror}")
    if kind == protocol.WELCOME:
        return allowed("was welcomed")
    if not _still_serves(targets):
        return allowed("nobody answers there any more")
    return denied("refused") if kind >= 0 else allowed("the link stays open, and waits for more")


@probe(process=DENIED, needs=("runner_socket", "container"))
def token_of_another(targets: Targets) -> Outcome:
    """Say to be another container, with a made-up token."""
    return _say(targets, _hello(targets.container, _FORGED))


@probe(process=DENIED, needs=("runner_socket", "container"))
def no_token(targets: Targets) -> Outcome:
    """Say to be another container, without a token, or with one of another type."""
    outcome = _say(targets, _hello(targets.container, ""))
    if outcome.verdict == "allowed":
        return outcome
    return _say(
        targets, protocol.pack(protocol.HELLO, b'{"container": "%s", "token": null}' % targets.container.encode())
    )


@probe(process=DENIED, needs=("runner_socket",))
def results_before_hello(targets: Targets) -> Outcome:
    """Send results without having said who one is."""
    return _say(targets, protocol.pack(protocol.RESULTS, struct.pack("<I", 1) + bytes(40)))


@probe(process=DENIED, needs=("runner_socket",))
def garbage(targets: Targets) -> Outcome:
    """Send bytes that are no frame."""
    return _say(targets, b"GET / HTTP/1.1\r\n\r\n" * 100)


@probe(process=DENIED, needs=("runner_socket",))
def deep_json(targets: Targets) -> Outcome:
    """Send a HELLO that is nested ten thousand deep."""
    return _say(targets, protocol.pack(protocol.HELLO, b'{"a":' * 10_000 + b"1" + b"}" * 10_000))


@probe(process=DENIED, needs=("runner_socket",))
def huge_frame(targets: Targets) -> Outcome:
    """Announce a frame of four gigabytes."""
    return _say(targets, struct.pack("<IB", 0xFFFF_FFFF, protocol.HELLO) + bytes(1_000))


@probe(process=DENIED, needs=("runner_socket",))
def empty_frame(targets: Targets) -> Outcome:
    """Announce a frame without even a kind."""
    return _say(targets, struct.pack("<I", 0) * 50)


@probe(process=DENIED, needs=("runner_socket",))
def passed_descriptors(targets: Targets) -> Outcome:
    """Pass open files along with a HELLO, for the server to hold."""
    try:
        with _connect(targets) as sock:
            read, write = os.pipe()
            socket.send_fds(sock, [_hello("nobody", _FORGED)], [read, write] * 50)
            os.close(read)
            _answer(sock)
            try:
                os.write(write, b"x")  # goes on working only while somebody holds the reading end
            except BrokenPipeError:
                return denied("nobody took them") if _still_serves(targets) else allowed("the server is gone")
            finally:
                os.close(write)
    except OSError as error:
        return denied(f"the socket does not let us in: {error.strerror}")
    return allowed("the server holds them")


@probe(process=DENIED, needs=("runner_socket",))
def silent_links(targets: Targets) -> Outcome:
    """Open many links, say half a frame on each, and keep the others from being served."""
    links = []
    try:
        for _ in range(_IDLE_LINKS):
            try:
                sock = _connect(targets)
                links.append(sock)
                sock.sendall(b"\x40\x00\x00")
            except OSError:
                break
        return (
            denied(f"others are served beside {len(links)}")
            if _still_serves(targets)
            else allowed("nobody else is served")
        )
    finally:
        for sock in links:
            sock.close()


@probe(process=ANY, needs=("runner_socket",))
def beside_the_runner_socket(targets: Targets) -> Outcome:
    """Find other sockets where the runner's is: of the control plane, of the worker, of templates."""
    folder = os.path.dirname(targets.runner_socket)
    try:
        names = os.listdir(folder)
    except OSError as error:
        return denied(error.strerror or "")
    found = []
    for name in names:
        path = os.path.join(folder, name)
        if path != targets.runner_socket and stat.S_ISSOCK(os.lstat(path).st_mode) and _connects(path):
            found.append(name)
    return allowed(", ".join(found)) if found else denied("none")


@probe()
def sockets_of_engines(_: Targets) -> Outcome:
    """Command the machine's container engine, its init system or its screen by a socket."""
    paths = [*_ENGINES, os.environ.get("SSH_AUTH_SOCK", "")]
    found = [path for path in paths if path and _connects(path)]
    return allowed(", ".join(found)) if found else denied("none")


@probe(process=ALLOWED, needs=("runner_socket",))
def remove_the_socket(targets: Targets) -> Outcome:
    """Take the runner's socket away from others: remove or rename it (here: whether that would be allowed)."""
    folder = os.path.dirname(targets.runner_socket)
    path = os.path.join(folder, f"probe-{os.getpid()}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        return denied(f"{folder}: {error.strerror}")
    os.unlink(path)
    if any(line.split()[4] == targets.runner_socket for line in _mounts()):
        return denied("the socket is a mount of its own, and its folder the container's")
    return allowed(f"{folder} can be changed")


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return file.readlines()


def _connects(path: str) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.settimeout(1)
                sock.connect(path)
                return True
        except OSError:
            continue
    return False
