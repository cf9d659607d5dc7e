"""Volumes for `@enter(snap=True)` methods: what a template reads before there is a container.

A template sees one whole version of each volume, read-only, and what it made of it is in the memory of every container
that is forked from it. A container sees the newest version at its own start. So the two can differ. Where the function
mounts the volume read-only they do not: a start that finds a newer version has a new snapshot made first. Where it may
write there, each of its own commits would throw the snapshot away, and so it stays as it was made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from jitney.core.templates import is_outdated
from jitney.errors import ConnectionError
from jitney.ports.lending import LentVolume
from jitney.ports.runtime import Runtime
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.volumes import Mounted
from jitney.worker.lending import Lending
from jitney.worker.written import ATTEMPTS_MAX, RETRY_S


class Snapshots:
    """The volumes of the templates of one worker."""

    def __init__(self, runtime: Runtime, lending: Lending) -> None:
        self._runtime = runtime
        self._lending = lending
        self._lent: dict[TemplateSpec, AsyncExitStack] = {}
        self._versions: dict[TemplateSpec, Mapping[str, int]] = {}  # by path

    async def lend(self, spec: TemplateSpec) -> tuple[Mounted, ...]:
        """What the template is to see, laid out, until it is given back.

        Raises:
            JitneyError: a volume cannot be laid out.
        """
        await self.give_back(spec)
        wanted = spec.snapshot.volumes if spec.snapshot is not None else ()
        if not wanted or not self._runtime.capabilities().snapshot_volumes:
            return ()
        stack = AsyncExitStack()
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                loan = await stack.enter_async_context(self._lending.lend(wanted))
            except ConnectionError:
                if attempt == ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                break
        self._lent[spec] = stack
        self._versions[spec] = {one.mount.path: one.version for one in loan.volumes}
        return _mounted(loan.volumes)

    async def give_back(self, spec: TemplateSpec) -> None:
        """The template has ended, or makes no use of them."""
        self._versions.pop(spec, None)
        stack = self._lent.pop(spec, None)
        if stack is not None:
            await stack.aclose()

    def is_outdated(self, launch: Launch) -> bool:
        """Whether the snapshot is of an older version than the container will read; see the module."""
        return is_outdated(self._versions.get(launch.template, {}), launch)


def _mounted(volumes: Sequence[LentVolume]) -> tuple[Mounted, ...]:
    return tuple(
        Mounted(
            target=one.mount.path,
            volume_id=one.mount.volume_id,
            version=one.version,
            layers=tuple(Path(layer).name for layer in one.layers),
            sub_path=one.mount.sub_path,
        )
        for one in volumes
    )
