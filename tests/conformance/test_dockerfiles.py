"""What builds Dockerfiles, by the contract of its port: the fake, and engines where they can be had."""

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tests.conformance import engines

from jitney.drivers.box.namespaces import NamespacesBox
from jitney.drivers.builder.local import LocalBuilder, Settings
from jitney.drivers.builder.local.interpreters import mounts_of, own_interpreter
from jitney.drivers.dockerfiles.fake import FakeDockerfiles
from jitney.drivers.dockerfiles.none import NoDockerfiles
from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.pulls.oci import OciPuller
from jitney.drivers.runtime.oci import OciDockerfiles, building
from jitney.drivers.runtime.oci.engine import EngineClient
from jitney.drivers.walls.probe import probe
from jitney.errors import ImageBuildError, UnsupportedError
from jitney.ports.dockerfiles import DockerfileOrder
from jitney.testing.conformance.dockerfiles import DockerfilesContract
from jitney.testing.images import make_image, make_layer, write_docker_archive
from jitney.testing.wheels import make_wheel
from jitney.values.images import Dockerfile, ImageSpec, RunCommands

BUSYBOX = shutil.which("busybox") or ""
SOURCE = "so-" + "A" * 22
WAIT_S = 20
TWO_STAGES = """\
FROM scratch AS tools
COPY bin /bin
RUN ["/bin/busybox", "sh", "-c", "echo yes > /made"]
FROM tools
ENV A=b
COPY --from=tools /made /made
USER 1000
"""


class FakeStage:
    def __init__(self, folder):
        image = make_image([make_layer({"made": b"yes"})], config={"Env": ["A=b"]})
        path = write_docker_archive(folder / "fake.tar", {"app:1": image})
        self.archive = path.read_bytes()
        self.order = DockerfileOrder(base=Dockerfile(text=TWO_STAGES))
        self.builder = None

    def made(self, **options):
        self.builder = FakeDockerfiles(self.archive, **options)
        return self.builder, self.order

    def working(self):
        return self.made()

    def failing(self):
        return self.made(lines=("it went wrong",), fails=True)

    def gated(self):
        return self.made(lines=("waiting",), gate=asyncio.Event())

    def left(self):
        return self.builder.running


class EngineStage:
    """A context whose only program is a static busybox: no registry is asked."""

    def __init__(self, folder, path):
        self.path = path
        self.context = folder / "context"
        (self.context / "bin").mkdir(parents=True)
        shutil.copy(BUSYBOX, self.context / "bin" / "busybox")
        (self.context / "bin" / "sh").hardlink_to(self.context / "bin" / "busybox")

    def made(self, *lines):
        text = TWO_STAGES + "".join(f"{line}\n" for line in lines)
        order = DockerfileOrder(base=Dockerfile(text=text), context=self.context)
        return OciDockerfiles({}, owner="conformance", socket=self.path), order

    def working(self):
        return self.made()

    def failing(self):
        return self.made("RUN echo it went wrong; exit 3")

    def gated(self):
        # A number that no build had: what is cached would not run again.
        return self.made(f"RUN echo {time.time_ns()}; echo waiting; while :; do /bin/busybox sleep 1; done")

    def left(self):
        async def names():
            client = EngineClient(self.path)
            try:
                return len(await client.image_names(f"{building.LABEL}=conformance"))
            finally:
                await client.close()

        return asyncio.run(names())


class TestFake(DockerfilesContract):
    @pytest.fixture
    def stage(self, tmp_path):
        return FakeStage(tmp_path)


@pytest.fixture(scope="module", params=["podman", "docker"])
def socket(request):
    reason = engines.why_not(request.param) or ("" if BUSYBOX else "needs a static busybox")
    if reason:
        pytest.skip(reason)
    with engines.engine(request.param) as path:
        yield path


