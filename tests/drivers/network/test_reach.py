"""What containers reach, by each driver, as root and as a user: real namespaces, real packets."""

import asyncio
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from tests.drivers.network.world import WHO, Wall, links, look_up, needs_namespaces, on_a_machine, program, serve_names

from jitney.core.egress import address_of
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.network.usermode import UsermodeNetwork
from jitney.drivers.network.veth import VethNetwork
from jitney.runner.wall.netlink import Netlink, add_address, add_route, index_of
from jitney.testing.namespaces import INTERNET, MACHINE, ask, internet, put_over, say_who_asked
from jitney.values.network import NetworkPolicy

pytestmark = [needs_namespaces, pytest.mark.slow]

PUBLIC, PRIVATE, OTHER = "8.8.8.8", "10.1.2.3", "10.9.9.9"
METADATA = ["169.254.169.254", "100.100.100.200", "168.63.129.16"]
REFUSED_NODE = "10.7.7.7"


def make(driver, folder):
    refused = [f"{REFUSED_NODE}/32"]
    if driver == "veth":
        return VethNetwork("test", refused)
    return UsermodeNetwork(driver, shutil.which(driver), folder, refused)


# pasta gives up root, and is not chosen for it.
DRIVERS = [
    (who, driver) for who in WHO for driver in ("veth", "slirp4netns", "pasta") if (who, driver) != ("root", "pasta")
]


def on_a_connected_machine(who, driver, scenario):
    """Run a scenario with a wall that this driver connects; a driver whose program is missing is skipped."""
    if driver != "veth":
        program(driver)
    on_a_machine(who, connected, driver, scenario)


def world():
    """The internet, with servers on what must be reached and on what must not."""
    put_over("/etc/resolv.conf", f"nameserver {PUBLIC}\n")
    out_there = internet([PUBLIC, PRIVATE, OTHER, REFUSED_NODE, *METADATA], [80])
    out_there.serve(serve_names(PUBLIC, {"a.example.com": PUBLIC}))
    out_there.serve(lambda ready: say_who_asked("0.0.0.0", 8080, ready))
    return out_there


def serve_here():
    """A server on every address of the machine, its loopback among them, as a careless program has it."""
    ready, started = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            say_who_asked("0.0.0.0", 80, lambda: os.write(started, b"1"))
        finally:
            os._exit(1)
    assert os.read(ready, 1)
    return pid


def end_here(pid):
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def connected(driver, scenario):
    """Run a scenario with a wall that is connected; afterwards nothing is left."""
    world()
    before = links()
    server = serve_here()

    async def run():
        with tempfile.TemporaryDirectory() as folder:
            network = make(driver, Path(folder))
            wall = Wall()
            wall.set_up(await network.connect("hub", wall.hub.pid))
            try:
                scenario(wall)
            finally:
                await network.close()

    try:
        asyncio.run(run())
    finally:
        end_here(server)
    assert links() == before


def policies(wall):
    opened, network = wall.pod(NetworkPolicy(), 0)
    listed, _ = wall.pod(NetworkPolicy(cidrs=("10.0.0.0/13", "169.254.0.0/16")), 1)
    blocked, _ = wall.pod(NetworkPolicy(blocked=True), 2)
    named, _ = wall.pod(NetworkPolicy(domains=("a.example.com",)), 3)

    assert ask(PUBLIC, 80).startswith(PUBLIC)  # the internet is there
    for address in (PUBLIC, PRIVATE, OTHER, INTERNET):
        assert opened.do(ask, address, 80) == f"{address} asked by {MACHINE}"
    assert listed.do(ask, PRIVATE, 80) == f"{PRIVATE} asked by {MACHINE}"
    for address in (PUBLIC, OTHER):
        assert "reach" in listed.do(ask, address, 80)
        assert "reach" in named.do(ask, address, 80)
    for place in (opened, listed, blocked, named):
        for address in (*METADATA, MACHINE, REFUSED_NODE, wall.plan.next_hop):
            assert ask(address, 80).count("asked by") or address == wall.plan.next_hop
            assert place.do(ask, address, 80) in ("No route to host", "Network is unreachable")
    assert blocked.do(ask, PUBLIC, 80) == "Network is unreachable"
    assert blocked.do(links) == ["lo"]
    # Names, where the policy leaves a name server.
    assert opened.do(look_up, network.resolvers[0], "a.example.com") == [0, PUBLIC]
    assert listed.do(look_up, network.resolvers[0], "a.example.com")[0] == "silence"
    # Nobody's loopback but its own, and no IPv6.
    assert opened.do(ask, "127.0.0.1", 80) == "Connection refused"
    assert opened.do(ipv6_addresses) == ["::1"]
    # The hub itself has nothing to say out there.
    assert wall.hub.do(ask, PUBLIC, 80) in (
        "TimeoutError",
        "timed out",
        "Operation not permitted",
        "Connection timed out",
    )


def ipv6_addresses():
    with Netlink() as netlink:
        return [known.address for known in netlink.addresses() if ":" in known.address]


@pytest.mark.parametrize("who, driver", DRIVERS)
def test_each_reaches_what_its_policy_allows(who, driver):
    on_a_connected_machine(who, driver, policies)


def free_routes(gateway):
    """A container that has got hold of all privileges in its wall: everything leads to the gateway."""
    with Netlink() as netlink:
        number = index_of("eth0")
        netlink.perform([add_route(route.cidr, gateway, number) for route in netlink.routes() if route.kind == 7])
        netlink.perform([add_route(f"{half}/1", gateway, number) for half in ("0.0.0.0", "128.0.0.0")])


