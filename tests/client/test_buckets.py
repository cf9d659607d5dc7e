"""`CloudBucketMount`, as it is declared."""

import pytest

import jitney
from jitney.client import volume_mounts
from jitney.errors import InvalidError, UnsupportedError

SECRET = jitney.Secret.from_name("keys")


def test_it_is_declared_beside_volumes():
    volume = jitney.Volume.from_name("data")
    bucket = jitney.CloudBucketMount(
        "weights", bucket_endpoint_url="https://s3.example.org/", key_prefix="a/", secret=SECRET, read_only=True
    )
    found = volume_mounts.checked({"/b": bucket, "/a": volume})
    [mount] = volume_mounts.buckets_of(found)
    assert (mount.path, mount.bucket, mount.endpoint, mount.prefix) == ("/b", "weights", "https://s3.example.org", "a/")
    assert mount.read_only
    assert mount.secret.name == "keys"
    assert volume_mounts.secrets_of(found) == (SECRET,)
    with pytest.raises(InvalidError, match="inside"):
        volume_mounts.checked({"/b": bucket, "/b/c": volume})
    with pytest.raises(UnsupportedError, match="no step of an image"):
        volume_mounts.of_step({"/b": bucket})


@pytest.mark.parametrize("given, seconds", [(None, None), (0, 0), (7, 7), ("minimal", 0), ("indefinite", -1)])
def test_how_long_names_are_believed(given, seconds):
    assert jitney.CloudBucketMount("weights", metadata_ttl=given).mounted_at("/b").metadata_ttl_s == seconds


@pytest.mark.parametrize("wrong", [
    {"bucket_name": "x"}, {"bucket_name": None}, {"key_prefix": "a"}, {"bucket_endpoint_url": "s3.example.org"},
    {"secret": "key"}, {"requester_pays": True}, {"metadata_ttl": "long"}, {"metadata_ttl": -1}, {"metadata_ttl": 1.5},
    {"oidc_auth_role_arn": "arn:aws:iam::1:role/x"},
])  # fmt: skip
def test_what_cannot_be_is_told_where_it_is_written(wrong):
    with pytest.raises(InvalidError):
        jitney.CloudBucketMount(**{"bucket_name": "weights", **wrong})


def test_a_secret_without_a_name_goes_along():
    keys = jitney.Secret.from_dict({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "not to be shown"})
    app = jitney.App("of-buckets")

    @app.function(volumes={"/b": jitney.CloudBucketMount("weights", secret=keys)}, serialized=True)
    def look():
        """Nothing."""

    [declared] = app._declarations.values() if hasattr(app._declarations, "values") else app._declarations
    assert list(declared.secret_values().values()) == [
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "not to be shown"}
    ]
    assert "not to be shown" not in repr(volume_mounts.checked({"/b": jitney.CloudBucketMount("weights", secret=keys)}))
