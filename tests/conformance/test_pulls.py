"""Both pullers, by the contract of their port."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from jitney.drivers.pulls.fake import FakePuller
from jitney.drivers.pulls.oci import OciPuller
from jitney.ports.pulls import PulledImage
from jitney.testing.conformance.pulls import LOGIN, PullerContract
from jitney.testing.fake_registry import FakeRegistry
from jitney.testing.images import make_image, make_layer, write_layout

ENV = {"Env": ["GREETING=hello"]}


async def no_sleep(_):
    await asyncio.sleep(0)


class OciWorld:
    def __init__(self, folder, registry, private):
        self.folder, self.registry, self.closed = folder, registry, private
        base = make_layer({"base": b"1" * 1000})
        one = make_image([base, make_layer({"one": b"1"})], config=ENV)
        self.image = registry.push("library/one:1", one)
        self.sibling = registry.push("library/two:1", make_image([base, make_layer({"two": b"2"})], config=ENV))
        # Nothing of it is in the other registry: layers that everybody has are everybody's.
        self.private = private.push("closed/three:1", make_image([make_layer({"three": b"3"})], config=ENV))
        self.missing = f"{registry.host}/library/none:1"
        self.archive = str(write_layout(folder / "layout", {"": one}))

    def puller(self):
        return OciPuller(self.folder / "store", sleep=no_sleep, keep_new_s=0)

    def fetched(self):
        return self.registry.asked("/blobs/") - self.registry.asked("/manifests/")  # a configuration for each

    def asked(self):
        return len(self.registry.requests) + len(self.closed.requests)

    async def hold(self):
        self.registry.gate = asyncio.Event()

    async def wait_held(self):
        await self.registry.waiting.wait()

    async def release(self):
        self.registry.gate.set()


class FakeWorld:
    image, sibling, private, missing = "one:1", "two:1", "closed/three:1", "none:1"
    archive = "/archives/one.tar"

    def __init__(self, folder):
        def image(digit, *layers, reference="x"):
            digest = f"sha256:{digit * 64}"
            return PulledImage(
                reference=reference, digest=digest, platform="linux/amd64", layers=layers, env={"GREETING": "hello"}
            )

        self.gate = asyncio.Event()
        self.gate.set()
        self.fake = FakePuller(
            folder / "layers",
            {
                "one:1": image("1", "base", "one"),
                "two:1": image("2", "base", "two"),
                "closed/three:1": image("3", "three"),
                self.archive: image("4", "base", "one", reference=self.archive),
            },
            private={"closed/three:1": LOGIN},
            gate=self.gate,
        )

    def puller(self):
        return self.fake

    def fetched(self):
        return len(self.fake.made)

    def asked(self):
        return len(self.fake.pulls)

    async def hold(self):
        self.gate.clear()

    async def wait_held(self):
        await self.fake.waiting.wait()

    async def release(self):
        self.gate.set()


class TestFake(PullerContract):
    @pytest.fixture
    def lives(self, tmp_path):
        @asynccontextmanager
        async def live():
            yield FakeWorld(tmp_path)

        return live


class TestOci(PullerContract):
    @pytest.fixture
    def lives(self, tmp_path):
        @asynccontextmanager
        async def live():
            async with FakeRegistry() as registry, FakeRegistry(login=LOGIN, token=True) as private:
                yield OciWorld(tmp_path, registry, private)

        return live
