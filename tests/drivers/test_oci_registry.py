"""Pulls from a registry that misbehaves, and what is told to people then."""

import asyncio
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jitney.drivers.pulls.oci import ChildUnpacker, OciPuller, PullSettings
from jitney.drivers.pulls.oci.store import Store
from jitney.drivers.pulls.oci.unpacker import Blob, Unpacked
from jitney.errors import (
    AuthError,
    ConnectionError,
    ImageBuildError,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StorageFullError,
)
from jitney.testing.fake_registry import FakeRegistry, Fault
from jitney.testing.images import digest_of, make_image, make_index, make_layer, make_tar, member

BIG = random.Random(1).randbytes(300_000)
IMAGE = make_image([make_layer({"a": BIG}), make_layer({"b": b"2"})], config={"Env": ["A=1"], "Cmd": ["sh"]})
LAYERS = [each["digest"] for each in json.loads(IMAGE.manifest)["layers"]]
AMD64 = "linux/amd64"


class World:
    def __init__(self, folder, **settings):
        self.slept, self.lines = [], []
        self.folder = folder
        settings.setdefault("docker_config", str(folder / "none.json"))
        self.puller = OciPuller(folder / "store", settings=PullSettings(**settings), sleep=self._sleep, keep_new_s=0)

    async def _sleep(self, seconds):
        self.slept.append(seconds)
        await asyncio.sleep(0)

    async def pull(self, reference, **options):
        return await self.puller.pull(reference, **{"platform": AMD64, "on_line": self.lines.append, **options})


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def live(body, **options):
    """`body(registry)` with a fake registry that has the image."""

    async def inside():
        async with FakeRegistry(**options) as registry:
            registry.push("a/b:1", IMAGE)
            await body(registry)

    asyncio.run(inside())


def content(image):
    return {path.name: path.read_bytes() for layer in image.layers for path in Path(layer).iterdir()}


def leftovers(folder):
    store = folder / "store"
    layers = {path.name for path in (store / "layers").glob("*/")}
    return layers - {path.stem for path in (store / "layers").glob("*.json")}


def test_an_image_and_what_it_says_of_itself(world):
    async def body(registry):
        image = await world.pull(f"{registry.host}/a/b:1")
        assert content(image) == {"a": BIG, "b": b"2"}
        assert (image.env, image.cmd, image.digest) == ({"A": "1"}, ("sh",), IMAGE.digest)
        assert image.reference == f"{registry.host}/a/b:1@{IMAGE.digest}"
        assert not [*(world.folder / "store" / "parts").iterdir()]
        assert any("unpacking" in line for line in world.lines)

    live(body)


def test_by_the_digest_of_an_index(world):
    index = make_index({"linux/arm64": make_image([b""], architecture="arm64"), "linux/amd64": IMAGE})

    async def body(registry):
        registry.push("a/b:index", index)
        image = await world.pull(f"{registry.host}/a/b@{index.digest}")
        assert image.digest == IMAGE.digest
        asked = len(registry.requests)
        assert (await world.pull(f"{registry.host}/a/b@{index.digest}")).layers == image.layers
        assert len(registry.requests) == asked
        other = await world.pull(f"{registry.host}/a/b@{index.digest}", platform="linux/arm64/v8")
        assert other.platform == "linux/arm64"

    live(body)


def test_an_index_in_an_index_is_followed_but_not_for_ever(world):
    once = make_index({"linux/amd64": IMAGE})
    twice = make_index({"linux/amd64": once})
    three = make_index({"linux/amd64": twice})

    async def body(registry):
        registry.push("a/b:twice", twice)
        registry.push("a/b:three", three)
        assert (await world.pull(f"{registry.host}/a/b:twice")).digest == IMAGE.digest
        with pytest.raises(InvalidError, match="list of lists"):
            await world.pull(f"{registry.host}/a/b:three")

    live(body)


def test_an_image_for_another_machine_says_so(world):
    async def body(registry):
        registry.push("a/b:arm", make_image([b""], architecture="arm64"))
        with pytest.raises(NotFoundError, match=r"not there for linux/amd64, only for linux/arm64"):
            await world.pull(f"{registry.host}/a/b:arm")
        assert registry.asked("/blobs/") == 1  # no layer of it

    live(body)


