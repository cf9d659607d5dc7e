"""Buckets of the containers on this machine: mounted before a start, let go when a container has ended."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from jitney.errors import JitneyError
from jitney.ports.attaching import Attaching
from jitney.ports.buckets import BucketMounter, MountedBucket
from jitney.ports.runtime import Runtime, StartFailed
from jitney.values.buckets import VARIABLES, AttachedBucket
from jitney.values.containers import Launch

log = logging.getLogger("jitney.worker")


class Buckets:
    """See the module. `mounter` None: nothing here can mount buckets."""

    def __init__(self, runtime: Runtime, mounter: BucketMounter | None) -> None:
        self._runtime = runtime
        self._mounter = mounter
        self._live: dict[str, list[MountedBucket]] = {}  # by container

    async def reap(self) -> int:
        """Remove what an earlier run left."""
        return await self._mounter.reap() if self._mounter is not None else 0

    async def ready(self, launch: Launch) -> Launch:
        """The launch with its buckets mounted, and without their credentials.

        Raises:
            StartFailed: they cannot be, or the runtime has no place for them.
        """
        if not launch.buckets:
            return launch
        if self._mounter is None:
            raise StartFailed("it has buckets, and this worker has nothing that mounts them")
        if not isinstance(self._runtime, Attaching):
            raise StartFailed(
                f"it has buckets, and in containers of the runtime {self._runtime.capabilities().name!r} they cannot "
                "be mounted: use 'namespaces', 'oci' or 'gvisor' (`jitney doctor` says what this machine can do)"
            )
        live = self._live.setdefault(launch.container_id, [])
        secrets = launch.bucket_secrets or tuple({} for _ in launch.buckets)
        attached = []
        try:
            for bucket, values in zip(launch.buckets, secrets, strict=True):
                mounted = await self._mounter.mount(bucket, {key: values[key] for key in VARIABLES if key in values})
                live.append(mounted)
                attached.append(
                    AttachedBucket(target=bucket.path, descriptor=mounted.descriptor, read_only=bucket.read_only)
                )
        except JitneyError as error:
            raise StartFailed(f"its bucket at {bucket.path} cannot be mounted: {error}") from error
        return msgspec.structs.replace(launch, attached=tuple(attached), bucket_secrets=())

    async def ended(self, container_id: str) -> None:
        """The container has ended, or did not start: let go of what it had."""
        await asyncio.gather(*(self._close(container_id, one) for one in self._live.pop(container_id, [])))

    async def _close(self, container_id: str, one: MountedBucket) -> None:
        try:
            problem = await one.close()
        except Exception as error:  # the container has ended, and that has to be told
            problem = repr(error)
        if problem:
            log.error("bucket_not_ended container=%s reason=%s", container_id, problem)

    async def close(self) -> None:
        """Let go of all: no container runs any more."""
        await asyncio.gather(*(self.ended(container_id) for container_id in list(self._live)))
