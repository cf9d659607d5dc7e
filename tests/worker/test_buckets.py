"""Buckets of containers, as the worker sees to them: with a mounter that opens folders."""

import asyncio
import os

import msgspec
import pytest

from jitney.drivers.buckets.fake import FakeBuckets
from jitney.ports.runtime import Capabilities, StartFailed
from jitney.values.buckets import BucketMount
from jitney.values.containers import Launch, TemplateSpec
from jitney.worker.buckets import Buckets


class Runtime:
    """All of a runtime that matters here."""

    def capabilities(self):
        return Capabilities(name="process", isolation=False, memory_limit=False, process_limit=False)


class AttachingRuntime(Runtime):
    attaches = True


def launch(*buckets, secrets=()):
    return Launch(
        container_id="ct-1", function_id="fu-1", app_id="ap-1", token="t", template=TemplateSpec(image_id="im"),
        config={}, buckets=buckets, bucket_secrets=secrets,
    )  # fmt: skip


@pytest.fixture
def mounter(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return FakeBuckets(tmp_path)


ONE, TWO = BucketMount(path="/1", bucket="one"), BucketMount(path="/2", bucket="two", read_only=True)


def test_a_launch_has_mounts_and_no_credentials(mounter):
    async def story():
        buckets = Buckets(AttachingRuntime(), mounter)
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "the secret", "DATABASE_PASSWORD": "other"}
        ready = await buckets.ready(launch(ONE, TWO, secrets=(keys, {})))
        assert [(one.target, one.read_only) for one in ready.attached] == [("/1", False), ("/2", True)]
        assert "the secret" not in f"{ready} {msgspec.json.encode(ready)!r}"
        assert [given for _, given, _ in mounter.mounted] == [
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "the secret"}, {},
        ]  # fmt: skip
        os.fstat(ready.attached[0].descriptor)
        await buckets.ended("ct-1")
        assert all(made.is_closed for *_, made in mounter.mounted)
        await buckets.ended("ct-1")

    asyncio.run(story())


def test_one_that_cannot_be_mounted_fails_the_start_and_the_others_end(mounter):
    async def story():
        buckets = Buckets(AttachingRuntime(), mounter)
        with pytest.raises(StartFailed, match=r"its bucket at /3 .* no bucket 'three'"):
            await buckets.ready(launch(ONE, BucketMount(path="/3", bucket="three")))
        await buckets.ended("ct-1")
        assert [made.is_closed for *_, made in mounter.mounted] == [True]

    asyncio.run(story())


def test_a_runtime_without_a_place_for_them_says_so(mounter):
    with pytest.raises(StartFailed, match="use 'namespaces'"):
        asyncio.run(Buckets(Runtime(), mounter).ready(launch(ONE)))
    with pytest.raises(StartFailed, match="nothing that mounts them"):
        asyncio.run(Buckets(AttachingRuntime(), None).ready(launch(ONE)))
    plain = launch()
    assert asyncio.run(Buckets(Runtime(), None).ready(plain)) is plain
