"""How drivers that keep something in a bucket are tried: with a server of buckets, and a proxy that spoils answers."""

import asyncio

from jitney.drivers.s3.address import Address
from jitney.drivers.s3.bucket import Bucket, Settings
from jitney.testing.buckets import KEYS, PASS

BUCKET = "contents"


async def no_pause(pause_s):
    await asyncio.sleep(0)


def settings(url, prefix="t", bucket=BUCKET, **more):
    return Settings(Address(bucket, f"{prefix}/"), url, credentials=KEYS, **more)


def open_bucket(url, prefix="t", *, tries=5, bucket=BUCKET, credentials=KEYS, **more):
    """One that does not wait between its tries, and gives up after some: each look at the clock is a second later."""
    ticks = iter(range(10_000))
    given = settings(url, prefix, bucket, patience_s=tries - 1, **more)._replace(credentials=credentials)
    return Bucket(given, pause=no_pause, clock=lambda: next(ticks))


def spoil(proxy, faults, method="", part=""):
    """What becomes of the next requests of that method whose path has that part; all others are passed on."""
    left = list(faults)
    proxy.plan = lambda m, p: left.pop(0) if left and m.startswith(method) and part in p else PASS
