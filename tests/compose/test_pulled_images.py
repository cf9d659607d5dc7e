"""What fetches images is put together so that containers can use them."""

import asyncio
import os
from pathlib import Path

import pytest

from jitney.compose import registry
from jitney.compose.config import WorkerConfig
from jitney.drivers.pulls.oci.unpacker import default_owners
from jitney.drivers.runtime.oci import OciDockerfiles
from jitney.drivers.walls.machine import ids_of_machine
from jitney.errors import PermissionDeniedError
from jitney.testing.images import make_image, make_tar, member, write_layout
from jitney.values.isolation import Isolation
from jitney.wire.home import Home
from jitney.worker import node


def quiet(line):
    """Hear nothing."""


def test_files_of_layers_belong_to_the_users_behind_walls(tmp_path):
    image = make_image([make_tar([member("a", b"1", uid=0), member("b", b"2", uid=7)])])
    path = write_layout(tmp_path / "layout", {"": image})
    puller = registry.images_of_others(Home(tmp_path / "home"), WorkerConfig())
    (layer,) = asyncio.run(puller.load(str(path), platform="linux/amd64", on_line=quiet)).layers
    ids = ids_of_machine(os.environ)
    root = ids.lines()[0][1]
    other = root + 7 if ids.writer == "root" else root
    assert [(Path(layer) / name).stat().st_uid for name in ("a", "b")] == [root, other]


def test_archives_come_from_where_the_configuration_says(tmp_path):
    image = make_image([make_tar([member("a", b"1")])])
    home = Home(tmp_path / "home")
    own = write_layout(tmp_path / "own", {"": image})
    inside = write_layout(home.root / "images" / "layout", {"": image})

    def load(path, archives="own", policy=Isolation.PROCESS):
        puller = registry.images_of_others(home, WorkerConfig(archives=archives), policy)
        return asyncio.run(puller.load(str(path), platform="linux/amd64", on_line=quiet))

    assert load(own).layers
    assert load(own, archives=str(tmp_path)).layers
    assert load(own, archives=f"own:{tmp_path}", policy=Isolation.NAMESPACES).layers
    for path, options in (
        (inside, {}),
        (own, {"archives": ""}),
        (own, {"archives": "/nowhere:/srv"}),
        (own, {"policy": Isolation.NAMESPACES}),
    ):
        with pytest.raises(PermissionDeniedError):
            load(path, **options)


def test_an_engine_builds_dockerfiles_where_the_policy_allows_its_walls(tmp_path):
    home = Home(tmp_path / "home")
    for policy in (Isolation.PROCESS, Isolation.OCI):
        assert isinstance(registry.dockerfiles(home, policy), OciDockerfiles)
    for policy in (Isolation.NAMESPACES, Isolation.GVISOR):
        why, _ = registry.dockerfiles(home, policy).why_not()
        assert policy.value in why


def test_limits_of_build_steps_are_those_of_the_configuration(tmp_path):
    def settings(**values):
        return registry.build_settings(WorkerConfig(**values))

    assert (settings(build_memory_mib=512).memory_mib, settings(build_cpus=1.5).cpu_milli) == (512, 1_500)
    assert settings().memory_mib == node.memory_mib() * 3 // 4
    assert settings().cpu_milli is None


def test_so_without_being_told():
    assert default_owners() == ":".join(str(number) for number in ids_of_machine(os.environ).lines()[0])


def test_registries_inside_are_those_of_the_configuration(tmp_path):
    puller = registry.images_of_others(Home(tmp_path), WorkerConfig(private_registries="10.9.9.9 b.example"))
    with pytest.raises(PermissionDeniedError, match="private_registries"):
        asyncio.run(puller.pull("10.9.9.8/a/b", on_line=quiet))
