"""Buckets of S3, or of what speaks like it, at a path of containers: the files there are the bucket's objects."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from jitney.errors import InvalidError
from jitney.values.secrets import SecretRef

PREFIX_BYTES_MAX = 1_000
ENDPOINT_CHARS_MAX = 500
TTL_S_MAX = 30 * 86_400
ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
VARIABLES = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, *REGIONS)  # of a secret that are used; the others are left alone
DEFAULT_REGION = "us-east-1"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~/-]*)?")
_REGION = re.compile(r"[a-z0-9-]{1,40}")


class BucketMount(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket at a path in the containers of a function."""

    path: str
    bucket: str
    endpoint: str = ""  # "": that of AWS
    prefix: str = ""  # only objects whose names begin with it, without it; ends with '/'
    secret: SecretRef | None = None  # None: as anybody
    read_only: bool = False
    requester_pays: bool = False
    force_path_style: bool = False
    metadata_ttl_s: int | None = None  # that names and sizes are believed for; None: as the program does; -1: for ever

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path.startswith("/") or self.path == "/" or {"", ".", ".."} & set(parts[1:]) or "\0" in self.path:
            raise InvalidError(f"a bucket is mounted at an absolute path that is not '/', not at {self.path!r}")
        if not _BUCKET.fullmatch(self.bucket):
            raise InvalidError(
                f"{self.bucket[:100]!r} is no name of a bucket", hint="it has 3 to 63 letters, digits, '.', '_' and '-'"
            )
        if self.endpoint:
            check_endpoint(self.endpoint)
        if self.prefix:
            check_prefix(self.prefix)
        if self.metadata_ttl_s is not None and not -1 <= self.metadata_ttl_s <= TTL_S_MAX:
            raise InvalidError(f"metadata_ttl must be from 0 to {TTL_S_MAX:,} seconds")

    @property
    def url(self) -> str:
        """Bucket and prefix, for people."""
        return f"s3://{self.bucket}/{self.prefix}"


class AttachedBucket(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket that is mounted, and where it is to be. `descriptor`: the mount, of this process."""

    target: str
    descriptor: int
    read_only: bool


def check_endpoint(endpoint: str) -> str:
    """`endpoint`, if it may be one: programs get it as one word of their options.

    Raises:
        InvalidError: it may not.
    """
    hint = "for example https://s3.example.org"
    if len(endpoint) > ENDPOINT_CHARS_MAX or not _ENDPOINT.fullmatch(endpoint):
        raise InvalidError(f"{endpoint[:100]!r} is no address of a server of buckets", hint=hint)
    try:
        host, _ = urlsplit(endpoint).hostname, urlsplit(endpoint).port
    except ValueError:
        host = None
    if not host:
        raise InvalidError(f"{endpoint[:100]!r} is no address of a server of buckets", hint=hint)
    return endpoint


def check_prefix(prefix: str) -> str:
    """`prefix`, if names of objects may begin with it, and files can be made of what follows.

    Raises:
        InvalidError: it may not.
    """
    names = prefix[:-1].split("/")
    control = any(ord(sign) < 32 or ord(sign) == 127 for sign in prefix)
    if not prefix.endswith("/") or {"", ".", ".."} & set(names) or control:
        raise InvalidError(
            f"key_prefix {prefix[:100]!r} names no folder of a bucket", hint="it ends with '/', for example 'models/'"
        )
    if len(prefix.encode("utf-8", "replace")) > PREFIX_BYTES_MAX:
        raise InvalidError(f"key_prefix is over {PREFIX_BYTES_MAX:,} bytes")
    return prefix


def region_of(credentials: dict[str, str]) -> str:
    """The region that a secret names.

    Raises:
        InvalidError: it is none.
    """
    region = next((credentials[name] for name in REGIONS if credentials.get(name)), DEFAULT_REGION)
    if not _REGION.fullmatch(region):
        raise InvalidError("the secret's AWS_REGION is no region", hint="for example us-east-1")
    return region


def is_private_to_machine(addresses: Iterable[str]) -> bool:
    """Whether one of these is where a machine's own secrets are served: an endpoint must not lead there."""
    return any(ipaddress.ip_address(one.partition("%")[0]).is_link_local or one == "fd00:ec2::254" for one in addresses)
