"""What fetches images is put together so that containers can use them."""

import asyncio
import os
from pathlib import Path

import pytest

from jitney.compose import registry
from jitney.compose.config import WorkerConfig
from jitney.drivers.pulls.oci.unpacker import default_owners
from jitney.drivers.walls.machine import ids_of_machine
from jitney.errors import PermissionDeniedError
from jitney.testing.images import make_image, make_tar, member, write_layout
from jitney.wire.home import Home


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


def test_so_without_being_told():
    assert default_owners() == ":".join(str(number) for number in ids_of_machine(os.environ).lines()[0])


def test_registries_inside_are_those_of_the_configuration(tmp_path):
    puller = registry.images_of_others(Home(tmp_path), WorkerConfig(private_registries="10.9.9.9 b.example"))
    with pytest.raises(PermissionDeniedError, match="private_registries"):
        asyncio.run(puller.pull("10.9.9.8/a/b", on_line=quiet))
