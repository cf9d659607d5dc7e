"""All network drivers, by the contract of their port; the real ones on machines made of namespaces."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from tests.drivers.network.world import (
    WHO,
    Wall,
    links,
    look_up,
    needs_namespaces,
    on_a_machine,
    program,
    routers,
    rules,
    serve_names,
)

from jitney.core.egress import hub_message
from jitney.drivers.network.fake import FakeNames, FakeNetwork
from jitney.drivers.network.names import PorterNames
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.network.usermode import UsermodeNetwork
from jitney.drivers.network.veth import VethNetwork
from jitney.runner.wall import hub
from jitney.testing.conformance.network import PLAN, A, B, NamesContract, NetworkContract
from jitney.testing.namespaces import Place, internet, put_over
from jitney.values.network import NetworkPolicy


class TestFakeNetwork(NetworkContract):
    @pytest.fixture(autouse=True)
    def _shared(self):
        self.networks = []

    def make(self):
        self.networks.append(FakeNetwork())
        return self.networks[-1]

    def hub(self):
        return 1000

    def end(self, pid):
        pass

    def left(self):
        return [name for network in self.networks for name in network.connected]

    def test_1_what_cannot_be_connected_leaves_nothing(self):
        network = self.make()
        network.fail_next = "the cable is cut"
        with pytest.raises(Exception, match="cable"):
            asyncio.run(network.connect("a", 1000))
        assert self.left() == []


class TestNoNetwork(TestFakeNetwork):
    def make(self):
        return NoNetwork("nothing is installed", "install slirp4netns")

    def test_1_what_cannot_be_connected_leaves_nothing(self):
        assert NoNetwork("nothing is installed", "x").capabilities().why == "nothing is installed"

    def test_1_hubs_have_plans_that_do_not_meet(self):
        pytest.skip("hubs that lead nowhere cannot meet: they may have the same numbers")


class OnAMachine(NetworkContract):
    """A driver that changes its machine: each scenario has one of its own, with a way to an internet."""

    who = ""
    program = ""

    @pytest.fixture(autouse=True)
    def _possible(self, request):
        self.who = request.param
        if self.program:
            program(self.program)

    def perform(self, scenario):
        on_a_machine(self.who, self._perform, scenario)

    def _perform(self, scenario):
        put_over("/etc/resolv.conf", "nameserver 8.8.8.8\n")
        internet(["8.8.8.8"], [])
        self.places = {}
        self.before = links()
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            asyncio.run(scenario())

    def hub(self):
        place = Place(user=True)
        self.places[place.pid] = place
        return place.pid

    def end(self, pid):
        self.places.pop(pid).end()

    def left(self):
        return [name for name in links() if name not in self.before]


def become_a_router():
    """The machine passes packets on for whoever sends them."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n", encoding="ascii")


def by(who):
    return pytest.mark.parametrize("_possible", who, indirect=True)


