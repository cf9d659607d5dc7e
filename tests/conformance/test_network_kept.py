"""What containers reach whose walls others make, when their network is ours: on machines made of namespaces.

Real engines, and a real runsc.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import msgspec
import pytest
from tests.conformance.engines import engine, why_not
from tests.conformance.test_runtime_gvisor import FOUND, GvisorStage
from tests.conformance.test_runtime_oci import OciStage
from tests.drivers.network.test_reach import METADATA, OTHER, PRIVATE, PUBLIC, end_here, serve_here, world
from tests.drivers.network.world import links, needs_namespaces, on_a_machine, routers, rules

from jitney.drivers.network.names import PorterNames
from jitney.drivers.network.veth import VethNetwork
from jitney.drivers.network.veth.render import prefix_of, table_of
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.gvisor import GvisorRuntime
from jitney.drivers.runtime.oci import OciRuntime, OciSettings
from jitney.ports.runtime import TemplateFailed
from jitney.runner.failures import decode_failure
from jitney.testing.conformance.runtime import Log
from jitney.testing.namespaces import MACHINE, put_over, with_failures_shown
from jitney.testing.processes import PLAIN, open_stage
from jitney.values.network import NetworkPolicy

pytestmark = [
    pytest.mark.slow,
    needs_namespaces,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the network of an engine's containers is made by it"),
]
OWNER = "test"
WAIT_S = 40  # less than a test has: an engine is stopped then, and not left
TABLE = table_of(prefix_of(OWNER))
ASK = """
def ask(address, port):
    import socket, os
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            return connection.recv(200).decode()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)

def send(address, port, data):
    import socket, os
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            connection.sendall(data)
            return connection.recv(200).decode(errors="replace") or "nothing"
    except OSError as error:
        return "nothing"
"""


class WalledStage(OciStage):
    """With our own network."""

    network = "auto"

    def make_runtime(self) -> OciRuntime:
        settings = OciSettings(socket=self.engine, network=self.network)
        return OciRuntime(self.home, settings=settings, network=VethNetwork(OWNER), names=PorterNames)


class WalledGvisorStage(GvisorStage):
    """With our own network."""

    def make_runtime(self) -> GvisorRuntime:
        return GvisorRuntime(self.home, network=VethNetwork(OWNER), names=PorterNames)


def stage_of(path, wanted="auto"):
    """By the engine that listens at `path`; None: by runsc."""
    if path is None:
        return WalledGvisorStage

    class Stage(WalledStage):
        engine = path
        network = wanted

    return Stage


def whatever_makes(kind):
    """What makes boxes, while it is needed: gives the path of an engine's socket."""
    return nullcontext() if kind == "gvisor" else engine(kind)


def why_none(kind):
    """Why boxes of this kind cannot be made here; '' when they can."""
    return FOUND.why if kind == "gvisor" else why_not(kind)


class Told:
    """A stage, and what its containers say."""

    def __init__(self, stage):
        self.stage = stage
        self.log = Log()

    async def launch(self, code, policy, name):
        stage = self.stage
        spec = msgspec.structs.replace(stage.source(PLAIN + ASK, name), network=policy)
        launch = msgspec.structs.replace(stage.launch_code(code, spec), isolation=stage.tier, network=policy)
        await stage.runtime.open_template(spec, stage.image, cause=launch.container_id, output=self.log.take)
        return await stage.runtime.start(launch, stage.image, self.log.take)

    async def run(self, code, policy, name="plain"):
        """The lines that a container printed."""
        handle = await self.launch(f"{code}\nos._exit(0)\n", policy, name)
        how = await self.stage.runtime.wait(handle)
        assert how.exit_code == 0, self.log.lines
        return self.log.texts(handle.container_id, 1)

    def notes(self):
        """What the platform said in the logs of containers."""
        return [line.text for line in self.log.lines if line.fd == 0]


@asynccontextmanager
async def told(kind, wanted="auto"):
    """What makes boxes, and a runtime by it."""
    with whatever_makes(kind) as path, tempfile.TemporaryDirectory(prefix="jitney-oci-") as folder:
        os.chmod(folder, 0o711)
        async with open_stage(Path(folder), stage_of(path, wanted)) as stage:
            yield Told(stage)