def test_an_image_without_layers_has_an_empty_root(world):
    async def body(registry):
        registry.push("a/b:empty", make_image([]))
        image = await world.pull(f"{registry.host}/a/b:empty")
        assert len(image.layers) == 1
        assert content(image) == {}

    live(body)


def test_a_layer_that_comes_twice_is_one_folder_in_the_upper_place(world):
    base, gone = make_layer({"x": b"1"}), make_tar([member(".wh.x")])

    async def body(registry):
        registry.push("a/b:twice", make_image([base, gone, base]))
        image = await world.pull(f"{registry.host}/a/b:twice")
        assert len(image.layers) == 2
        assert (Path(image.layers[1]) / "x").read_bytes() == b"1"

    live(body)


def test_what_a_layer_hides_whole_is_not_in_the_image(world):
    async def body(registry):
        registry.push(
            "a/b:hides", make_image([make_layer({"x": b"1"}), make_tar([member(".wh..wh..opq"), member("y")])])
        )
        image = await world.pull(f"{registry.host}/a/b:hides")
        assert content(image) == {"y": b""}

    live(body)


# ------------------------------------------------------------------------------------------------- the busy


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_busy_registries_are_asked_again(world, part, status):
    async def body(registry):
        registry.faults.append(Fault(part, status=status, times=3))
        assert content(await world.pull(f"{registry.host}/a/b:1"))["b"] == b"2"
        assert len(world.slept) == 3
        if part == "/manifests/":
            assert world.slept[0] < world.slept[2]

    live(body)


def test_pauses_that_are_asked_for_are_made(world):
    async def body(registry):
        registry.faults.append(Fault("/manifests/", status=429, headers={"Retry-After": "7"}))
        await world.pull(f"{registry.host}/a/b:1")
        assert world.slept == [7]

    live(body)


@pytest.mark.parametrize(
    "status, said, kind",
    [(429, "3600", ResourceExhaustedError), (429, "", ResourceExhaustedError), (503, "", ConnectionError)],
)
def test_there_is_an_end_to_patience(world, status, said, kind):
    async def body(registry):
        registry.faults.append(
            Fault("/manifests/", status=status, headers={"Retry-After": said} if said else {}, times=99)
        )
        with pytest.raises(kind) as caught:
            await world.pull(f"{registry.host}/a/b:1")
        assert caught.value.hint
        assert registry.asked("/manifests/") == (1 if said else 6)

    live(body)


# ------------------------------------------------------------------------------------------------- the broken


@pytest.mark.parametrize("ranges", [True, False])
def test_downloads_that_break_off_go_on(world, ranges):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], cut_after=200_000))
        registry.faults.append(Fault(LAYERS[0], cut_after=50_000))
        assert content(await world.pull(f"{registry.host}/a/b:1"))["a"] == BIG
        asked = [headers.get("Range") for path, headers in registry.requests if LAYERS[0] in path]
        assert len(asked) == 3
        assert all(each and each.startswith("bytes=") for each in asked[1:])

    live(body, ranges=ranges)


def test_a_download_that_never_ends_well_is_given_up_and_kept(world):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], cut_after=0, times=99))
        with pytest.raises(ConnectionError, match="breaks off") as caught:
            await world.pull(f"{registry.host}/a/b:1")
        assert "kept" in caught.value.hint
        registry.faults.clear()
        registry.faults.append(Fault(LAYERS[0], cut_after=100_000, times=1))
        registry.faults.append(Fault(LAYERS[0], status=404, times=99))
        with pytest.raises(NotFoundError):
            await world.pull(f"{registry.host}/a/b:1")
        assert leftovers(world.folder) == set()
        registry.faults.clear()
        # Another run goes on from there.
        again = World(world.folder)
        registry.requests.clear()
        await again.pull(f"{registry.host}/a/b:1")
        (asked,) = [headers.get("Range") for path, headers in registry.requests if LAYERS[0] in path]
        assert asked == "bytes=100000-"

    live(body)


def test_a_drip_is_not_waited_for_for_ever(world):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], cut_after=1, times=10_000))
        with pytest.raises(ConnectionError, match="breaks off after 100 of"):
            await world.pull(f"{registry.host}/a/b:1")

    live(body)


def test_what_an_earlier_run_left_may_be_wrong(world):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], cut_after=1000))
        registry.faults.append(Fault(LAYERS[0], status=404, times=99))
        with pytest.raises(NotFoundError):
            await world.pull(f"{registry.host}/a/b:1")
        registry.faults.clear()
        (part,) = [each for each in (world.folder / "store" / "parts").iterdir() if each.stat().st_size == 1000]
        part.write_bytes(b"x" * 1000)
        assert content(await world.pull(f"{registry.host}/a/b:1"))["a"] == BIG

    live(body)


