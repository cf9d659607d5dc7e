"""What goes wrong in a build ends in one typed error, and nothing half-made is left: real pulls, no network."""

import asyncio
import errno
import os
import platform

import pytest
from tests.drivers.test_builder_rootfs import Stage as RootStage

from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.local import LocalBuilder, disk
from jitney.drivers.pulls.oci import OciPuller, PullSettings
from jitney.errors import (
    ImageBuildError,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    StorageFullError,
    UnsupportedError,
)
from jitney.testing.images import make_image, make_index, make_layer, make_tar, member, write_archive, write_layout
from jitney.testing.wheels import make_wheel
from jitney.values.images import (
    AptInstall,
    CopyTree,
    ImageSpec,
    Named,
    OciArchive,
    PipInstall,
    Registry,
    RunCommands,
)

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OTHER = "arm64" if MACHINE == "amd64" else "amd64"
FILES = make_layer({"bin/": b"", "bin/sh": b"#!", "etc/": b""})


class Stage(RootStage):
    """The builder with the real puller: images lie in files."""

    def __init__(self, folder):
        super().__init__(folder)
        self.layers = folder / "layers"
        self.puller = OciPuller(self.layers, settings=PullSettings(archives=(str(folder / "given"),)))

    def archive(self, image, name="image.tar"):
        layout = write_layout(self.folder / "given" / f"layout-{name}", {"": image})
        return OciArchive(path=str(write_archive(self.folder / "given" / name, layout)))

    def leftovers(self):
        """All that only a build which ended well may leave."""
        half = [
            *self.images.glob("im-*/image.json"),
            *self.images.glob("im-*/environment.json"),
            *self.images.glob("im-*/env-*"),
            *self.images.glob("roots/*/root.json"),
            *self.images.glob("roots/*/fs-*"),
            *self.images.glob("steps/*"),
            *self.images.glob("leases/*"),
            *self.images.glob("trash/*"),
        ]
        pulled = [path for path in self.layers.glob("layers/*") if path.is_dir()]
        return [*half, *pulled]


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def fails(stage, kind, *layers, base, match, **options):
    with pytest.raises(kind, match=match) as raised:
        stage.build(*layers, base=base, **options)
    assert type(raised.value) is kind
    assert stage.leftovers() == []
    assert asyncio.run(stage.builder().reap()) == 0
    return raised.value


def test_a_base_that_does_not_exist(stage):
    error = fails(
        stage, InvalidError, base=OciArchive(path=str(stage.folder / "given" / "no.tar")), match="No such file"
    )
    assert "worker's machine" in error.hint
    base = stage.archive(make_image([FILES]))
    wrong = OciArchive(path=base.path, reference="app:2")
    fails(stage, NotFoundError, base=wrong, match="has no image 'app:2'")
    fails(stage, NotFoundError, base=Named(reference="nobody"), match="no image 'nobody'")
    fails(stage, PermissionDeniedError, base=OciArchive(path="/etc/passwd"), match="in no folder")


def test_a_base_for_another_processor(stage):
    index = make_index({f"linux/{OTHER}": make_image([FILES], architecture=OTHER)})
    error = fails(stage, NotFoundError, base=stage.archive(index), match=f"linux/{MACHINE}")
    assert OTHER in f"{error.message} {error.hint}"


@pytest.mark.parametrize(
    "members",
    [
        [member("../../../evil", b"1")],
        [member("a", kind=b"2", target="/etc"), member("a/evil", b"1")],
        [member("a", kind=b"1", target="../../../etc/passwd")],
        [member("dev/mem", kind=b"3", devmajor=1, devminor=1), member("x/mem", kind=b"3", devmajor=1, devminor=1)],
    ],
    ids=["leads out", "through a link", "hard link out", "device"],
)
def test_a_hostile_archive(stage, members):
    base = stage.archive(make_image([make_tar(members)], architecture=MACHINE))
    fails(stage, InvalidError, base=base, match="a layer is refused")
    assert not [*stage.folder.rglob("evil")]


def test_an_archive_that_is_cut_off(stage):
    base = stage.archive(make_image([FILES], architecture=MACHINE))
    with open(base.path, "r+b") as file:
        file.truncate(os.path.getsize(base.path) // 2)
    fails(stage, InvalidError, base=base, match=r"refused|lacks")


def test_apt_on_a_base_without_apt(stage):
    base = stage.archive(make_image([FILES], architecture=MACHINE))
    with pytest.raises(UnsupportedError, match="no apt-get") as raised:
        stage.build(AptInstall(packages=("git",)), base=base)
    assert "run_commands" in raised.value.hint
    # The base is whole, and stays for the next try; nothing of the step or of the image does.
    assert len(list(stage.images.glob("roots/*/root.json"))) == 1
    assert not list(stage.images.glob("roots/*/fs-*"))
    assert not list(stage.images.glob("im-*/*.json"))
    assert asyncio.run(stage.builder().reap()) == 0


def test_a_wheel_for_another_python(tmp_path):
    wheels = tmp_path / "wheels"
    made = make_wheel(wheels, "tiny")
    made.rename(made.with_name("tiny-1.0-cp399-cp399-manylinux_2_17_x86_64.whl"))
    builder = LocalBuilder(tmp_path / "images", HostBox(), pip_config={})
    install = PipInstall(requirements=("tiny",), find_links=str(wheels), extra_options="--no-index")
    with pytest.raises(ImageBuildError, match=r"step 2 of 2 \(pip install tiny\) failed") as raised:
        asyncio.run(builder.build(ImageSpec(layers=(install,)), lambda *_: None))
    assert "tiny" in raised.value.message
    assert "cp399" in raised.value.message  # which Python it is for
    assert not list((tmp_path / "images").glob("im-*/env-*"))
    assert asyncio.run(builder.reap()) == 0


@pytest.mark.parametrize("what", ["commit", "settle"])
def test_a_disk_that_is_full_in_mid_build(stage, monkeypatch, what):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = stage.source(a="A")
    spec = stage.spec(
        RunCommands(commands=("true",)), CopyTree(source_id=source, target="/data/"), base=Registry(reference="x")
    )
    stage.puller = RootStage(stage.folder / "other").puller
    stage.puller.images["x"] = stage.puller.images["python:slim"]
    whole = getattr(disk, what)
    monkeypatch.setattr(disk, what, full)
    with pytest.raises(StorageFullError) as raised:
        asyncio.run(stage.builder().build(spec, lambda *_: None))
    assert "free some space" in raised.value.hint
    monkeypatch.setattr(disk, what, whole)
    assert not list(stage.images.glob("roots/*/fs-*"))
    assert not list(stage.images.glob("steps/*"))
    assert asyncio.run(stage.builder().reap()) == 0