def on_a_machine_with(kind, scenario):
    """Run a scenario on a machine that has an internet, and an engine started there; nothing may be left behind."""
    reason = why_none(kind)
    if reason:
        pytest.skip(reason)

    def run():
        world()
        before, server = links(), serve_here()
        try:
            asyncio.run(asyncio.wait_for(scenario(), WAIT_S))
        finally:
            end_here(server)
        assert links() == before
        assert (rules(TABLE), holders()) == ([], [])
        assert routers() == [] or kind == "docker"  # which makes a router of every machine, and leaves it one

    on_a_machine("root", run)


def ours(names):
    return [name for name in names if name.startswith(prefix_of(OWNER))]


def holders():
    """Processes that hold a network of a container."""
    own = os.stat("/proc/self/ns/user").st_ino
    found = []
    for pid in procfs.pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"hub" in command and os.stat(f"/proc/{pid}/ns/user").st_ino == own and is_below(pid, os.getpid()):
                found.append(pid)
        except OSError:
            continue
    return found


def is_below(pid, ancestor):
    return pid in procfs.tree(ancestor)


KINDS = pytest.mark.parametrize("kind", ["podman", "docker", "gvisor"])
EITHER = pytest.mark.parametrize("kind", ["podman", "gvisor"])
EVERYWHERE = f"""
for address in {[PUBLIC, PRIVATE, OTHER, *METADATA, MACHINE, "127.0.0.1"]!r}:
    print(address, ask(address, 80))
print(open("/etc/resolv.conf").read().split()[1])
"""
REFUSED = ("No route to host", "Network is unreachable")


@KINDS
def test_each_reaches_what_its_policy_allows(kind):
    async def scenario():
        async with told(kind) as one:
            found = dict(line.split(" ", 1) for line in (await one.run(EVERYWHERE, NetworkPolicy()))[:-1])
            for address in (PUBLIC, PRIVATE, OTHER):
                assert found[address] == f"{address} asked by {MACHINE}"
            for address in (*METADATA, MACHINE):
                assert found[address] in REFUSED, address
            assert found["127.0.0.1"] == "Connection refused"  # its own
            policy = NetworkPolicy(cidrs=("10.0.0.0/13", "169.254.0.0/16"))
            found = dict(line.split(" ", 1) for line in (await one.run(EVERYWHERE, policy))[:-1])
            assert found[PRIVATE] == f"{PRIVATE} asked by {MACHINE}"
            for address in (PUBLIC, OTHER, *METADATA, MACHINE):
                assert found[address] in REFUSED, address
            found = await one.run(
                f"import socket\nprint(socket.if_nameindex())\n{EVERYWHERE}", NetworkPolicy(blocked=True)
            )
            assert found[0] == "[(1, 'lo')]"
            assert all("asked by" not in line for line in found)
            assert one.notes() == []

    on_a_machine_with(kind, scenario)


@KINDS
def test_names_are_answered_from_the_machines_resolver_or_from_the_list(kind):
    code = f"""
import socket, struct
def look_up(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    server = open("/etc/resolv.conf").read().split()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        question = labels + b"\\0" + struct.pack(">2H", 1, 1)
        asking.sendto(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + question, (server, 53))
        answer = asking.recv(2000)
    return socket.inet_ntoa(answer[-4:]) if answer[7] else str(answer[3] & 15)
found = look_up("a.example.com")
print(found)
print(look_up("b.example.com"))
print(send(found, 80, b"GET / HTTP/1.1\\r\\nHost: a.example.com\\r\\n\\r\\n"))
print(send(found, 80, b"GET / HTTP/1.1\\r\\nHost: b.example.com\\r\\n\\r\\n"))
print(ask({PUBLIC!r}, 80), ask({PUBLIC!r}, 443))
"""

    async def scenario():
        put_over("/etc/hosts", f"{PUBLIC} a.example.com\n{OTHER} b.example.com\n")
        put_over("/etc/nsswitch.conf", "hosts: files\n")
        async with told(kind) as one:
            assert (await one.run(code, NetworkPolicy()))[0] == PUBLIC
            stands_for, other, answered, disguised, direct = await one.run(
                code, NetworkPolicy(domains=("a.example.com",))
            )
            assert stands_for.startswith("198.19.")
            assert other == "3"  # no such name
            assert answered == f"{PUBLIC} asked by {MACHINE}"
            assert disguised == "nothing"
            assert "asked by" not in direct
            assert any("b.example.com" in note and "refused" in note for note in one.notes())

    on_a_machine_with(kind, scenario)