def hostile(wall):
    bad, _ = wall.pod(NetworkPolicy(cidrs=()), 0)
    good, network = wall.pod(NetworkPolicy(), 1)
    good.serve(lambda ready: say_who_asked("0.0.0.0", 80, ready))
    assert good.do(ask, network.address, 80).startswith(network.address)
    bad.do(free_routes, wall.plan.gateway)
    assert bad.do(ask, PUBLIC, 80).endswith(MACHINE)  # its own table is its own policy, and is gone
    for address in (network.address, MACHINE, REFUSED_NODE, *METADATA, wall.plan.next_hop, "127.0.0.1"):
        assert "asked by" not in bad.do(ask, address, 80), address
    # Another's address gets it nothing: neither answers, nor packets out in its name.
    assert bad.do(ask_as, network.address, PUBLIC) != "answered"
    assert good.do(ask_as, network.address, PUBLIC) == "answered"


def guarded(wall):
    bad, _ = wall.pod(NetworkPolicy(cidrs=("10.0.0.0/13",)), 0, guarded=True)
    bad.do(free_routes, wall.plan.gateway)
    assert bad.do(ask, PRIVATE, 80) == f"{PRIVATE} asked by {MACHINE}"
    for address in (PUBLIC, OTHER, MACHINE, REFUSED_NODE, *METADATA, wall.plan.next_hop):
        assert "asked by" not in bad.do(ask, address, 80), address


def ask_as(address, server):
    """Ask from an address that one gives oneself."""
    with Netlink() as netlink:
        netlink.perform([add_address(index_of("eth0"), f"{address}/32")])
    with socket.socket() as asking:
        asking.settimeout(1)
        asking.bind((address, 0))
        try:
            asking.connect((server, 80))
        except OSError as error:
            return str(error)
        return "answered"


@pytest.mark.parametrize("who, driver", DRIVERS)
def test_the_hub_refuses_even_who_has_all_privileges_in_the_wall(who, driver):
    on_a_connected_machine(who, driver, hostile)


@pytest.mark.parametrize("who, driver", DRIVERS)
def test_the_hub_keeps_to_the_policy_of_who_has_a_table_of_its_own(who, driver):
    on_a_connected_machine(who, driver, guarded)


def ask_through(address):
    """Ask for a container's address by way of the machine, as a neighbour on its network could try."""
    with Netlink() as netlink:
        netlink.perform([add_route(f"{address}/32", MACHINE, index_of("eth0"))])
    return ask(address, 80)


@pytest.mark.parametrize("who", WHO)
def test_3_nothing_outside_connects_to_a_container(who):
    def scenario():
        out_there = world()

        async def run():
            network, wall = VethNetwork("test"), Wall()
            wall.set_up(await network.connect("hub", wall.hub.pid))
            pod, found = wall.pod(NetworkPolicy(), 0)
            pod.serve(lambda ready: say_who_asked("0.0.0.0", 80, ready))
            assert pod.do(ask, found.address, 80).startswith(found.address)
            assert "asked by" not in ask(found.address, 80)
            assert "asked by" not in out_there.do(ask_through, found.address)
            await network.close()

        asyncio.run(run())

    on_a_machine(who, scenario)


@pytest.mark.parametrize("who", WHO)
def test_3_hubs_do_not_reach_one_another(who):
    def scenario():
        world()

        async def run():
            network, walls, pods = VethNetwork("test"), [Wall(), Wall()], []
            for number, wall in enumerate(walls):
                wall.set_up(await network.connect(f"hub{number}", wall.hub.pid))
                place, found = wall.pod(NetworkPolicy(), 0)
                place.serve(lambda ready: say_who_asked("0.0.0.0", 80, ready))
                pods.append((place, found.address, wall.plan.gateway))
            (here, own, gateway), (_, other, other_gateway) = pods
            assert here.do(ask, own, 80).startswith(own)
            here.do(free_routes, gateway)
            for address in (other, other_gateway):
                assert "asked by" not in here.do(ask, address, 80)
            await network.close()

        asyncio.run(run())

    on_a_machine(who, scenario)


@pytest.mark.parametrize("who", WHO)
def test_a_number_is_used_again_at_once(who):
    def scenario():
        world()

        async def run():
            network, wall = VethNetwork("test"), Wall()
            wall.set_up(await network.connect("hub", wall.hub.pid))
            for _ in range(5):
                place, found = wall.pod(NetworkPolicy(), 0)
                assert place.do(ask, PUBLIC, 80).endswith(MACHINE)
                assert found.address == address_of(wall.plan, 0)
                place.end()
            await network.close()

        asyncio.run(run())

    on_a_machine(who, scenario)


@pytest.mark.parametrize("who", WHO)
def test_a_hundred_containers_leave_nothing_in_the_hub(who):
    def scenario():
        wall = Wall()
        wall.set_up(asyncio.run(NoNetwork("", "x").connect("hub", wall.hub.pid)))
        before = wall.hub.do(links)
        places = [wall.pod(NetworkPolicy(domains=()), number)[0] for number in range(100)]
        assert len(wall.hub.do(links)) == len(before) + 100
        for place in places:
            place.end()
        wall.hub.do(until_gone, before)

    on_a_machine(who, scenario)


def until_gone(before):
    """The kernel takes namespaces apart in its own time, and says so."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as told:
        told.bind((0, 1))  # changes of links
        told.settimeout(20)
        while links() != before:
            told.recv(65536)
