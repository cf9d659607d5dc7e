"""What the runtime does when an engine does not do what it is asked for: with an engine made for it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from jitney.drivers.runtime.kept.keeper import BoxFailed
from jitney.drivers.runtime.oci import OciDockerfiles, building
from jitney.drivers.runtime.oci.driver import OciBoxes, OciRuntime, OciSettings
from jitney.drivers.runtime.oci.engine import EngineClient, EngineError
from jitney.errors import ImageBuildError, StorageFullError, UnsupportedError
from jitney.ports.dockerfiles import DockerfileOrder
from jitney.ports.runtime import TemplateFailed
from jitney.runner.failures import decode_failure
from jitney.testing.processes import ProcessStage
from jitney.values.containers import TemplateSpec
from jitney.values.images import Dockerfile
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy
from jitney.wire.home import Home

WAIT_S = 20


class FakeEngine:
    """As much of an engine as there is to be wrong. A container that runs connects as a keeper would."""

    def __init__(self) -> None:
        self.containers: dict[str, dict] = {}
        self.images: dict[str, str] = {}  # label -> id
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, dict]] = {}  # "POST /containers/create" -> status, body; once
        self.missing: set[str] = set()  # images
        self.exits: int | None = None  # what a container ends with as soon as it is started
        self.hangs = ""  # the path that gets no answer
        self.keepers: list[socket.socket] = []
        self.connected = asyncio.Event()  # a keeper has
        self._ended: dict[str, asyncio.Event] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.partition("/v1.40")[2]
        what = f"{request.method} {path}"
        self.asked.append(what)
        if self.hangs and self.hangs in path:
            await asyncio.sleep(WAIT_S)
        if what in self.answers:
            status, body = self.answers.pop(what)
            return web.json_response(body, status=status)
        if path == "/containers/create":
            return self.create(request.query["name"], await request.json())
        if path == "/images/create":
            return await self.make_image(request)
        if path in ("/version", "/info"):
            return web.json_response({"Version": "1"})
        if path == "/networks":
            return web.json_response([{"Name": "bridge"}])
        if path == "/images/json":
            (label,) = json.loads(request.query["filters"])["label"]
            return web.json_response([{"Id": one} for one in (self.images.get(label),) if one])
        if path == "/containers/json":
            return web.json_response([{"Id": name} for name in self.containers])
        return await self.of_container(request.method, path.split("/"))

    def create(self, name, body):
        if name in self.containers:
            return web.json_response({"message": f"the name {name} is in use"}, status=409)
        if body["Image"] in self.missing:
            return web.json_response({"message": f"No such image: {body['Image']}"}, status=404)
        self.containers[name] = body
        self._ended[name] = asyncio.Event()
        return web.json_response({"Id": name}, status=201)

    async def make_image(self, request):
        if "fromImage" in request.query:
            self.missing.discard(request.query["fromImage"].removesuffix(":latest"))
            return web.json_response({"status": "pulled"})
        self.images[request.query["changes"].removeprefix("LABEL ")] = "sha256:made"
        await request.read()
        return web.Response(text='{"status":"sha256:made"}\n')

    async def of_container(self, method, parts):
        name, action = parts[2], parts[3] if len(parts) > 3 else ""
        if name not in self.containers:
            return web.json_response({"message": f"No such container: {name}"}, status=404)
        if method == "DELETE":
            del self.containers[name]
            self._ended[name].set()
            return web.Response(status=204)
        if action == "start":
            self.start(name)
            return web.Response(status=204)
        if action == "wait":
            await self._ended[name].wait()
            return web.json_response({"StatusCode": self.exits or 0})
        if action == "logs":
            return web.Response(body=b"\x02\0\0\0\0\0\0\x08no luck\n")
        return web.json_response({"State": {"OOMKilled": self.exits == 137}})

    def start(self, name):
        if self.exits is not None:
            self._ended[name].set()
            return
        binds = self.containers[name]["HostConfig"]["Binds"]
        control = next(one.split(":")[0] for one in binds if ":/run/jitney/control:" in one)
        keeper = socket.socket(socket.AF_UNIX)
        keeper.connect(f"{control}/keeper.sock")
        self.keepers.append(keeper)
        self.connected.set()

    def count(self, what):
        return len([one for one in self.asked if one.startswith(what)])


class Stage:
    """A runtime, and the engine that it uses."""

    def __init__(self, root: Path) -> None:
        self.engine = FakeEngine()
        self.home = Home(root / "home")
        self.path = str(root / "engine.sock")
        for folder in (self.home.containers, self.home.sockets, self.home.sources):
            folder.mkdir(parents=True)
        self.runtime = self.make()
        self.spec = TemplateSpec(image_id="im-1", isolation=Isolation.OCI)

    def make(self, **settings):
        return OciRuntime(self.home, settings=OciSettings(socket=self.path, **settings))

    async def open(self, spec=None):
        """Open a template that will never load: until its box is there."""
        opening = asyncio.ensure_future(
            self.runtime.open_template(spec or self.spec, ProcessStage.image, cause="ta-1", output=lambda _: True)
        )
        await asyncio.wait(
            {opening, asyncio.ensure_future(self.engine.connected.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        self.engine.connected.set()  # for whoever still waits
        self.engine.connected = asyncio.Event()
        return opening

    async def fails(self, spec=None):
        """The reason why a template cannot be opened."""
        opening = await self.open(spec)
        with pytest.raises(TemplateFailed) as failed:
            await opening
        assert not list(self.home.containers.iterdir())
        assert not list(self.home.sockets.parent.glob("k-*"))
        return decode_failure(failed.value.payload, rebuild=False).message


def play(tmp_path, scene):
    """Run a scene with an engine; nothing of it may be left there."""

    async def main():
        stage = Stage(tmp_path)
        runner = web.AppRunner(_app(stage.engine), shutdown_timeout=0.1)
        await runner.setup()
        stage.site = web.UnixSite(runner, stage.path)
        await stage.site.start()
        stage.stop = runner.cleanup
        async with asyncio.timeout(WAIT_S):
            try:
                await scene(stage)
                await stage.runtime.close()
            finally:
                await runner.cleanup()
                for keeper in stage.engine.keepers:
                    keeper.close()

    asyncio.run(main())


def _app(engine):
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    return app


def test_an_image_is_made_once(tmp_path):
    async def scene(stage):
        for _ in range(2):
            opening = await stage.open()
            opening.cancel()
            await asyncio.wait({opening})
        assert stage.engine.count("POST /images/create") == 1
        assert stage.engine.count("POST /containers/create") == 2

    play(tmp_path, scene)


def test_an_image_that_the_engine_lacks_is_said_to_be_missing(tmp_path):
    async def scene(stage):
        stage.engine.missing.add("sha256:made")
        assert "No such image" in await stage.fails()

    play(tmp_path, scene)


def test_a_base_that_the_engine_lacks_is_fetched(tmp_path):
    async def scene(stage):
        await stage.runtime.close()
        stage.runtime = stage.make(base="debian")
        stage.engine.missing.add("debian")
        opening = await stage.open()
        (body,) = stage.engine.containers.values()
        assert body["Image"] == "debian"
        opening.cancel()
        await asyncio.wait({opening})

    play(tmp_path, scene)


def test_a_name_that_is_taken_is_of_an_earlier_run(tmp_path):
    async def scene(stage):
        stage.engine.answers["POST /containers/create"] = (409, {"message": "in use"})
        opening = await stage.open()
        assert stage.engine.count("DELETE /containers/") == 1
        assert len(stage.engine.containers) == 1
        opening.cancel()
        await asyncio.wait({opening})

    play(tmp_path, scene)


def test_a_container_that_cannot_be_started_is_removed(tmp_path):
    async def scene(stage):
        stage.engine.hangs = ""
        real = stage.engine.of_container

        async def refuse(method, parts):
            if parts[-1] == "start":
                return web.json_response({"message": "no such device"}, status=500)
            return await real(method, parts)

        stage.engine.of_container = refuse
        assert "no such device" in await stage.fails()
        assert stage.engine.containers == {}

    play(tmp_path, scene)


@pytest.mark.parametrize("code, why", [(1, "exit code 1\nno luck"), (137, "out of memory\nno luck")])
def test_a_container_that_ends_at_once_says_why(tmp_path, code, why):
    async def scene(stage):
        stage.engine.exits = code
        assert why in await stage.fails()
        assert stage.engine.containers == {}

    play(tmp_path, scene)


def test_a_policy_that_cannot_be_kept_has_the_engine_make_nothing(tmp_path):
    async def scene(stage):
        spec = msgspec.structs.replace(stage.spec, network=NetworkPolicy(cidrs=("10.0.0.0/8",)))
        assert "block_network" in await stage.fails(spec)
        assert all(one.startswith("GET ") for one in stage.engine.asked), "what it is may be asked"

    play(tmp_path, scene)


@pytest.mark.parametrize("tier", [Isolation.NAMESPACES, Isolation.GVISOR])
def test_a_stricter_tier_is_refused_before_anything_is_made(tmp_path, tier):
    async def scene(stage):
        spec = msgspec.structs.replace(stage.spec, isolation=tier)
        assert tier.value in await stage.fails(spec)
        assert stage.engine.asked == []

    play(tmp_path, scene)


def test_an_engine_that_has_gone_is_named(tmp_path):
    async def scene(stage):
        await stage.stop()
        assert f"the engine at {stage.path} does not answer" in await stage.fails()

    play(tmp_path, scene)


def test_an_engine_that_goes_away_ends_no_box_and_its_keeper_does(tmp_path):
    async def scene(stage):
        opening = await stage.open()
        await stage.stop()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not opening.done()
        for keeper in stage.engine.keepers:
            keeper.close()
        with pytest.raises(TemplateFailed):
            await opening
        assert not list(stage.home.containers.iterdir())

    play(tmp_path, scene)


def test_a_cancelled_opening_leaves_no_container(tmp_path):
    async def scene(stage):
        opening = await stage.open()
        assert len(stage.engine.containers) == 1
        opening.cancel()
        await asyncio.wait({opening})
        await stage.runtime.close()
        assert stage.engine.containers == {}

    play(tmp_path, scene)


def test_what_an_earlier_run_left_is_removed(tmp_path):
    async def scene(stage):
        stage.engine.create("old", {"Image": "x"})
        (stage.home.containers / "b1-1").mkdir()
        (stage.home.sockets.parent / "k-b1-1").mkdir()
        assert await stage.runtime.reap() == 1
        assert stage.engine.containers == {}
        assert not list(stage.home.containers.iterdir())
        assert not list(stage.home.sockets.parent.glob("k-*"))

    play(tmp_path, scene)


def test_without_an_engine_there_is_nothing_to_remove_and_a_reason(tmp_path):
    async def main():
        home = Home(tmp_path / "home")
        runtime = OciRuntime(home, environ={"DOCKER_HOST": "tcp://elsewhere"})
        assert await runtime.reap() == 0
        with pytest.raises(TemplateFailed) as failed:
            await runtime.open_template(
                TemplateSpec(image_id="im-1"), ProcessStage.image, cause="ta-1", output=lambda _: True
            )
        assert "tcp://elsewhere" in decode_failure(failed.value.payload, rebuild=False).message
        await runtime.close()

    asyncio.run(main())


def test_layers_over_the_machines_own_files_are_refused(tmp_path):
    async def scene(stage):
        image = msgspec.structs.replace(ProcessStage.image, layers=("/", "/l"))
        boxes = OciBoxes(stage.home, OciSettings(socket=stage.path), {})
        with pytest.raises(BoxFailed) as failed:
            await boxes._import(image, [], "tag")
        assert "base = 'registry'" in str(failed.value)
        await boxes.close()

    play(tmp_path, scene)


# ------------------------------------------------------------------------------------------------ the client


@asynccontextmanager
async def client_of(stage, **options):
    client = EngineClient(stage.path, **options)
    try:
        yield client
    finally:
        await client.close()


def test_a_slow_engine_is_not_waited_for_for_ever(tmp_path):
    async def scene(stage):
        stage.engine.hangs = "/info"
        async with client_of(stage, answer_s=0.05) as client:
            with pytest.raises(EngineError) as failed:
                await client.info()
        assert "no answer in time" in str(failed.value)
        assert failed.value.status == 0

    play(tmp_path, scene)


def test_an_error_in_the_middle_of_an_answer_is_one(tmp_path):
    async def scene(stage):
        stage.engine.answers["POST /images/create"] = (200, {"error": "disk full"})
        async with client_of(stage) as client:
            with pytest.raises(EngineError, match="disk full"):
                await client.pull("debian")

    play(tmp_path, scene)


@pytest.mark.parametrize("body", [b"not json", b"[]", b'"text"'])
def test_nonsense_is_an_error(tmp_path, body):
    async def scene(stage):
        async def nonsense(request):
            return web.Response(body=body)

        stage.engine.of_container = nonsense
        stage.engine.handle = nonsense
        runner = web.AppRunner(_app(stage.engine))
        await runner.setup()
        other = stage.path + "2"
        await web.UnixSite(runner, other).start()
        client = EngineClient(other)
        with pytest.raises(EngineError, match="has answered GET /info with no"):
            await client.info()
        await client.close()
        await runner.cleanup()

    play(tmp_path, scene)


def test_a_build_that_fails_says_its_step(tmp_path):
    async def scene(stage):
        stage.engine.answers["POST /build"] = (200, {"error": "RUN false returned 1"})
        with pytest.raises(ImageBuildError, match="RUN false"):
            await builds(stage).build(order(), tmp_path / "image.tar", print)
        assert stage.engine.asked[-1].startswith("DELETE /images/localhost")

    play(tmp_path, scene)


def test_an_engine_without_room_is_told(tmp_path):
    async def scene(stage):
        stage.engine.answers["POST /build"] = (200, {"error": "write /x: no space left on device"})
        with pytest.raises(StorageFullError, match="where the engine builds"):
            await builds(stage).build(order(), tmp_path / "image.tar", print)

    play(tmp_path, scene)


def test_an_engine_that_goes_away_in_mid_build_is_told(tmp_path):
    async def scene(stage):
        stage.engine.answers["POST /build"] = (500, {"message": "the engine is going down"})
        with pytest.raises(ImageBuildError, match="going down"):
            await builds(stage).build(order(), tmp_path / "image.tar", print)

    play(tmp_path, scene)


def test_without_an_engine_it_says_so_before_anything(tmp_path):
    nobody = OciDockerfiles({}, owner="me", socket=str(tmp_path / "no.sock"))
    assert "missing" in nobody.why_not()[0]
    with pytest.raises(UnsupportedError, match="missing"):
        asyncio.run(nobody.build(order(), tmp_path / "image.tar", print))
    assert OciDockerfiles({"DOCKER_HOST": "tcp://1.2.3.4:1"}, owner="me").why_not()[0]


def test_a_build_is_asked_for_with_its_limits_and_arguments():
    wanted = order(build_args={"A": "1"}, force=True, memory_mib=512, cpu_milli=1500)
    query = building.render_query(wanted, "name:tag", "me")
    assert json.loads(query["buildargs"]) == {"A": "1"}
    assert json.loads(query["labels"]) == {building.LABEL: "me"}
    assert (query["memory"], query["memswap"]) == (str(512 << 20),) * 2
    assert int(query["cpuquota"]) / int(query["cpuperiod"]) == 1.5
    assert (query["nocache"], query["t"]) == ("1", "name:tag")
    plain = building.render_query(order(), "name:tag", "me")
    assert not {"nocache", "memory", "cpuquota"} & plain.keys()


@pytest.mark.parametrize(
    "text, host",
    [
        ("FROM debian", building.DOCKER_HUB_KEY),
        ("FROM r.example/a AS b\nFROM debian\nCOPY --from=b / /\nFROM b", "r.example"),
        ("ARG BASE=x\nFROM $BASE", building.DOCKER_HUB_KEY),
        ("FROM scratch", building.DOCKER_HUB_KEY),
    ],
)
def test_credentials_are_for_the_private_registry_alone(text, host):
    header = building.render_credentials(order(text, username="me", password="s3cr3t"))["X-Registry-Config"]
    assert json.loads(base64.urlsafe_b64decode(header)) == {host: {"username": "me", "password": "s3cr3t"}}
    assert building.render_credentials(order(text)) == {}


def test_credentials_for_one_of_two_registries_are_refused():
    with pytest.raises(UnsupportedError, match=r"a\.example, b\.example"):
        building.render_credentials(order("FROM a.example/x\nFROM b.example/y", password="s3cr3t"))


def test_secrets_are_refused_as_an_engine_would_keep_them():
    with pytest.raises(UnsupportedError, match="stay in the image"):
        building.refuse(order(secrets={"TOKEN": "s3cr3t"}))


def test_a_context_cannot_put_another_dockerfile_in_the_place_of_ours(tmp_path):
    (tmp_path / building.FILE).write_text("FROM evil")
    (tmp_path / "file").write_text("text")

    async def read():
        return b"".join([chunk async for chunk in building.context_of(order("FROM good", context=tmp_path))])

    with tarfile.open(fileobj=io.BytesIO(asyncio.run(read()))) as found:
        assert found.getnames() == [building.FILE, "file"]
        assert found.extractfile(building.FILE).read() == b"FROM good"


def order(text="FROM scratch", *, context=None, force=False, memory_mib=None, cpu_milli=None, **fields):
    base = Dockerfile(text=text, **fields)
    return DockerfileOrder(base=base, context=context, force=force, memory_mib=memory_mib, cpu_milli=cpu_milli)


def builds(stage):
    return OciDockerfiles({}, owner="me", socket=stage.path)


def test_removing_what_is_not_there_is_no_error(tmp_path):
    async def scene(stage):
        async with client_of(stage) as client:
            await client.remove("none")

    play(tmp_path, scene)
