"""Whether a bucket can be listed with these credentials: asked before it is mounted, as the programs that mount do not
all ask, and each says it in another way.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from jitney.core import sigv4
from jitney.errors import BucketAccessError, BucketError, BucketUnavailableError
from jitney.values.buckets import ACCESS_KEY, BucketMount, is_private_to_machine

ANSWER_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024
TRIES = 3
PAUSE_S = 0.5

_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")


def check(bucket: BucketMount, credentials: Mapping[str, str]) -> None:
    """Ask for its first object. Blocks.

    Raises:
        BucketError: it cannot be listed; the message says why.
    """
    problem = BucketUnavailableError("")
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_S * 2**number)
        try:
            status, body = _ask(sigv4.list_one(bucket, credentials, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            problem = BucketUnavailableError(
                f"{bucket.url} cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}",
                hint="check bucket_endpoint_url, and that this machine can reach it",
            )
            continue
        if status == 200:
            return
        judged = _judge(bucket, credentials, status, body)
        if not isinstance(judged, BucketUnavailableError):
            raise judged
        problem = judged
    raise problem


def _ask(request: sigv4.Request) -> tuple[int, bytes]:
    kind = http.client.HTTPSConnection if request.scheme == "https" else http.client.HTTPConnection
    connection = kind(request.host, timeout=ANSWER_S)
    try:
        connection.request("GET", request.path, headers=dict(request.headers))
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()


def _judge(bucket: BucketMount, credentials: Mapping[str, str], status: int, body: bytes) -> BucketError:
    found = _CODE.search(body)
    code = found[1].decode() if found else str(status)
    if code == "NoSuchBucket" or status == 404:
        return BucketError(f"there is no bucket {bucket.bucket!r}", hint="check bucket_name and bucket_endpoint_url")
    if status in (401, 403):
        who = "with the keys of its secret" if credentials.get(ACCESS_KEY) else "without a secret"
        return BucketAccessError(
            f"{bucket.url} may not be listed {who} ({code})",
            hint="give a secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that may list, read and write there",
        )
    if status in (301, 307, 308, 400):
        hint = "the bucket may be in another region: put AWS_REGION into its secret"
        return BucketError(f"{bucket.url} cannot be listed ({code})", hint=hint)
    return BucketUnavailableError(f"{bucket.url} cannot be listed now ({code})", hint="try again")


def check_address(bucket: BucketMount) -> None:
    """That the endpoint is not where this machine's own secrets are served. Blocks.

    Raises:
        BucketError: it is, or it has no address.
    """
    if not bucket.endpoint:
        return
    host = urlsplit(bucket.endpoint).hostname or ""
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise BucketUnavailableError(
            f"{host} has no address: {getattr(error, 'strerror', None) or error}", hint="check bucket_endpoint_url"
        ) from None
    if is_private_to_machine(found):
        raise BucketError(f"{host} is an address of this machine's own surroundings, which is no bucket")
