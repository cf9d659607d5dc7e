"""One signed request to a bucket: what lists its first object, for finding out whether it may be listed at all.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from jitney.values.buckets import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, BucketMount, region_of

EMPTY = hashlib.sha256(b"").hexdigest()


class Request(NamedTuple):
    """A GET; its repr has no headers, as one of them is signed."""

    scheme: str
    host: str
    path: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Request({self.scheme}://{self.host}{self.path})"


def list_one(bucket: BucketMount, credentials: Mapping[str, str], stamp: str) -> Request:
    """The request. `stamp`: the time, as 20260102T030405Z. Without keys it is not signed.

    Raises:
        InvalidError: the region cannot be.
    """
    region = region_of(dict(credentials))
    is_path = bucket.force_path_style or bool(bucket.endpoint)
    url = urlsplit(bucket.endpoint or f"https://s3.{region}.amazonaws.com")
    host = url.netloc if is_path else f"{bucket.bucket}.{url.netloc}"
    path = url.path.rstrip("/") + (f"/{bucket.bucket}" if is_path else "") or "/"
    query = {"list-type": "2", "max-keys": "1", "prefix": bucket.prefix}
    text = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    headers = {"x-amz-request-payer": "requester"} if bucket.requester_pays else {}
    if credentials.get(ACCESS_KEY) and credentials.get(SECRET_KEY):
        headers = signed(host, path, text, headers, credentials, region, stamp)
    return Request(url.scheme, host, f"{path}?{text}", headers)


def signed(
    host: str, path: str, query: str, headers: Mapping[str, str], keys: Mapping[str, str], region: str, stamp: str
) -> dict[str, str]:
    """The headers of a GET without a body, with its signature among them."""
    known = {**headers, "x-amz-content-sha256": EMPTY, "x-amz-date": stamp}
    if keys.get(SESSION_TOKEN):
        known["x-amz-security-token"] = keys[SESSION_TOKEN]
    said = dict(sorted({**known, "host": host}.items()))
    names = ";".join(said)
    canonical = "\n".join(["GET", path, query, *(f"{name}:{value}" for name, value in said.items()), "", names, EMPTY])
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + keys[SECRET_KEY].encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), hashlib.sha256).hexdigest()
    credential = f"{keys[ACCESS_KEY]}/{scope}"
    known["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={signature}"
    return known
