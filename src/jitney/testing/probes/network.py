"""Sockets, addresses, and who answers there."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from jitney.testing.probes.probe import ALLOWED, ANY, Outcome, allowed, denied, probe
from jitney.testing.probes.system import attempt_all, judge
from jitney.testing.probes.targets import Listener, Targets, digest

_CONNECT_SECONDS = 1.0
_GREETING_BYTES_MAX = 4_096
_METADATA = (
    ("169.254.169.254", 80),
    ("169.254.170.2", 80),
    ("fd00:ec2::254", 80),
    ("100.100.100.200", 80),
    ("metadata.google.internal", 80),
)
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_NETLINK_KINDS = {"uevent": 15, "generic": 16, "netfilter": 12, "audit": 9, "xfrm": 6, "sock_diag": 4}
# Families of sockets with a long record of holes, and no use in a container: X.25, AppleTalk, IPX, CAN, Bluetooth, ...
_OLD_FAMILIES = (
    3,
    4,
    5,
    6,
    9,
    11,
    12,
    19,
    21,
    23,
    24,
    26,
    27,
    28,
    29,
    30,
    31,
    33,
    34,
    35,
    36,
    37,
    39,
    41,
    42,
    43,
    44,
    45,
)
_ETH_P_ALL = 0x0003


def greeted(listener: Listener) -> bool:
    """Whether that very listener answers where it is said to be."""
    if listener.what in {"unix", "abstract"}:
        family, address = socket.AF_UNIX, "\0" * (listener.what == "abstract") + listener.address
    else:
        family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        address = (listener.address, listener.port)  # type: ignore[assignment]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_CONNECT_SECONDS)
            sock.connect(address)
            return digest(sock.recv(_GREETING_BYTES_MAX)) == listener.sha256
    except OSError:
        return False


def _reach(targets: Targets, what: str) -> Outcome:
    tried = [one for one in targets.listeners if one.what == what]
    for listener in tried:
        if greeted(listener):
            return allowed(f"was greeted at {listener.address} {listener.port or ''}".strip())
    return denied(f"no answer from {len(tried)}") if tried else denied("there is none")


@probe(process=ALLOWED, needs=("listeners",))
def loopback(targets: Targets) -> Outcome:
    """Connect to what listens on the machine's own loopback address."""
    return _reach(targets, "loopback")


@probe(process=ALLOWED, needs=("listeners",))
def control_plane(targets: Targets) -> Outcome:
    """Connect to a port of the machine at its own address in the network."""
    return _reach(targets, "control")


@probe(process=ALLOWED, needs=("listeners",))
def abstract_sockets(targets: Targets) -> Outcome:
    """Connect to an abstract Unix socket of the outside, which no file mode guards."""
    return _reach(targets, "abstract")


@probe(process=ALLOWED, needs=("listeners",))
def unix_sockets(targets: Targets) -> Outcome:
    """Connect to a Unix socket of the outside by its path."""
    return _reach(targets, "unix")


@probe()
def metadata(_: Targets) -> Outcome:
    """Ask the cloud's metadata service for the machine's credentials."""
    for address, port in _METADATA:
        try:
            socket.create_connection((address, port), timeout=_CONNECT_SECONDS).close()
        except OSError:
            continue
        return allowed(f"connected to {address}")
    return denied("no answer")


@probe()
def raw_sockets(_: Targets) -> Outcome:
    """Send packets of any form."""
    return attempt_all(
        [
            ("ICMP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()),
            ("ICMPv6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58).close()),
            ("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).close()),
        ]
    )


@probe()
def listen_to_everybody(_: Targets) -> Outcome:
    """Read all packets of an interface."""
    return attempt_all(
        [
            ("packets", lambda: socket.socket(17, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)).close()),
            ("datagrams", lambda: socket.socket(17, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)).close()),
        ]
    )


@probe(oci=ANY)
def virtual_machine_sockets(_: Targets) -> Outcome:
    """Talk to the hypervisor by AF_VSOCK, past every network rule."""
    return attempt_all([("AF_VSOCK", lambda: socket.socket(40, socket.SOCK_STREAM).close())])


@probe(oci=ANY)
def kernel_cryptography(_: Targets) -> Outcome:
    """Use the kernel's cryptography by AF_ALG."""
    return attempt_all([("AF_ALG", lambda: socket.socket(38, socket.SOCK_SEQPACKET).close())])


@probe(oci=ANY)
def old_families(_: Targets) -> Outcome:
    """Make sockets of families that nobody needs here."""
    found = []
    for family in _OLD_FAMILIES:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind, 0).close()
            except OSError:
                continue
            found.append(str(family))
            break
    return allowed(f"families {', '.join(found)}") if found else denied("none")


@probe(oci=ANY, gvisor=ANY)
def kernel_messages(_: Targets) -> Outcome:
    """Talk to parts of the kernel by netlink: firewall, audit, devices, generic."""
    found = []
    for name, protocol in _NETLINK_KINDS.items():
        try:
            socket.socket(16, socket.SOCK_RAW, protocol).close()
        except OSError:
            continue
        found.append(name)
    return allowed(", ".join(found)) if found else denied("none")


@probe()
def change_interfaces(_: Targets) -> Outcome:
    """Change a network interface (to the flags that it has)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            request = struct.pack("16sh14x", b"lo", 0)
            flags = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags))
        except OSError as error:
            if error.errno == errno.ENOTTY:
                return denied("there is no such request")
            return judge(error.errno or 0, "SIOCSIFFLAGS")
    return allowed("set the flags of lo")


@probe()
def change_routes(_: Targets) -> Outcome:
    """Add an address by netlink (one that is refused for another reason where it is allowed)."""
    body = struct.pack("<BBBBi", 2, 32, 0, 0, 0x7FFF_FFF0)  # of an interface that is not there
    message = struct.pack("<IHHII", 16 + len(body), 20, 0x0005, 1, 0) + body
    with socket.socket(16, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(_CONNECT_SECONDS)
        sock.send(message)
        answer = sock.recv(4_096)
    code = -struct.unpack_from("<i", answer, 16)[0]
    return judge(code, "RTM_NEWADDR", (errno.ENODEV, errno.EINVAL)) if code else allowed("RTM_NEWADDR")
