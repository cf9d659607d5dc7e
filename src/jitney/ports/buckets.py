"""Buckets mounted on this machine, for containers. The contract:

1. What `mount` gives is in no folder of the machine: it is a descriptor, which a runtime attaches in a container.
   Its files belong to the root of walls. Objects below the prefix are read when they are asked for.
2. The bucket was looked into when `mount` returns: wrong credentials, or a bucket that is not there, fail it.
3. Credentials are in the environment of the one process that needs them: in no command line, file, log or error.
4. `close` waits until what was written is in the bucket, for a while, and says what went wrong.
5. When this process ends, however it does, so does what it had mounted, once no container has it any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from jitney.values.buckets import BucketMount


class MountedBucket(Protocol):
    """A bucket that is mounted."""

    @property
    def descriptor(self) -> int:
        """The mount: `move_mount` attaches it, once."""

    async def close(self) -> str:
        """End it. What went wrong, for a log; "": nothing."""


class BucketMounter(Protocol):
    """See the module."""

    @property
    def program(self) -> str:
        """What mounts; "": nothing."""

    def why_not(self) -> str:
        """Why buckets cannot be mounted here, and what would change that; "": they can."""

    async def mount(self, bucket: BucketMount, credentials: Mapping[str, str]) -> MountedBucket:
        """Mount a bucket.

        Raises:
            UnsupportedError: it cannot be done here.
            BucketError: it cannot be done with this bucket: the message says why.
        """

    async def reap(self) -> int:
        """Remove what an earlier run left: how many."""