@pytest.mark.parametrize("lie", [b"x" * 10, b"x" * 400_000])
def test_what_is_not_what_it_says_is_refused(world, lie):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], lie=lie, times=99))
        with pytest.raises((ImageBuildError, ConnectionError)):
            await world.pull(f"{registry.host}/a/b:1")
        registry.faults.clear()
        assert content(await world.pull(f"{registry.host}/a/b:1"))["a"] == BIG

    live(body)


def test_a_lie_of_the_right_length_is_refused(world):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], lie=b"x" * len(IMAGE.blobs[LAYERS[0]]), times=99))
        with pytest.raises(ImageBuildError, match="not what it should be"):
            await world.pull(f"{registry.host}/a/b:1")
        assert leftovers(world.folder) == set()

    live(body)


@pytest.mark.parametrize("name", ["1", IMAGE.digest], ids=["tag", "digest"])
def test_a_manifest_that_is_not_what_it_says_is_refused(world, name):
    async def body(registry):
        registry.faults.append(Fault("/manifests/", lie=make_image([b""]).manifest))
        with pytest.raises(ImageBuildError, match="a manifest"):
            await world.pull(f"{registry.host}/a/b{'@' if ':' in name else ':'}{name}")

    live(body)


def test_a_layer_that_unpacks_to_something_else_is_refused(world):
    """The registry's digests are right, and the image's own description is not."""
    image = make_image([make_layer({"a": b"1"})])
    described = json.loads(image.manifest)["config"]["digest"]
    config = json.loads(image.blobs[described])
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    data = json.dumps(config).encode()
    manifest = json.loads(image.manifest)
    manifest["config"] = {**manifest["config"], "digest": digest_of(data), "size": len(data)}
    body_ = json.dumps(manifest).encode()
    image.blobs |= {digest_of(data): data, digest_of(body_): body_}
    image.digest = digest_of(body_)

    async def body(registry):
        registry.push("a/b:lies", image)
        with pytest.raises(ImageBuildError, match="a layer"):
            await world.pull(f"{registry.host}/a/b:lies")
        assert leftovers(world.folder) == set()

    live(body)


def test_a_hostile_layer_is_refused_and_leaves_nothing(world):
    async def body(registry):
        registry.push("a/b:evil", make_image([make_tar([member("../../../evil", b"1")])]))
        with pytest.raises(InvalidError, match="leads out"):
            await world.pull(f"{registry.host}/a/b:evil")
        assert leftovers(world.folder) == set()
        assert not [*world.folder.rglob("evil")]

    live(body)


@pytest.mark.parametrize("data", [b"", b"<html>", b"[" * 100_000, b"x" * (5 << 20)])
def test_what_is_no_registry(world, data):
    async def body(registry):
        registry.faults.append(Fault("/manifests/", lie=data))
        registry.tags["a/b", "none"] = image = make_image([b"9"])
        registry.blobs |= {image.digest: data}
        with pytest.raises((InvalidError, ImageBuildError)):
            await world.pull(f"{registry.host}/a/b:none")

    live(body)


def test_a_registry_that_is_not_there(world):
    with pytest.raises(ConnectionError, match="does not answer") as caught:
        asyncio.run(world.pull("127.0.0.1:1/a/b"))
    assert "network" in caught.value.hint
    assert len(world.slept) == 5


def test_a_registry_without_tls(tmp_path):
    async def body(registry):
        mirror = {registry.host: f"https://{registry.host}"}
        world = World(tmp_path, mirrors=mirror, attempts=1)
        await world.pull(f"{registry.host}/a/b:1")
        assert any("the mirror" in line and "TLS" in line for line in world.lines)

    live(body)


# ------------------------------------------------------------------------------------------------- who may

LOGIN = {"username": "ann", "password": "secret"}


@pytest.mark.parametrize("token", [True, False])
def test_credentials_open_a_registry(world, token):
    async def body(registry):
        image = await world.pull(f"{registry.host}/a/b:1", **LOGIN)
        assert content(image)["b"] == b"2"
        assert registry.asked("/token") == (1 if token else 0)

    live(body, login=("ann", "secret"), token=token)


