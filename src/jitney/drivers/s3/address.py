"""Which bucket, and what names in it begin with. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from jitney.errors import InvalidError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class Address(NamedTuple):
    """A bucket, and what all names in it begin with: '', or a text that ends with '/'."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def parse(address: str) -> Address:
    """`s3://bucket/prefix`, read.

    >>> parse("s3://weights/team/a")
    Address(bucket='weights', prefix='team/a/')

    Raises:
        InvalidError: it is no such address.
    """
    url = urlsplit(address)
    hint = "write it like s3://bucket/prefix"
    if url.scheme != "s3" or not _BUCKET.fullmatch(url.netloc) or url.query or url.fragment:
        raise InvalidError(f"{address[:200]!r} is no address of a bucket", hint=hint)
    names = [name for name in url.path.split("/") if name]
    if {".", ".."} & set(names) or any(ord(sign) < 32 for sign in url.path) or len(url.path) > 500:
        raise InvalidError(f"{url.path[:200]!r} is no prefix of names in a bucket", hint=hint)
    return Address(url.netloc, "".join(f"{name}/" for name in names))
