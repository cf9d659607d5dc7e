"""Both builders, by the contract of their port."""

import asyncio
import importlib.metadata
import os
import stat

import msgspec
import pytest
from tests.drivers.test_builder_rootfs import BASE
from tests.drivers.test_builder_rootfs import Stage as RootStage

from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.fake import FakeBuilder
from jitney.drivers.builder.local import LocalBuilder
from jitney.testing.conformance.builder import BuilderContract
from jitney.testing.conformance.builder_images import ImagesContract
from jitney.testing.conformance.builder_volumes import VolumesContract
from jitney.testing.wheels import make_wheel
from jitney.values.images import ImageSpec, PipInstall, RunCommands

FAKE_SPEC = ImageSpec(layers=(PipInstall(requirements=("six",)),))


class FakeStage:
    def __init__(self, folder):
        self.folder = folder
        self.gate = None

    def working(self):
        return FakeBuilder(), FAKE_SPEC

    def failing(self):
        return FakeBuilder(fail_at=2, lines=("resolving", "no such package")), FAKE_SPEC

    def gated(self):
        class Gated(FakeBuilder):
            async def _build(self, plan, emit, lender):
                stage.gate = self.gate = asyncio.Event()
                await super()._build(plan, lambda *event: self._told(emit, event), lender)

            def _told(self, emit, event):
                emit(*event)
                if event[0] == 2 and not event[2]:
                    emit(2, event[1], "waiting")

        stage = self
        return Gated(), FAKE_SPEC

    def release(self):
        self.gate.set()

    def is_there(self, image):
        return True  # it is in memory

    def writing(self, *, fails=False):
        upper = self.folder / "upper"
        upper.mkdir()
        (upper / "made").write_text("new")
        builder = FakeBuilder(upper=str(upper), fail_at=2 if fails else None)
        return builder, lambda mount: ImageSpec(layers=(RunCommands(commands=("true",), volumes=(mount,)),))


class LocalStage:
    """Real uv where it works; a script in its place where it must fail or wait."""

    def __init__(self, folder):
        self.folder = folder
        self.wheels = folder / "wheels"
        self.fifo = folder / "gate"

    def _spec(self, name):
        make_wheel(self.wheels, "tinypackage")
        install = PipInstall(requirements=(name,), find_links=str(self.wheels), extra_options="--no-index")
        return ImageSpec(layers=(install,))

    def _script(self, text):
        path = self.folder / "uv"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return LocalBuilder(self.folder / "images", HostBox(), uv=str(path), pip_config={})

    def working(self):
        return LocalBuilder(self.folder / "images", HostBox(), pip_config={}), self._spec("tinypackage")

    def failing(self):
        return self._script("echo resolving; echo no such package >&2; exit 2"), self._spec("tinypackage")

    def gated(self):
        os.mkfifo(self.fifo)
        return self._script(f"echo waiting; read line < {self.fifo}; echo done"), self._spec("tinypackage")

    def release(self):
        self.fifo.write_text("go\n")

    def is_there(self, image):
        return all(map(os.path.isdir, (*image.layers, *image.mounts))) and os.access(image.python_path, os.X_OK)

    def writing(self, *, fails=False):
        """Real layers, in a box that does what a script says."""
        stage = RootStage(self.folder)
        for name in ("cloudpickle", "msgspec"):
            make_wheel(self.wheels, name, importlib.metadata.version(name))

        def act(run):
            run.put("/data/made", "new")
            return 7 if fails else 0

        stage.machine.at_run["write"] = act
        config = {"global.find-links": str(self.wheels), "global.no-index": "true"}
        layer = RunCommands(commands=("write",))
        return stage.builder(pip_config=config), lambda mount: ImageSpec(
            base=BASE, layers=(msgspec.structs.replace(layer, volumes=(mount,)),)
        )


class TestFake(BuilderContract, ImagesContract, VolumesContract):
    @pytest.fixture
    def stage(self, tmp_path):
        return FakeStage(tmp_path)


class TestLocal(BuilderContract, ImagesContract, VolumesContract):
    @pytest.fixture
    def stage(self, tmp_path):
        return LocalStage(tmp_path)
