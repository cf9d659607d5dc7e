"""Buckets mounted by programs: what each is told, what is checked first, and that mounts end."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from jitney.core import sigv4
from jitney.drivers.buckets.fuse import FuseBuckets, look, programs
from jitney.drivers.buckets.fuse.driver import mount_points
from jitney.errors import BucketAccessError, BucketError, BucketUnavailableError, InvalidError, UnsupportedError
from jitney.testing.buckets import KEYS, s3_server
from jitney.values.buckets import BucketMount, is_private_to_machine

PLACE = programs.Place("/r/mount", "/r/own", 100_000, 100_000)
FULL = BucketMount(
    path="/b", bucket="data", endpoint="https://s3.example.org", prefix="a/b/", read_only=True, requester_pays=True,
    force_path_style=True, metadata_ttl_s=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("moto", reason="needs moto, of the extra dev")
    with s3_server() as found:
        found.make_bucket("data")
        found.put("data/a/b/one.txt", b"one")
        yield found


def why_not(name):
    return FuseBuckets(None, owner=0 if os.geteuid() == 0 else None, only=(name,)).why_not()


# ------------------------------------------------------------------------------------------------ what they are told


@pytest.mark.parametrize("name", programs.ORDER)
def test_no_program_has_credentials_in_its_arguments(name):
    keys = {**KEYS, "AWS_SESSION_TOKEN": "the-token", "AWS_REGION": "eu-north-1"}
    command = programs.render(name, f"/bin/{name}", FULL, keys, PLACE, {"SECRET_OF_OURS": "x", "NO_PROXY": "y"})
    said = " ".join(command.argv)
    values = command.environ.values()
    for value in (*KEYS.values(), "the-token"):
        assert value not in said
        assert value not in repr(command)
        assert value in values
    assert "SECRET_OF_OURS" not in command.environ
    assert command.environ["NO_PROXY"] == "y"
    assert command.environ["AWS_EC2_METADATA_DISABLED"] == "true"
    assert "eu-north-1" in said
    assert "https://s3.example.org" in said
    assert PLACE.folder in command.argv


@pytest.mark.parametrize("name, shown", [
    ("mount-s3", ["data", "--read-only", "--prefix=a/b/", "--requester-pays", "--force-path-style", "--metadata-ttl"]),
    ("rclone", [":s3:data/a/b", "--read-only", "--s3-requester-pays", "--s3-force-path-style=true", "30s"]),
    ("s3fs", ["data:/a/b", "ro", "requester_pays", "use_path_request_style", "stat_cache_expire=30"]),
])  # fmt: skip
def test_every_option_reaches_each_program(name, shown):
    argv = programs.render(name, name, FULL, KEYS, PLACE, {}).argv
    words = [word for one in argv for word in (one, *one.split(","))]
    assert not [one for one in shown if one not in words]


@pytest.mark.parametrize("name, word", [("mount-s3", "--no-sign-request"), ("s3fs", "public_bucket=1")])
def test_a_bucket_without_a_secret_is_read_as_anybody_may(name, word):
    command = programs.render(name, name, BucketMount(path="/b", bucket="data"), {}, PLACE, {})
    assert word in ",".join(command.argv).split(",")
    assert not [key for key in command.environ if "ACCESS_KEY" in key]


def test_what_a_version_wants_too_is_an_option():
    argv = programs.render("s3fs", "s3fs", FULL, KEYS, PLACE, {}, extra=("compat_dir",)).argv
    assert argv[-1].endswith(",compat_dir")


@pytest.mark.parametrize("wrong", [
    {"bucket": "a,b"}, {"bucket": "-data"}, {"bucket": "a/b"}, {"endpoint": "https://a,allow_root"},
    {"endpoint": "https://user@host"}, {"endpoint": "file:///etc"}, {"endpoint": "http://a b"}, {"prefix": "a"},
    {"prefix": "/a/"}, {"prefix": "a/../b/"}, {"prefix": "a\n/"}, {"path": "/"}, {"path": "b"}, {"path": "/a/../b"},
    {"metadata_ttl_s": -2}, {"endpoint": "http://a:b:c"},
])  # fmt: skip
def test_what_could_be_taken_for_something_else_is_refused(wrong):
    with pytest.raises(InvalidError):
        BucketMount(**{"path": "/b", "bucket": "data", **wrong})


def test_a_region_that_is_none_is_refused():
    with pytest.raises(InvalidError):
        programs.render("s3fs", "s3fs", FULL, {"AWS_REGION": "x,allow_root"}, PLACE, {})


# ------------------------------------------------------------------------------------------------ looking first


def test_the_signature_of_the_documented_example():
    """From the documentation of AWS: GET Bucket (List Objects)."""
    keys = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    host, query = "examplebucket.s3.amazonaws.com", "max-keys=2&prefix=J"
    headers = sigv4.signed(host, "/", query, {}, keys, "us-east-1", "20130524T000000Z")
    assert headers["authorization"].endswith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


def test_a_bucket_is_looked_into_first(server):
    there = BucketMount(path="/b", bucket="data", endpoint=server.url, prefix="a/b/")
    look.check(there, KEYS)
    with pytest.raises(BucketError, match="no bucket 'nobody'"):
        look.check(BucketMount(path="/b", bucket="nobody", endpoint=server.url), KEYS)


def test_wrong_keys_are_told():
    pytest.importorskip("moto", reason="needs moto, of the extra dev")
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="2") as strict:
        strict.make_bucket("data")
        bucket = BucketMount(path="/b", bucket="data", endpoint=strict.url)
        with pytest.raises(BucketAccessError, match="InvalidAccessKeyId") as caught:
            look.check(bucket, KEYS)
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_an_endpoint_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr(look, "PAUSE_S", 0.0)
    with pytest.raises(BucketUnavailableError, match="cannot be reached"):
        look.check(BucketMount(path="/b", bucket="data", endpoint="http://127.0.0.1:1"), KEYS)


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://[fe80::1]:80", "http://[fd00:ec2::254]"])
def test_an_endpoint_where_a_machine_keeps_its_own_secrets_is_refused(endpoint):
    with pytest.raises(BucketError, match="is no bucket"):
        look.check_address(BucketMount(path="/b", bucket="latest", endpoint=endpoint))
    assert not is_private_to_machine(["127.0.0.1", "10.0.0.1", "2001:db8::1"])


# ------------------------------------------------------------------------------------------------ mounting


def _argv(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("name", programs.ORDER)
def test_a_mount_is_in_no_folder_and_ends(server, tmp_path, name):
    if why := why_not(name):
        pytest.skip(why)
    before = mount_points()

    async def story():
        buckets = FuseBuckets(tmp_path / "root", owner=0, only=(name,))
        mounted = await buckets.mount(BucketMount(path="/b", bucket="data", endpoint=server.url, prefix="a/b/"), KEYS)
        assert mount_points() == before
        file = os.open("one.txt", os.O_RDONLY, dir_fd=mounted.descriptor)
        assert os.read(file, 10) == b"one"
        os.close(file)
        argv = _argv(mounted.pid)
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in argv
        assert await mounted.close() == ""
        assert _argv(mounted.pid) is None
        assert os.listdir(tmp_path / "root") == []

    asyncio.run(story())


@pytest.mark.parametrize("name", programs.ORDER)
def test_what_is_written_is_in_the_bucket_when_it_is_closed(server, tmp_path, name):
    if why := why_not(name):
        pytest.skip(why)
    data = os.urandom(12 * 1024 * 1024)

    async def story():
        buckets = FuseBuckets(tmp_path / "root", owner=0, only=(name,))
        mounted = await buckets.mount(BucketMount(path="/b", bucket="data", endpoint=server.url), KEYS)
        file = os.open(f"by-{name}", os.O_WRONLY | os.O_CREAT, dir_fd=mounted.descriptor)
        with os.fdopen(file, "wb") as writing:
            await asyncio.to_thread(writing.write, data)
            await asyncio.to_thread(writing.close)
        assert server.get(f"data/by-{name}") == data
        assert await mounted.close() == ""

    asyncio.run(story())


@pytest.mark.parametrize("name", programs.ORDER)
def test_a_program_that_was_killed_is_no_trouble(server, tmp_path, name):
    if why := why_not(name):
        pytest.skip(why)

    async def story():
        buckets = FuseBuckets(tmp_path / "root", owner=0, only=(name,))
        mounted = await buckets.mount(BucketMount(path="/b", bucket="data", endpoint=server.url), KEYS)
        os.kill(mounted.pid, signal.SIGKILL)
        assert await mounted.close() == ""
        assert await buckets.reap() == 0

    asyncio.run(story())


def test_without_a_program_the_remedy_is_named(tmp_path):
    buckets = FuseBuckets(tmp_path, owner=0, which=lambda name: None)
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no /dev/fuse here")
    assert "apt-get install rclone fuse3" in buckets.why_not()
    with pytest.raises(UnsupportedError, match="apt-get install"):
        asyncio.run(buckets.mount(BucketMount(path="/b", bucket="data"), {}))
    assert "root" in FuseBuckets(tmp_path, owner=None).why_not()


def test_a_program_that_does_not_mount_is_told_without_its_credentials(server, tmp_path):
    if why := why_not("rclone"):
        pytest.skip(why)
    program = tmp_path / "rclone"
    program.write_text('#!/bin/sh\necho "no: $RCLONE_S3_SECRET_ACCESS_KEY"\nexit 3\n')
    program.chmod(0o755)
    buckets = FuseBuckets(tmp_path / "root", owner=0, only=("rclone",), which=lambda name: str(program))
    with pytest.raises(BucketError, match=r"no: \*\*\*"):
        asyncio.run(buckets.mount(BucketMount(path="/b", bucket="data", endpoint=server.url), KEYS))
