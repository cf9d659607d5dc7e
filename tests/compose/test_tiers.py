"""Which runtime a worker has, and what is asked of the machine for it."""

from __future__ import annotations

import pytest

from jitney.compose import registry, tier_checks, tiers
from jitney.compose.config import Config, WorkerConfig
from jitney.compose.tiers import Tier
from jitney.drivers.checkpoints.fake import FakeCheckpointer, FakeMachine
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.network.veth import VethNetwork
from jitney.drivers.runtime.gvisor import GvisorRuntime
from jitney.drivers.runtime.oci import OciRuntime, OciSettings, where
from jitney.values.isolation import Isolation
from jitney.wire.home import Home


def test_every_tier_is_looked_at_and_has_a_driver(monkeypatch):
    monkeypatch.setattr(tiers, "_PROBES", {one: lambda isolation: Tier(isolation=isolation) for one in Isolation})
    assert [tier.isolation for tier in tiers.survey()] == [
        Isolation.GVISOR,
        Isolation.NAMESPACES,
        Isolation.OCI,
        Isolation.PROCESS,
    ]
    assert {one.value for one in Isolation} == set(registry.names("runtime"))


def test_neither_an_engine_nor_gvisor_is_tried_unless_it_is_asked_for(monkeypatch):
    tried = []

    def probe(isolation):
        tried.append(isolation)
        return Tier(isolation=isolation, why="no")

    monkeypatch.setattr(tiers, "_PROBES", dict.fromkeys(Isolation, probe))
    assert tiers.choose("auto") == "process"
    assert tried == [Isolation.NAMESPACES, Isolation.PROCESS]
    assert tiers.choose("gvisor") == "gvisor"


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:2375", "unix:///no/such.sock"])
def test_why_there_is_no_engine_is_said_with_what_to_do(monkeypatch, address):
    monkeypatch.setenv("DOCKER_HOST", address)
    (found,) = tiers.survey((Isolation.OCI,))
    assert "DOCKER_HOST" in found.why
    assert found.remedy


def test_runtimes_are_made_with_their_settings(tmp_path):
    home = Home(tmp_path)
    made = registry.runtime(home, WorkerConfig(runtime="oci", oci_base="debian", oci_network="mine"))
    assert isinstance(made, OciRuntime)
    assert made.settings == OciSettings(base="debian", network="mine")
    assert isinstance(registry.runtime(home, WorkerConfig(runtime="gvisor")), GvisorRuntime)


@pytest.mark.parametrize(
    "runtime, why_no_walls, behind_walls",
    [
        ("process", "", False),
        ("namespaces", "", True),
        ("oci", "", True),
        ("gvisor", "", True),
        ("oci", "no user namespaces", False),
        ("namespaces", "no user namespaces", True),  # and then fails, as its containers do
    ],
)
def test_nothing_stronger_than_a_process_is_built_without_a_wall_where_there_can_be_one(
    runtime, why_no_walls, behind_walls
):
    found = (Tier(isolation=Isolation.NAMESPACES, why=why_no_walls), Tier(isolation=Isolation.PROCESS))
    assert tiers.builds_behind_walls(runtime, lambda: found) is behind_walls


@pytest.mark.parametrize(
    "wanted, driver, is_roots, severity, said",
    [
        ("auto", "veth", True, "ok", "restricted by addresses and domains"),
        ("auto", "veth", False, "warning", "runs without root"),
        ("auto", "none", True, "warning", "not root"),
        ("bridge", "veth", True, "warning", "oci_network is 'bridge'"),
        ("none", "veth", True, "ok", "no network"),
    ],
)
def test_doctor_says_whose_network_containers_of_an_engine_have(
    monkeypatch, tmp_path, wanted, driver, is_roots, severity, said
):
    made = VethNetwork("test") if driver == "veth" else NoNetwork("cut", "install it")
    monkeypatch.setattr(registry, "network", lambda _: made)
    monkeypatch.setattr(where, "find", lambda *_, **__: where.Found(path="/x.sock"))
    monkeypatch.setattr(where, "is_roots", lambda _: is_roots)
    found = tier_checks.network(Home(tmp_path), Config(worker=WorkerConfig(runtime="oci", oci_network=wanted)))
    assert (found.id, found.severity) == ("network", severity)
    assert said in found.what
    assert ("metadata" in found.why, bool(found.fix)) == (severity == "warning", severity == "warning")


def checked(monkeypatch, can, home=None, **worker):
    fake = FakeCheckpointer(FakeMachine(), refuses=can)
    monkeypatch.setattr(registry, "checkpointer", lambda: fake)
    return tier_checks.checkpoints(home, Config(worker=WorkerConfig(**worker)))


def test_doctor_says_whether_containers_can_be_restored(monkeypatch):
    found = checked(monkeypatch, "", runtime="process")
    assert (found.id, found.severity) == ("checkpoints", "ok")
    assert "enable_checkpoint" in found.what
    found = checked(monkeypatch, "no kernel", runtime="process")
    assert (found.severity, found.why) == ("ok", "no kernel")
    assert "not possible here" in found.what
    found = checked(monkeypatch, "", runtime="namespaces")
    assert "not for containers of the tier `namespaces`" in found.what
    assert "runtime process" in found.fix
    found = checked(monkeypatch, "", runtime="process", checkpoints_mib=0)
    assert "checkpoints_mib" in found.fix