def test_a_token_for_nothing(world):
    live(lambda registry: world.pull(f"{registry.host}/a/b:1"), token=True)


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("given", [{}, {"username": "ann", "password": "wrong"}])
def test_without_the_right_credentials(world, token, given):
    async def body(registry):
        with pytest.raises(AuthError) as caught:
            await world.pull(f"{registry.host}/a/b:1", **given)
        assert "does not exist, or" in caught.value.message
        assert "docker login" in caught.value.hint
        assert "wrong" not in str(caught.value).replace("credentials for it are wrong", "")

    live(body, login=("ann", "secret"), token=token)


def test_credentials_of_docker_are_used(tmp_path):
    async def body(registry):
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {registry.host: {"username": "ann", "password": "secret"}}})
        )
        world = World(tmp_path, docker_config=str(tmp_path / "config.json"))
        await world.pull(f"{registry.host}/a/b:1")

    live(body, login=("ann", "secret"), token=True)


def test_a_token_that_expires_is_renewed(world):
    async def body(registry):
        registry.faults.append(
            Fault(LAYERS[0], status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'})
        )
        await world.pull(f"{registry.host}/a/b:1", **LOGIN)

    live(body, login=("ann", "secret"), token=True)


def test_forbidden_is_said_so(world):
    async def body(registry):
        registry.faults.append(Fault("/manifests/", status=403))
        with pytest.raises(PermissionDeniedError) as caught:
            await world.pull(f"{registry.host}/a/b:1")
        assert caught.value.hint

    live(body)


def test_secrets_stay_with_their_host(world):
    async def body(registry):
        async with FakeRegistry() as other:
            other.push("a/b:1", IMAGE)
            registry.elsewhere = f"http://{other.host}/v2/a/b/blobs/{{digest}}"
            await world.pull(f"{registry.host}/a/b:1", **LOGIN)
            assert other.asked("/blobs/") == 3
            assert not any("Authorization" in headers for _, headers in other.requests)
            assert any("Authorization" in headers for _, headers in registry.requests)

    live(body, login=("ann", "secret"))


def test_a_layer_of_somebody_else_is_not_given_for_its_name(world):
    """Who knows the digest of a private layer, and has an own registry that names it, must bring the bytes."""

    async def body(registry):
        ours = await world.pull(f"{registry.host}/a/b:1", **LOGIN, scope="ours")
        async with FakeRegistry() as thief:
            thief.push("a/b:1", IMAGE)
            for digest in LAYERS:
                del thief.blobs[digest]
            with pytest.raises(NotFoundError):
                await world.pull(f"{thief.host}/a/b:1", scope="theirs")
            with pytest.raises(NotFoundError):
                await world.pull(f"{thief.host}/a/b:1", scope="theirs", **LOGIN)
        assert content(ours)

    live(body, login=("ann", "secret"))


# ------------------------------------------------------------------------------------------------- where it leads


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x", "file:///etc/passwd",
                                    "gopher://x/", "http://", "http://[::ffff:169.254.169.254]/"])  # fmt: skip
def test_redirects_to_forbidden_places_are_not_followed(world, target):
    async def body(registry):
        registry.elsewhere = target
        with pytest.raises((PermissionDeniedError, ConnectionError)) as caught:
            await world.pull(f"{registry.host}/a/b:1")
        assert caught.value.hint
        assert world.slept == []

    live(body)


def test_redirects_in_circles_end(world):
    async def body(registry):
        registry.elsewhere = "/v2/a/b/blobs/{digest}"
        with pytest.raises(ConnectionError, match="circles"):
            await world.pull(f"{registry.host}/a/b:1")

    live(body)


@pytest.fixture
def public(monkeypatch):
    """The registry's name is of the internet, and so is its address as far as the guard knows."""
    from jitney.drivers.pulls.oci import addresses

    async def is_private(host, port, allowed):
        return False

    monkeypatch.setattr(addresses, "is_private", is_private)


def test_a_public_registry_does_not_lead_inside(world, public):
    with pytest.raises(PermissionDeniedError, match="not a public address"):
        asyncio.run(world.pull("127.0.0.1:1/a/b"))
    with pytest.raises(PermissionDeniedError, match="not a public address"):
        asyncio.run(world.pull("localhost:1/a/b"))
    assert world.slept == []