@KINDS
def test_containers_of_others_are_not_reached(kind):
    serve = """
import socket, struct, threading
def own():
    import fcntl
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return socket.inet_ntoa(fcntl.ioctl(sock, 0x8915, struct.pack("256s", b"eth0"))[20:24])
print(own(), flush=True)
server = socket.create_server(("0.0.0.0", 8080))
print("ready", flush=True)
while True:
    connection, peer = server.accept()
    connection.sendall(b"asked by")
    connection.close()
"""

    async def scenario():
        async with told(kind) as one:
            handle = await one.launch(serve, NetworkPolicy(), "serves")
            await one.log.until(handle.container_id, "ready")
            address = one.log.texts(handle.container_id, 1)[0]
            assert address.startswith("198.18.")
            (said,) = await one.run(f"print(ask({address!r}, 8080))", NetworkPolicy(), "asks")
            assert said in REFUSED
            await one.stage.runtime.destroy(handle)

    on_a_machine_with(kind, scenario)


@EITHER
def test_a_network_that_cannot_be_made_is_none(kind):
    async def scenario():
        async with told(kind) as one:

            def fails(pid):
                raise OSError("no links today")

            one.stage.runtime._boxes.wires._network._connect = fails
            (said,) = await one.run(f"print(ask({PUBLIC!r}, 80))", NetworkPolicy())
            assert said in REFUSED
            assert any("no network" in note for note in one.notes())

    on_a_machine_with(kind, scenario)


@EITHER
def test_a_box_ends_with_what_holds_its_network(kind):
    async def scenario():
        async with told(kind) as one:
            handle = await one.launch("wait()", NetworkPolicy(), "waits")
            await one.log.until(handle.container_id, "ready")
            (holder,) = holders()
            os.kill(holder, signal.SIGKILL)
            assert (await one.stage.runtime.wait(handle)).signal == signal.SIGKILL

    on_a_machine_with(kind, scenario)


@EITHER
def test_of_a_worker_that_was_killed_nothing_is_left(kind):
    async def first(path, folder):
        async with open_stage(Path(folder), stage_of(path)) as stage:
            one = Told(stage)
            handle = await one.launch("wait()", NetworkPolicy(domains=("a.example.com",)), "waits")
            await one.log.until(handle.container_id, "ready")
            assert len(ours(links())) == 1
            os.kill(os.getpid(), signal.SIGKILL)

    async def second(path, folder):
        async with open_stage(Path(folder), stage_of(path)):  # reaps
            assert ours(links()) == []
            assert rules(TABLE) == []

    def run():
        world()
        with whatever_makes(kind) as path, tempfile.TemporaryDirectory(prefix="jitney-oci-") as folder:
            os.chmod(folder, 0o711)
            pid = os.fork()
            if not pid:
                with_failures_shown(lambda: asyncio.run(asyncio.wait_for(first(path, folder), WAIT_S)))
            _, status = os.waitpid(pid, 0)
            assert os.WTERMSIG(status) == signal.SIGKILL
            assert rules(TABLE) != []
            asyncio.run(second(path, folder))
        assert (ours(links()), rules(TABLE), routers(), holders()) == ([], [], [], [])

    if why_none(kind):
        pytest.skip(why_none(kind))
    on_a_machine("root", run)


def test_a_network_of_the_engines_keeps_no_list():
    async def scenario():
        async with told("podman", "bridge") as one:
            with pytest.raises(TemplateFailed) as caught:
                await one.run("", NetworkPolicy(domains=("a.example.com",)))
            message = decode_failure(caught.value.payload, rebuild=False).message
            assert "oci_network" in message

    on_a_machine_with("podman", scenario)