class TestEngine(DockerfilesContract):
    @pytest.fixture
    def stage(self, tmp_path, socket):
        return EngineStage(tmp_path, socket)

    def test_2_arguments_and_files_of_the_context_are_in_it(self, stage, tmp_path):
        (stage.context / "hello").write_text("hello")
        (stage.context / "folder").mkdir()
        (stage.context / "folder" / "inner").write_text("inner")
        builder, _ = stage.working()
        base = Dockerfile(
            text="FROM scratch\nARG place\nCOPY hello /$place\nCOPY folder /folder\n", build_args={"place": "there"}
        )
        order = DockerfileOrder(base=base, context=stage.context)
        asyncio.run(builder.build(order, tmp_path / "image.tar", lambda _: None))
        puller = OciPuller(tmp_path / "layers")
        image = asyncio.run(puller.load(str(tmp_path / "image.tar"), is_own=True, on_line=lambda _: None))
        files = [one for layer in image.layers for one in Path(layer).rglob("*") if one.is_file()]
        assert {one.name: one.read_text() for one in files} == {"there": "hello", "inner": "inner"}

    def test_4_a_file_that_is_not_there_is_named(self, stage, tmp_path):
        builder, _ = stage.working()
        order = DockerfileOrder(base=Dockerfile(text="FROM scratch\nCOPY no-such-file /\n"))
        with pytest.raises(ImageBuildError, match="no-such-file"):
            asyncio.run(builder.build(order, tmp_path / "image.tar", lambda _: None))

    def test_5_what_a_killed_run_left_is_removed_and_what_runs_is_not(self, stage, tmp_path):
        builder, order = stage.working()

        async def scene():
            client = EngineClient(stage.path)
            try:
                for tag in ("left", "runs"):
                    query = building.render_query(order, f"{building.REPOSITORY}:{tag}", "conformance")
                    await client.build(building.context_of(order), query=query, on_line=lambda _: None)
                builder._tags.add(f"{building.REPOSITORY}:runs")
                await builder.build(order, tmp_path / "image.tar", lambda _: None)
                there = await client.image_names(f"{building.LABEL}=conformance")
                await client.remove_image(f"{building.REPOSITORY}:runs", force=True)
                return there
            finally:
                await client.close()

        assert asyncio.run(scene()) == [f"{building.REPOSITORY}:runs"]


def test_where_none_may_be_used_it_says_why(tmp_path):
    nobody = NoDockerfiles(why="the policy forbids it", remedy="ask somebody")
    assert nobody.why_not() == ("the policy forbids it", "ask somebody")
    with pytest.raises(UnsupportedError, match="the policy forbids it"):
        asyncio.run(nobody.build(DockerfileOrder(base=Dockerfile(text="FROM scratch")), tmp_path / "x", print))


@pytest.mark.skipif(bool(probe().why), reason=f"no walls here: {probe().why}")
@pytest.mark.skipif(not mounts_of(own_interpreter()), reason="this machine's Python is part of its system")
@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd, to make an image of this machine's programs")
def test_a_dockerfile_is_built_by_an_engine_and_its_layers_are_the_image(tmp_path, socket, monkeypatch):
    """All of it: an engine, layers of what it made, a Python that is added, and a step on top behind our own wall."""
    tmp_path.chmod(0o711)
    monkeypatch.setenv("UV_OFFLINE", "1")
    stage = EngineStage(tmp_path, socket)
    stage.context.rename(tmp_path / SOURCE)
    (tmp_path / "sources").mkdir()
    (tmp_path / SOURCE).rename(tmp_path / "sources" / SOURCE)
    for name in ("cloudpickle", "msgspec"):
        make_wheel(tmp_path / "wheels", name, importlib.metadata.version(name))
    box = NamespacesBox(
        tmp_path / "boxes", limiter=NoLimiter(why="not looked at here"), network=NoNetwork(why="", remedy="")
    )
    builder = LocalBuilder(
        tmp_path / "images",
        box,
        Settings(memory_mib=512, cpu_milli=1_000),
        puller=OciPuller(tmp_path / "layers"),
        dockerfiles=OciDockerfiles({}, owner="conformance", socket=socket),
        pip_config={"global.find-links": str(tmp_path / "wheels")},
    )
    libraries = _libraries_of(own_interpreter(), tmp_path / "sources" / SOURCE)
    base = Dockerfile(
        text=TWO_STAGES + "".join(f"COPY {one} /{one}\n" for one in libraries),
        context_id=SOURCE,
        add_python=".".join(platform.python_version_tuple()[:2]),
        why="line 4: it has several stages",
    )
    lines = []
    spec = ImageSpec(base=base, layers=(RunCommands(commands=("/bin/busybox cat /made; /bin/busybox id -u",)),))
    image = asyncio.run(builder.build(spec, lambda *event: lines.append(event[3])))
    assert lines[-2:] == ["yes", "0"]
    assert image.env["A"] == "b"
    assert len(image.layers) > 1
    assert not list((tmp_path / "images" / "steps").glob("*/"))
    assert builder.cached(builder.plan(spec)) == (True, True, True)
    wrong = ImageSpec(base=Dockerfile(text="FROM scratch\nRUN nothing", why="x"))
    with pytest.raises(ImageBuildError, match=r"step 1 of 3 .*the Dockerfile cannot be built"):
        asyncio.run(builder.build(wrong, lambda *_: None))
    assert asyncio.run(builder.reap()) == 0


def _libraries_of(program, into):
    """What a program needs to start, copied into a context; the folders that it is in."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(/\S+)(?= \(0x)", said):
        target = into / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), target)
    return sorted({one.name for one in into.iterdir() if one.name != "bin"})
