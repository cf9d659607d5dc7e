"""Containers reach the names that their policy lists, and no others: real processes, real TLS, in namespaces."""

import asyncio
import errno
import os
import shutil
import signal
import socket
import ssl

import pytest
from tests.drivers.network.world import (
    WHO,
    Wall,
    certificate,
    look_up,
    needs_namespaces,
    on_a_machine,
    serve_http,
    serve_names,
    serve_tls,
)

from jitney.core.egress import NAMES
from jitney.drivers.network.names import PorterNames
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.network.veth import VethNetwork
from jitney.testing.namespaces import FILES, SILENCE_S, internet, put_over
from jitney.values.network import NetworkPolicy

pytestmark = [
    needs_namespaces,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed: no certificate for a server"),
]

PUBLIC, RESOLVER, PRIVATE = "8.8.4.4", "8.8.8.8", "10.1.2.3"
KNOWN = {
    "ok.example.com": PUBLIC,
    "x.wild.example.com": PUBLIC,
    "other.example.com": PUBLIC,
    "private.example.com": PRIVATE,
    "metadata.example.com": "169.254.169.254",
    "host.example.com": "93.184.216.2",
}
OTHER_KIND = 28  # AAAA


PEM = f"{FILES}/both.pem"


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """The text of a certificate and its key; a machine has it as the file PEM."""
    names = ["ok.example.com", "*.wild.example.com", "private.example.com"]
    return certificate(tmp_path_factory.mktemp("tls"), names).read_text()


