"""Versions of volumes laid out on this machine, for whoever mounts them: containers, and steps of image builds.

The stack of a volume's layers (ports.trees) grows by one with each version that is laid out here, until it is made anew
(core.layers). Layers that somebody has stay: those who have some say so (`users`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from jitney.core.layers import Laying, laying
from jitney.ports.trees import Trees
from jitney.values.volumes import VolumeMount
from jitney.wire.messages import mounts as mm
from jitney.wire.methods import VOLUME_DIFF, VOLUME_HEADS, Method
from jitney.worker import prefetch

log = logging.getLogger("jitney.worker")

Request = Callable[[Method[Any, Any], Any], Awaitable[Any]]
Users = Callable[[str], set[str]]  # of a volume: its layers that somebody has


class Layouts:
    """See the module. `request` asks the server."""

    def __init__(self, trees: Trees, request: Request) -> None:
        self.trees = trees
        self.users: list[Users] = []
        self.request = request
        self._laying: dict[str, asyncio.Lock] = {}
        self._prefetching: set[asyncio.Task[None]] = set()

    async def heads(self, volume_ids: tuple[str, ...], container_id: str = "") -> tuple[int, ...]:
        """The newest versions. Without a container, of volumes that have to be there.

        Raises:
            NotFoundError: one is not.
        """
        request = mm.VolumeHeads(volume_ids=volume_ids, container_id=container_id)
        answer: mm.VolumeHeadsAnswer = await self.request(VOLUME_HEADS, request)
        return answer.versions

    async def lay_out(self, volume_id: str, version: int, *, is_head: bool) -> tuple[str, ...]:
        """The layers of a version, lowest first.

        Raises:
            NotFoundError: there is no such version (any more).
            StorageFullError: the disk is full.
        """
        async with self._laying.setdefault(volume_id, asyncio.Lock()):
            found = self.trees.layers(volume_id, version)
            if found:
                return found
            old = self.trees.laid_out(volume_id)
            height = len(self.trees.layers(volume_id, old))
            how = laying(version, is_newest=is_head, stacked=old, height=height)
            diff = await self._diff(volume_id, old if how is Laying.EXTEND else 0, version)
            if diff.old_is_gone:  # the stack is at a version that is not kept any more
                how, diff = Laying.RESTACK, await self._diff(volume_id, 0, version)
            if how is Laying.ALONE:
                await self.trees.lay_out(volume_id, version, diff.puts)
            elif how is Laying.RESTACK:
                await self.trees.restack(volume_id, version, diff.puts)
                await self.trees.collect(volume_id, {layer for users in self.users for layer in users(volume_id)})
            else:
                await self.trees.extend(volume_id, version, diff.puts, diff.removes)
            return self.trees.layers(volume_id, version)

    def prefetch(self, volume: VolumeMount, layers: Iterable[str]) -> None:
        """Begin to bring into memory what was asked for, and do not wait for it."""
        if volume.prefetch:
            folder = self.trees.folder(volume.volume_id)
            found = [folder / layer for layer in layers]
            task = asyncio.create_task(asyncio.to_thread(_bring, found, volume.prefetch, volume.sub_path))
            self._prefetching.add(task)
            task.add_done_callback(self._prefetching.discard)

    async def _diff(self, volume_id: str, old: int, new: int) -> mm.VolumeDiffAnswer:
        pages: list[mm.VolumeDiffAnswer] = []
        while not pages or pages[-1].after:
            after = pages[-1].after if pages else ""
            request = mm.VolumeDiff(volume_id=volume_id, old=old, new=new, after=after)
            pages.append(await self.request(VOLUME_DIFF, request))
        return mm.VolumeDiffAnswer(
            puts=tuple(chain.from_iterable(page.puts for page in pages)),
            removes=tuple(chain.from_iterable(page.removes for page in pages)),
            old_is_gone=any(page.old_is_gone for page in pages),
        )


def _bring(layers: list[Path], patterns: tuple[str, ...], sub_path: str) -> None:
    try:
        told = prefetch.prefetch(prefetch.wanted(layers, patterns, sub_path), prefetch.room_bytes())
        log.info("prefetched bytes=%d layers=%s", told, len(layers))
    except OSError as error:  # it would only have been faster
        log.warning("not_prefetched reason=%s", error)
