"""What a start asks of a worker: tier, network, snapshot, templates made ahead; and what is told of it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from jitney.server.apps import Apps
from jitney.server.fleet import Fleet
from jitney.server.scaling import Node, RunnerPaths
from jitney.server.state import Pool
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState
from jitney.values.containers import NodeInfo, Snapshot
from jitney.values.functions import FunctionSpec, Resources, Scaling
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy
from jitney.values.volumes import VolumeMount
from jitney.wire.messages import workers as wm

NODE = NodeInfo(node_id="no-1", cpu_milli=4_000, memory_mib=8_000, disk_mib=10_000)


class Stage:
    """A fleet with one machine that does nothing, and what it was told."""

    def __init__(self, **options) -> None:
        numbers = itertools.count(1)
        self.sent = []
        self.fleet = Fleet(
            tokens=itertools.count(1),
            paths=RunnerPaths(runner_socket="r", link_socket="l", segments="s", blobs="b", home="h"),
            container_token=lambda _: "token",
            entropy=lambda size: next(numbers).to_bytes(size, "big"),
            wall_ms=lambda: 1_000,
            **options,
        )
        self.apps = Apps(self.fleet.router, self.fleet)
        self.attach()

    def attach(self, info=NODE):
        self.fleet.attach(info, (), Node(info, self.sent.append))

    def publish(self, *specs, app_id="ap-1", state=AppState.DEPLOYED):
        record = AppRecord(app_id=app_id, name="a", state=state)
        return self.apps.add(record, {f"fu-{app_id}-{spec.name}": spec for spec in specs})

    def start(self, spec):
        pool = Pool("fu-9", "ap-9", spec)
        self.fleet.router.pools["fu-9"] = pool
        self.fleet.scaler.scale(pool)
        return pool

    def told(self, kind):
        return [one for one in self.sent if isinstance(one, kind)]

    def launch(self, **fields):
        self.start(function(**fields))
        [command] = self.told(wm.StartContainer)
        return command.launch


def function(name="f", **fields):
    return FunctionSpec(name=name, module="m", qualname=name, **{"scaling": Scaling(), **fields})


ONE = {"scaling": Scaling(min_containers=1)}


def play(act, **options):
    async def main():
        act(Stage(**options))

    asyncio.run(main())


@pytest.mark.parametrize(
    "policy, asked, found",
    [
        (Isolation.PROCESS, None, Isolation.PROCESS),
        (Isolation.NAMESPACES, None, Isolation.NAMESPACES),
        (Isolation.NAMESPACES, Isolation.PROCESS, Isolation.NAMESPACES),
        (Isolation.OCI, Isolation.GVISOR, Isolation.GVISOR),
    ],
)
def test_the_stricter_of_policy_and_function_holds(policy, asked, found):
    def act(stage):
        launch = stage.launch(isolation=asked, **ONE)
        assert launch.isolation is found
        assert launch.template.isolation is found

    play(act, isolation=policy)


def test_network_and_disk_go_along():
    network = NetworkPolicy(domains=("pypi.org",))

    def act(stage):
        launch = stage.launch(network=network, resources=Resources(ephemeral_disk_mib=100), **ONE)
        assert launch.network == launch.template.network == network
        assert launch.resources.ephemeral_disk_mib == 100

    play(act)


def test_a_snapshot_is_of_a_class_with_its_parameters_and_variables():
    spec = {"is_class": True, "parameters": b"p", "env": {"B": "2", "A": "1"}, "startup_timeout_ms": 9_000}

    def act(stage):
        template = stage.launch(name="Model", snapshot=True, **spec, **ONE).template
        assert template.snapshot == Snapshot(
            qualname="Model", parameters=b"p", env=(("A", "1"), ("B", "2")), timeout_ms=9_000
        )

    def is_bounded(stage):
        resources = Resources(memory_mib=64, memory_limit_mib=128)
        template = stage.launch(snapshot=True, resources=resources, **spec, **ONE).template
        assert template.snapshot.memory_limit_mib == 128

    def has_volumes(stage):
        mount = VolumeMount(path="/w", volume_id=ids.make(ids.VOLUME, bytes(16)))
        assert stage.launch(snapshot=True, volumes=(mount,), **spec, **ONE).template.snapshot.volumes == (mount,)

    play(act)
    play(is_bounded)
    play(has_volumes)
    play(lambda stage: _has_none(stage.launch(snapshot=False, **spec, **ONE)))
    play(lambda stage: _has_none(stage.launch(snapshot=True, **ONE)))  # a function


def _has_none(launch):
    assert launch.template.snapshot is None


def test_a_disk_that_no_machine_has_is_refused_with_the_reason():
    def act(stage):
        pool = stage.start(function(resources=Resources(ephemeral_disk_mib=20_000), **ONE))
        assert pool.why == "1 node: its disk has 10,000 MiB, 20,000 are asked for"
        assert stage.sent == []
        stage.attach(NodeInfo(node_id="no-2", cpu_milli=4_000, memory_mib=8_000))  # its disk is not known
        assert len(stage.told(wm.StartContainer)) == 1

    play(act)


def test_templates_of_a_deployed_app_are_made_ahead_and_withdrawn_when_nobody_needs_them():
    other = {"image_id": "im-2"}

    def act(stage):
        keeping = function("g", image_id="im-3", scaling=Scaling(buffer_containers=1))
        app = stage.publish(function("f"), function("f2"), function("h", **other), keeping)
        asked = {(one.template.image_id, one.keep) for one in stage.told(wm.PrewarmTemplate)}
        assert asked == {("", False), ("im-2", False), ("im-3", True)}
        assert len(stage.told(wm.PrewarmTemplate)) == 3
        stage.publish(function("h", **other), app_id="ap-2")
        stage.publish(function("f"), function("h", **other))  # g is not in the new version
        assert [one.template.image_id for one in stage.told(wm.WithdrawTemplate)] == ["im-3"]
        stage.sent.clear()
        for pool in stage.apps.pools_of("ap-1"):
            stage.fleet.stop_pool(pool, "over")
        stage.apps.forget(app)
        assert {one.template.image_id for one in stage.told(wm.WithdrawTemplate)} == {"", "im-3"}

    play(act)


def test_an_app_of_a_client_has_its_one_template_made_ahead_and_no_user_code_run():
    def act(stage):
        stage.publish(function("f"), function("g"), state=AppState.EPHEMERAL)
        assert len(stage.told(wm.PrewarmTemplate)) == 1
        stage.sent.clear()
        stage.publish(function("f"), function("h", image_id="im-2"), app_id="ap-2", state=AppState.EPHEMERAL)
        stage.publish(function("M", is_class=True, snapshot=True), app_id="ap-3", state=AppState.EPHEMERAL)
        assert stage.told(wm.PrewarmTemplate) == []

    play(act)


def test_a_worker_that_is_new_is_told_what_is_kept():
    def act(stage):
        stage.publish(function("f"), function("g", image_id="im-3", scaling=Scaling(buffer_containers=1)))
        stage.sent.clear()
        stage.attach()  # the same one, back
        assert stage.sent == []
        stage.attach(NodeInfo(node_id="no-2", cpu_milli=4_000, memory_mib=8_000))
        assert [(one.template.image_id, one.keep) for one in stage.told(wm.PrewarmTemplate)] == [("im-3", True)]

    play(act)


def test_where_the_time_of_a_start_went_is_on_its_record_and_a_slow_one_is_logged(caplog):
    def act(stage):
        container_id = stage.launch(**ONE).container_id
        container = stage.fleet.containers[container_id]
        phases = {"template": 1_500.0, "import": 1_400.0, "fork": 3.0, "nonsense": 1.0}
        started = wm.ContainerStarted(container_id=container_id, pid=7, phases_ms=phases, note="why")
        with caplog.at_level("INFO", "jitney.fleet"):
            stage.fleet.became_ready(container, {"load": 1.0, "enter": "x"})  # the container was first
            assert caplog.text == ""
            stage.fleet.spawned(started)
            stage.fleet.spawned(started)
        record = container.record()
        assert record.phases_ms == {"template": 1_500.0, "import": 1_400.0, "fork": 3.0, "load": 1.0}
        assert record.start_note == "why"
        assert caplog.text.count("a start of f took 1.5 s, most of it import") == 1

    play(act)