def test_a_registry_inside_must_be_allowed(world):
    with pytest.raises(PermissionDeniedError, match="not a public address") as caught:
        asyncio.run(world.pull("10.0.0.1/a/b"))
    assert "private_registries" in caught.value.hint


def test_mirrors_are_tried_first_and_need_not_have_it(tmp_path):
    async def body(registry):
        async with FakeRegistry() as mirror:
            mirror.push("hub/a/b:1", IMAGE)
            world = World(tmp_path, mirrors={registry.host: f"http://{mirror.host}/hub"})
            await world.pull(f"{registry.host}/a/b:1")
            assert registry.requests == []
            registry.push("a/b:2", make_image([make_layer({"only": b"here"})]))
            image = await world.pull(f"{registry.host}/a/b:2")
            assert content(image) == {"only": b"here"}
            assert image.reference.startswith(registry.host)

    live(body)


# ------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("limit", [{"layer_bytes_max": 1000}, {"image_bytes_max": 200_000}])
def test_images_over_a_limit_are_refused_before_anything_is_fetched(tmp_path, limit):
    world = World(tmp_path, **limit)

    async def body(registry):
        with pytest.raises(ResourceExhaustedError) as caught:
            await world.pull(f"{registry.host}/a/b:1")
        assert caught.value.hint
        assert not any(digest in path for digest in LAYERS for path, _ in registry.requests)

    live(body)


@pytest.mark.parametrize("limit", [{"unpacked_bytes_max": 10_000}, {"files_max": 0}])
def test_layers_that_unpack_to_too_much_are_refused(tmp_path, limit):
    world = World(tmp_path, **limit)

    async def body(registry):
        with pytest.raises(InvalidError, match="more than"):
            await world.pull(f"{registry.host}/a/b:1")
        assert leftovers(tmp_path) == set()

    live(body)


class FullDisk:
    """An unpacker for which there is no room, for once."""

    owners = "full"

    def __init__(self):
        self.inner = ChildUnpacker(PullSettings())
        self.is_full = True

    async def unpack(self, blob, folder, lock, on_line):
        if self.is_full:
            (folder / "some").write_text("of it")
            raise OSError(28, "No space left on device")
        return await self.inner.unpack(blob, folder, lock, on_line)

    async def discard(self, folder):
        await self.inner.discard(folder)


def test_a_full_disk_is_said_so_and_what_is_here_is_kept(tmp_path):
    unpacker = FullDisk()
    puller = OciPuller(tmp_path / "store", unpacker=unpacker)

    async def body(registry):
        with pytest.raises(StorageFullError) as caught:
            await puller.pull(f"{registry.host}/a/b:1", platform=AMD64, on_line=print)
        assert caught.value.hint
        assert leftovers(tmp_path) == set()
        unpacker.is_full = False
        registry.requests.clear()
        await puller.pull(f"{registry.host}/a/b:1", platform=AMD64, on_line=print)
        assert not any(LAYERS[0] in path for path, _ in registry.requests)  # it was here, packed

    live(body)


# ------------------------------------------------------------------------------------------------- processes

CHILD = """
import asyncio, sys
from pathlib import Path
from jitney.drivers.pulls.oci import OciPuller
async def main():
    image = await OciPuller(Path(sys.argv[1])).pull(sys.argv[2], platform="linux/amd64", on_line=lambda line: None)
    print(*image.layers)
asyncio.run(main())
"""


async def child(folder, reference):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(folder), reference, stdout=subprocess.PIPE
    )


def test_two_processes_fetch_a_layer_once(tmp_path):
    async def body(registry):
        children = [await child(tmp_path / "store", f"{registry.host}/a/b:1") for _ in range(2)]
        printed = await asyncio.gather(*(each.communicate() for each in children))
        assert printed[0] == printed[1]
        assert all(each.returncode == 0 for each in children)
        assert sum(LAYERS[0] in path for path, _ in registry.requests) == 1

    live(body)


def test_a_pull_that_is_killed_goes_on_in_the_next(tmp_path):
    async def body(registry):
        registry.faults.append(Fault(LAYERS[0], cut_after=100_000))
        registry.faults.append(Fault(LAYERS[0], status=503, headers={"Retry-After": "50"}, times=99))
        process = await child(tmp_path / "store", f"{registry.host}/a/b:1")
        await registry.until_asked(LAYERS[0], 2)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        registry.faults.clear()
        registry.requests.clear()
        world = World(tmp_path)
        assert content(await world.pull(f"{registry.host}/a/b:1"))["a"] == BIG
        (asked,) = [headers.get("Range") for path, headers in registry.requests if LAYERS[0] in path]
        assert asked == "bytes=100000-"

    live(body)