def world(pem):
    put_over("/etc/resolv.conf", f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")
    with open(PEM, "w", encoding="ascii") as file:
        file.write(pem)
    out_there = internet([PUBLIC, RESOLVER, PRIVATE, "169.254.169.254"], [8080])
    out_there.serve(serve_names(RESOLVER, KNOWN))
    out_there.serve(serve_http)
    out_there.serve(serve_tls(PEM))
    return out_there


def in_a_world(who, pem, scenario, network=None):
    """Run an asynchronous scenario(names, wall, refused)."""

    def machine():
        world(pem)

        async def run():
            refused = []
            names = PorterNames(lambda r: refused.append([r.address, r.name, r.why]))
            uplink = network() if network else NoNetwork("a test", "none")
            wall = Wall()
            wall.set_up(await uplink.connect("hub", wall.hub.pid))
            try:
                await names.open("hub", wall.hub.pid, wall.plan)
                await scenario(names, wall, refused)
            finally:
                await names.close()
                await uplink.close()

        asyncio.run(run())

    on_a_machine(who, machine)


async def do(place, function, *arguments):
    """Perform something in a place while this loop goes on."""
    return await asyncio.to_thread(place.do, function, *arguments)


async def guest(names, wall, number=0, **policy):
    """A container with this policy, admitted."""
    place, found = wall.pod(NetworkPolicy(**policy), number)
    await names.admit("hub", found.address, found.names, found.cidrs)
    return place, found


def get(address, host, path="/"):
    """What an HTTP server answers, "" where the connection is closed instead."""
    return say(address, 80, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def say(address, port, data):
    """Send something; all that comes back."""
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer.decode(errors="replace")


def tls(address, server_name, size=0, authority=None):
    """What a TLS server says first, and how many of `size` bytes it gives back; or the error."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = authority is not None
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, 443), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as connection,
        ):
            first = connection.recv(200).decode().strip()
            back = 0
            for _ in range(size // 65536):
                connection.sendall(bytes(65536))
                left = 65536
                while left:
                    left -= len(connection.recv(left)) or left
                back += 65536
            return [first, back]
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        return [type(error).__name__, 0]


CLOSED = [["ConnectionResetError", 0], ["SSLEOFError", 0], ["SSLZeroReturnError", 0]]


@pytest.mark.parametrize("who", WHO)
def test_listed_names_are_reached_by_tls_and_http(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("ok.example.com", "*.wild.example.com"))
        [server] = found.resolvers
        code, address = await do(place, look_up, server, "ok.example.com")
        assert code == 0
        assert await do(place, look_up, server, "OK.example.com") == [0, address]
        assert await do(place, look_up, server, "ok.example.com", 1, True) == [0, address]
        assert await do(place, look_up, server, "ok.example.com", OTHER_KIND) == [0, ""]
        assert (await do(place, tls, address, "ok.example.com", 4 * 1024 * 1024, PEM)) == [
            "asked for ok.example.com",
            4 * 1024 * 1024,
        ]
        assert (await do(place, get, address, "ok.example.com", "/path")).endswith("served: GET /path HTTP/1.1")
        _, wild = await do(place, look_up, server, "x.wild.example.com")
        assert wild != address
        assert (await do(place, tls, wild, "x.wild.example.com", 0, PEM))[0] == "asked for x.wild.example.com"
        assert refused == []

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_what_is_not_listed_does_not_exist_and_is_told(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("ok.example.com", "gone.example.com"))
        [server] = found.resolvers
        for name in ("other.example.com", "x.wild.example.com"):
            for by_tcp in (False, True):
                assert await do(place, look_up, server, name, 1, by_tcp) == [3, ""]
        assert [entry[:2] for entry in refused] == [
            [found.address, "other.example.com"],
            [found.address, "x.wild.example.com"],
        ]
        assert await do(place, look_up, server, "gone.example.com") == [3, ""]  # listed, and does not exist
        assert len(refused) == 2

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_an_address_leads_to_its_name_only(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("ok.example.com", "other.example.com"))
        [server] = found.resolvers
        _, address = await do(place, look_up, server, "ok.example.com")
        for name in ("other.example.com", "evil.example.com", None):
            assert await do(place, tls, address, name) in CLOSED
        for host in ("other.example.com", "ok.example.com@other.example.com", "8.8.4.4"):
            assert await do(place, get, address, host) == ""
        assert await do(place, say, address, 443, b"GET / HTTP/1.1\r\nHost: ok.example.com\r\n\r\n") == ""
        assert await do(place, say, address, 80, b"CONNECT other.example.com:443 HTTP/1.1\r\n\r\n") == ""
        assert {entry[1] for entry in refused} == {"ok.example.com"}
        assert any("it asks for evil.example.com" in entry[2] for entry in refused)
        # An address that stands for nothing, and the gateway itself.
        for nothing in (NAMES.replace("0.0/20", "9.9"), server):
            assert await do(place, get, nothing, "ok.example.com") == ""

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_a_name_that_leads_inside_is_refused(who, pem):
    async def scenario(names, wall, refused):
        listed = ("private.example.com", "metadata.example.com", "host.example.com")
        place, found = await guest(names, wall, domains=listed)
        [server] = found.resolvers
        for name in listed[:2]:
            assert await do(place, look_up, server, name) == [3, ""]
        assert [entry[1] for entry in refused] == list(listed[:2])
        assert "no public address" in refused[0][2]
        # The same name, where its address is allowed by itself.
        other, _ = await guest(names, wall, 1, domains=listed, cidrs=("10.0.0.0/8", "169.254.0.0/16"))
        code, address = await do(other, look_up, server, "private.example.com")
        assert code == 0
        assert (await do(other, tls, address, "private.example.com", 0, PEM))[0] == "asked for private.example.com"
        assert await do(other, look_up, server, "metadata.example.com") == [3, ""]

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_the_machine_itself_is_no_name(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("host.example.com",))
        assert await do(place, look_up, found.resolvers[0], "host.example.com") == [3, ""]

    in_a_world(who, pem, scenario, lambda: VethNetwork("test"))


@pytest.mark.parametrize("who", WHO)
def test_each_container_has_its_own_list_and_a_stranger_none(who, pem):
    async def scenario(names, wall, refused):
        one, found = await guest(names, wall, 0, domains=("ok.example.com",))
        two, _ = await guest(names, wall, 1, domains=("other.example.com",))
        stranger, _ = wall.pod(NetworkPolicy(domains=("ok.example.com",)), 2)
        [server] = found.resolvers
        _, address = await do(one, look_up, server, "ok.example.com")
        assert (await do(one, get, address, "ok.example.com")).endswith("HTTP/1.1")
        for other in (two, stranger):
            assert await do(other, get, address, "ok.example.com") == ""
        assert await do(two, look_up, server, "ok.example.com") == [3, ""]
        assert await do(stranger, look_up, server, "ok.example.com") == ["silence", ""]
        assert await do(stranger, look_up, server, "ok.example.com", 1, True) == ["silence", ""]

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_what_is_open_is_cut_when_a_container_is_forgotten(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("ok.example.com",))
        _, address = await do(place, look_up, found.resolvers[0], "ok.example.com")
        opened, says = os.pipe()

        def hold():
            with socket.create_connection((address, 443), timeout=20) as connection:
                os.write(says, b"1")
                return connection.recv(1).decode()  # nothing was said: nothing comes before the end

        holding = asyncio.create_task(do(place, hold))
        assert await asyncio.to_thread(os.read, opened, 1)
        await do(place, get, address, "ok.example.com")  # so the one before it is known as well
        await names.forget("hub", found.address)
        assert await holding in ("", "reset")

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_the_process_is_started_again_and_knows_all(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("ok.example.com",))
        [server] = found.resolvers
        assert (await do(place, look_up, server, "ok.example.com"))[0] == 0
        process = names._process._process
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        two, _ = await guest(names, wall, 1, domains=("other.example.com",))
        for container, name in ((place, "ok.example.com"), (two, "other.example.com")):
            code, address = await do(container, look_up, server, name)
            assert code == 0
            assert (await do(container, get, address, name)).endswith("HTTP/1.1")

    in_a_world(who, pem, scenario)


@pytest.mark.parametrize("who", WHO)
def test_open_containers_are_relayed_where_the_machine_asks_its_own_loopback(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall)
        assert found.names == ("*",)
        [server] = found.resolvers
        for by_tcp in (False, True):
            answered = await do(place, look_up, server, "private.example.com", 1, by_tcp)
            assert answered == ([0, PRIVATE] if not by_tcp else [2, ""])  # our server out there has no TCP
        assert await do(place, look_up, server, "gone.example.com") == [3, ""]
        assert await do(place, get, PUBLIC, "ok.example.com")
        assert refused == []

    in_a_world(who, pem, scenario, lambda: VethNetwork("test", resolver_files=["/dev/null"]))


@pytest.mark.skipif("root" not in WHO, reason="needs root: a user's process has no privilege to lose")
def test_the_process_has_no_privilege(pem):
    async def scenario(names, wall, refused):
        status = await asyncio.to_thread(_status, names._process._process.pid)
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
        assert status["Groups"] == ""
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"] == "1"

    in_a_world("root", pem, scenario)


def _status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return {key: value.strip() for key, value in (line.rstrip("\n").split(":", 1) for line in file)}


@pytest.mark.parametrize("who", WHO)
def test_nothing_holds_a_hub_that_was_shut(who, pem):
    async def scenario(names, wall, refused):
        place, found = await guest(names, wall, domains=("ok.example.com",))
        await names.shut("hub")
        assert await do(place, look_up, found.resolvers[0], "ok.example.com") == ["silence", ""]
        assert await do(place, connect, found.resolvers[0]) == errno.ECONNREFUSED

    in_a_world(who, pem, scenario)


def connect(server):
    """The code of connecting to a name server."""
    with socket.socket() as asking:
        asking.settimeout(SILENCE_S)
        return asking.connect_ex((server, 53))
