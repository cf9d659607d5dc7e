"""`CloudBucketMount`: a bucket of S3, or of what speaks like it, at a path of containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jitney.errors import InvalidError, UnsupportedError
from jitney.values.buckets import BucketMount

if TYPE_CHECKING:
    from jitney.client.secret import Secret

CHECKED_AT = "/bucket"


@dataclass(frozen=True)
class CloudBucketMount:
    """A bucket, mounted by `volumes={"/path": CloudBucketMount(...)}`. Files below the path are its objects.

    Args:
        bucket_name: the bucket.
        bucket_endpoint_url: address of its server, such as that of R2, GCS or MinIO. Default: AWS.
        key_prefix: only what is below this folder of the bucket; ends with '/'.
        secret: a secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, AWS_REGION). Only what
            mounts the bucket gets them, not the container. Default: the bucket is read as anybody may.
        oidc_auth_role_arn: not supported.
        read_only: containers can only read.
        requester_pays: who reads pays.
        force_path_style: the bucket is named in the path of the address, not in its host.
        metadata_ttl: seconds that names and sizes are believed for; "minimal" is 0, "indefinite" for ever.

    Raises:
        InvalidError: something of it cannot be.
    """

    bucket_name: str
    bucket_endpoint_url: str | None = None
    key_prefix: str | None = None
    secret: Secret | None = None
    oidc_auth_role_arn: str | None = None
    read_only: bool = False
    requester_pays: bool = False
    force_path_style: bool = False
    metadata_ttl: int | Literal["minimal", "indefinite"] | None = None

    def __post_init__(self) -> None:
        from jitney.client.secret import Secret

        if self.oidc_auth_role_arn:
            raise UnsupportedError("oidc_auth_role_arn is not supported by this version", hint="give a secret of keys")
        if self.secret is not None and not isinstance(self.secret, Secret):
            raise InvalidError(
                f"the secret of a bucket is a Secret, not a {type(self.secret).__name__}",
                hint="jitney.Secret.from_name('name')",
            )
        if self.requester_pays and self.secret is None:
            raise InvalidError("requester_pays needs a secret: it says who pays")
        self.mounted_at(CHECKED_AT, with_secret=False)

    def mounted_at(self, path: str, *, with_secret: bool = True) -> BucketMount:
        """As a function has it at a path of its containers. Of the SDK."""
        return BucketMount(
            path=path,
            bucket=_text(self.bucket_name, "bucket_name"),
            endpoint=_text(self.bucket_endpoint_url or "", "bucket_endpoint_url").rstrip("/"),
            prefix=_text(self.key_prefix or "", "key_prefix"),
            secret=None if self.secret is None or not with_secret else self.secret._ref(),
            read_only=bool(self.read_only),
            requester_pays=bool(self.requester_pays),
            force_path_style=bool(self.force_path_style),
            metadata_ttl_s=_seconds(self.metadata_ttl),
        )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidError(f"{name} of a CloudBucketMount is a text, not {value!r}")
    return value


def _seconds(ttl: int | str | None) -> int | None:
    if ttl is None or (isinstance(ttl, int) and not isinstance(ttl, bool) and ttl >= 0):
        return ttl if ttl is None else int(ttl)
    known = {"minimal": 0, "indefinite": -1}
    if ttl in known:
        return known[str(ttl)]
    raise InvalidError(f"metadata_ttl is a number of seconds, 'minimal' or 'indefinite', not {ttl!r}")