@needs_namespaces
@by(WHO)
class TestVethNetwork(OnAMachine):
    def make(self):
        return VethNetwork("the owner", resolver_files=["/etc/resolv.conf"])

    def left(self):
        table = VethNetwork("the owner")._table
        return [*super().left(), *rules(table), *routers()]

    def test_what_another_owner_made_stays(self):
        async def scenario():
            other = VethNetwork("another", resolver_files=["/etc/resolv.conf"])
            await other.connect("theirs", self.hub())
            theirs = links()
            ours = self.make()
            await ours.reap()
            plan = await ours.connect("a", self.hub())
            assert plan.subnet != (await other.connect("theirs", 0)).subnet
            await ours.close()
            assert links() == theirs
            assert rules(other._table)
            await other.close()

        self.perform(scenario)

    def test_late_news_of_an_end_does_not_disconnect_who_came_since(self):
        async def scenario():
            network, pid = self.make(), self.hub()
            before = links()
            await network.connect("a", pid)
            self.end(pid)
            while links() != before:  # noqa: ASYNC110 - the kernel takes its links along
                await asyncio.sleep(0.001)  # sleep: no event tells
            await network.connect("b", self.hub())
            with_b = links()
            await network.disconnect("a")
            assert links() == with_b
            await network.close()

        self.perform(scenario)

    def test_the_machine_becomes_no_router_for_others(self):
        async def scenario():
            network = self.make()
            assert routers() == []
            await network.connect("a", self.hub())
            assert "wan0" in routers()
            assert "guard_wan0" in rules(network._table)
            await network.close()
            assert routers() == []

        self.perform(scenario)

    def test_a_machine_that_is_a_router_stays_one(self):
        async def scenario():
            become_a_router()
            before = routers()
            network = self.make()
            await network.connect("a", self.hub())
            assert not [chain for chain in rules(network._table) if chain.startswith("guard_")]
            await network.close()
            assert routers() == before

        self.perform(scenario)

    def test_without_a_name_server_that_containers_could_ask_the_hub_answers(self):
        async def scenario():
            put_over("/etc/resolv.conf", "nameserver 127.0.0.53\n")
            network = self.make()
            assert (await network.connect("a", self.hub())).resolvers == ()
            await network.close()

        self.perform(scenario)


@needs_namespaces
@by(WHO)
class TestSlirpNetwork(OnAMachine):
    program = "slirp4netns"

    def make(self):
        return UsermodeNetwork("slirp4netns", shutil.which("slirp4netns"), self.folder)

    def left(self):
        return [*super().left(), *_children("slirp4netns")]


@needs_namespaces
@by([who for who in WHO if who == "user"])
class TestPastaNetwork(OnAMachine):
    program = "pasta"

    def make(self):
        return UsermodeNetwork("pasta", shutil.which("pasta"), self.folder)

    def left(self):
        return [*super().left(), *(file.name for file in self.folder.iterdir()), *_carrying(str(self.folder))]


def _children(name):
    """Programs of this name that this process has started and that run."""
    found = []
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit():
                fields = Path(entry.path, "stat").read_text(encoding="utf-8").rsplit(")", 1)
                if int(fields[1].split()[1]) == os.getpid() and fields[0].split("(", 1)[1] == name:
                    found.append(f"{name} {entry.name}")
        except OSError:
            continue
    return found


def _carrying(folder):
    """Programs whose command line names this folder."""
    found = []
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and folder.encode() in Path(entry.path, "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


class TestFakeNames(NamesContract):
    def make(self, on_refused):
        return FakeNames(on_refused)

    def hub(self):
        return 1000

    async def asks(self, names, address, name):
        return names.ask("hub", address, name)


@needs_namespaces
@pytest.mark.parametrize("_who", WHO, indirect=True)
class TestPorterNames(NamesContract):
    @pytest.fixture(autouse=True)
    def _who(self, request):
        self.who = request.param

    def perform(self, scenario):
        def machine():
            put_over("/etc/resolv.conf", "nameserver 8.8.8.8\n")
            known = ("ok.example.com", "other.example.com", "wild.example.com", "x.wild.example.com")
            internet(["8.8.8.8"], []).serve(serve_names("8.8.8.8", dict.fromkeys(known, "8.8.8.8")))
            asyncio.run(scenario())

        on_a_machine(self.who, machine)

    def make(self, on_refused):
        return PorterNames(on_refused)

    def hub(self):
        wall = Wall()
        wall.plan = PLAN
        wall.hub.do(hub.set_up_hub, hub_message(PLAN))
        self.pods = {address: wall.pod(NetworkPolicy(domains=()), number)[0] for number, address in enumerate((A, B))}
        return wall.hub.pid

    async def asks(self, names, address, name):
        code, found = await asyncio.to_thread(self.pods[address].do, look_up, PLAN.gateway, name)
        return code == 0 and bool(found)
