"""Machines, walls and an internet for the tests of this folder, in namespaces of their own."""

import os
import shutil
import socket
import ssl
import struct
import subprocess

import pytest

from jitney.core import egress
from jitney.core.names import dns
from jitney.runner.wall import hub, nftables
from jitney.runner.wall.netlink import Netlink
from jitney.testing import namespaces
from jitney.testing.namespaces import Place

WHY_NOT = namespaces.possible()
ROOT = os.geteuid() == 0
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
WHO = ["root", "user"] if ROOT else ["user"]


def on_a_machine(who, scenario, *arguments):
    """Run a scenario on a machine of its own, as root or as a user without privileges."""
    if ROOT and who == "user":
        return namespaces.as_a_user(lambda: namespaces.apart(scenario, *arguments))
    return namespaces.apart(scenario, *arguments)


def program(name):
    """The path of a program, or a skip that says which is missing."""
    path = shutil.which(name)
    return path or pytest.skip(f"{name} is not installed")


class Wall:
    """A hub with containers, as the warden makes it."""

    def __init__(self):
        self.hub = Place(user=True)
        self.plan = None

    def set_up(self, plan):
        self.plan = plan
        self.hub.do(hub.set_up_hub, egress.hub_message(plan))

    def pod(self, policy, number, *, guarded=False):
        """A container: its place, and its network."""
        place = Place(within=self.hub)
        network = egress.egress(policy, self.plan, number)
        message = {**egress.pod_message(network, number), "guarded": guarded}
        self.hub.do(hub.set_up_pod, egress.hub_message(self.plan), message, place.pid)
        place.do(hub.finish_pod, message)
        return place, network


def links():
    """The names of this machine's links."""
    with Netlink() as netlink:
        return sorted(netlink.links())


def routers():
    """The links of this machine that pass packets on."""
    folder = "/proc/sys/net/ipv4/conf"
    found = []
    for link in sorted(os.listdir(folder)):
        with open(f"{folder}/{link}/forwarding", encoding="ascii") as file:
            if file.read().strip() == "1":
                found.append(link)
    return found


def rules(table):
    """The chains of a table; as strings."""
    return nftables.chains_of(table)


def query(name, kind=dns.A, number=77):
    """A question as a container sends it."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", number, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def look_up(server, name, kind=dns.A, by_tcp=False):
    """[code, address or ""] of a name server's answer, or ["silence", ""]."""
    data = query(name, kind)
    try:
        if by_tcp:
            with socket.create_connection((server, 53), timeout=namespaces.SILENCE_S) as asking:
                asking.sendall(len(data).to_bytes(2, "big") + data)
                size = int.from_bytes(asking.recv(2), "big")
                answer = asking.recv(size)
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(namespaces.SILENCE_S)
                asking.connect((server, 53))
                asking.send(data)
                answer = asking.recv(2000)
    except OSError:
        return ["silence", ""]
    if len(answer) < 12:
        return ["silence", ""]
    answers = int.from_bytes(answer[6:8], "big")
    return [answer[3] & 15, socket.inet_ntoa(answer[-4:]) if answers else ""]


def serve_names(address, known):
    """A name server at an address, for `Place.serve`, that knows these names and no other."""

    def serve(ready):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((address, 53))
            ready()
            while True:
                data, asker = server.recvfrom(2000)
                asked = dns.parse_query(data[:12] + data[12:].split(b"\0\0\x29")[0])
                found = known.get(asked.name, "") if asked.kind == dns.A else ""
                code = dns.NO_ERROR if asked.name in known else dns.NO_SUCH_NAME
                server.sendto(dns.reply(asked, code, found, 1), asker)

    return serve


def serve_http(ready):
    """An HTTP server that gives back the request line and the host, once a connection."""
    with socket.create_server(("0.0.0.0", 80)) as server:
        ready()
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nserved: " + head.split(b"\r\n")[0])


def certificate(folder, names):
    """A certificate of its own for these names: the path of certificate and key."""
    path = folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", path, "-out", folder / "cert.pem", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / "cert.pem").read_text())
    return path


def serve_tls(pem):
    """A TLS server that says which server it was asked for, then gives back what it is sent, to its end."""

    def serve(ready):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        asked = []
        context.sni_callback = lambda connection, name, context: asked.append(name)
        with socket.create_server(("0.0.0.0", 443)) as server:
            ready()
            while True:
                plain, _ = server.accept()
                try:
                    with plain, context.wrap_socket(plain, server_side=True) as connection:
                        connection.settimeout(5)
                        connection.sendall(f"asked for {asked[-1]}\n".encode())
                        while piece := connection.recv(65536):
                            connection.sendall(piece)
                except OSError:
                    continue  # who hangs up is no end of the server

    return serve
