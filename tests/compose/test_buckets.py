"""Where shipped sources are kept, by what is configured."""

import pytest

from jitney.compose import bucket_checks, buckets, registry
from jitney.compose.config import Config, ServerConfig
from jitney.compose.findings import ERROR
from jitney.drivers.blobs.cached import CachedBlobs
from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.testing.buckets import KEYS
from jitney.wire.home import Home


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def in_bucket(**more):
    return ServerConfig(**{"contents": "s3://sources/here", "contents_endpoint": "http://127.0.0.1:1", **more})


def test_on_a_disk_they_are_in_the_servers_folder(home):
    assert isinstance(registry.blobs(home, ServerConfig()), LocalBlobs)
    assert home.files.is_dir()
    assert not home.near.exists()


def test_in_a_bucket_some_are_near(home, monkeypatch):
    pytest.importorskip("obstore", reason="needs the extra s3")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert isinstance(registry.blobs(home, in_bucket()), CachedBlobs)
    assert not home.files.exists()
    [near] = home.near.iterdir()
    (near / "kept").touch()
    registry.blobs(home, in_bucket())
    assert (near / "kept").exists()


@pytest.mark.parametrize("change", [{"contents": "s3://sources/there"}, {"contents_endpoint": "http://127.0.0.1:2"}])
def test_what_was_near_of_another_bucket_goes(home, change):
    first = buckets.near(home.near, in_bucket())
    (first / "deep").mkdir(parents=True)
    second = buckets.near(home.near, in_bucket(**change))
    assert second != first
    assert not first.exists()
    assert buckets.near(home.near, in_bucket(**change)) == second


def test_the_doctor_says_where_they_are(home):
    assert f"shipped sources in {home.files}" in bucket_checks.contents(home, Config()).what


def test_the_doctor_says_what_is_wrong_with_the_bucket(home, tmp_path):
    found = bucket_checks.contents(home, Config(server=in_bucket(contents_credentials=str(tmp_path / "none"))))
    assert (found.severity, found.what) == (ERROR, "files of volumes and shipped sources are in s3://sources/here")
    assert "cannot be read" in found.why