class Stuck:
    """An unpacker that stops in the middle."""

    owners = ChildUnpacker(PullSettings()).owners

    def __init__(self):
        self.started = asyncio.Event()

    async def unpack(self, blob, folder, lock, on_line):
        (folder / "half").write_text("made")
        self.started.set()
        await asyncio.Event().wait()
        return Unpacked("", 0, 0)

    async def discard(self, folder):
        """Killed, it would not have come to it."""


def test_half_made_layers_are_removed_by_reap_but_not_under_somebodys_hands(tmp_path):
    async def body(registry):
        stuck = Stuck()
        puller = OciPuller(tmp_path / "store", unpacker=stuck)
        task = asyncio.create_task(puller.pull(f"{registry.host}/a/b:1", platform=AMD64, on_line=print))
        await stuck.started.wait()
        assert await World(tmp_path).puller.reap() == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leftovers(tmp_path)
        assert await World(tmp_path).puller.reap() >= 1
        assert leftovers(tmp_path) == set()

    live(body)


def test_layers_that_a_pull_needs_are_not_removed(tmp_path):
    async def body(registry):
        world = World(tmp_path)
        first = make_image([make_layer({"b": b"2"})])  # the second layer of the image
        registry.push("a/b:small", first)
        small = await world.pull(f"{registry.host}/a/b:small")
        registry.gate = asyncio.Event()
        task = asyncio.create_task(world.pull(f"{registry.host}/a/b:1"))
        await registry.waiting.wait()
        registry.waiting.clear()
        registry.gate.set()
        registry.gate = asyncio.Event()
        await registry.waiting.wait()  # its configuration is here: now it wants the first layer
        await world.puller.remove_unused(())
        assert content(small)
        registry.gate.set()
        assert (await task).layers[1] == small.layers[0]

    live(body)


def test_layers_that_were_used_lately_are_not_removed(tmp_path):
    async def body(registry):
        puller = OciPuller(tmp_path / "store")
        image = await puller.pull(f"{registry.host}/a/b:1", platform=AMD64, on_line=print)
        assert await puller.remove_unused(()) == 0
        assert content(image)

    live(body)


class OneFails:
    """An unpacker that fails for one layer in the very moment in which another is written down."""

    owners = "fails"

    def __init__(self, committing, go):
        self.inner = ChildUnpacker(PullSettings())
        self.committing, self.go = committing, go

    async def unpack(self, blob, folder, lock, on_line):
        if blob.size < 1000:
            return await self.inner.unpack(blob, folder, lock, on_line)
        await asyncio.to_thread(self.committing.wait)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, loop.call_soon, self.go.set)  # after the other one has heard of it
        raise InvalidError("not this one")

    async def discard(self, folder):
        await self.inner.discard(folder)


def test_a_layer_that_is_being_written_down_while_another_fails_is_whole_or_not_there(tmp_path, monkeypatch):
    committing, go = threading.Event(), threading.Event()
    commit = Store.commit_layer

    def slow(store, key, layer):
        committing.set()
        go.wait()
        commit(store, key, layer)

    monkeypatch.setattr(Store, "commit_layer", slow)

    async def body(registry):
        puller = OciPuller(tmp_path / "store", unpacker=OneFails(committing, go))
        with pytest.raises(InvalidError, match="not this one"):
            await puller.pull(f"{registry.host}/a/b:1", platform=AMD64, on_line=print)

    live(body)
    layers = tmp_path / "store" / "layers"
    whole = {path.stem for path in layers.glob("*.json")}
    assert len(whole) == 1
    assert whole == {path.name for path in layers.glob("*/")}


def test_cancelled_unpacking_leaves_no_process(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{}'\necho '{}'\nsleep 600 &\nwait\n")
    python.chmod(0o755)
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "layer").mkdir()
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)

    async def inside():
        started = asyncio.Event()
        unpacker = ChildUnpacker(PullSettings(), python=str(python))
        blob = Blob(str(tmp_path / "blob"), 0, 1)
        task = asyncio.create_task(unpacker.unpack(blob, tmp_path / "layer", lock, lambda line: started.set()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(inside())
    os.close(lock)
    again = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever lived would hold it
    os.close(again)
