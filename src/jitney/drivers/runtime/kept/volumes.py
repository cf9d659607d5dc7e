"""Volumes of containers in boxes: mounted by the worker, from outside, into what the box sees.

Nothing can be mounted *in* a box, and all that run in it see the same: so each has volumes for one container at a time
(see templates.Templates.alone). The worker makes the mount where it is itself, joins the box's mounts for a moment, and
attaches it there; so it goes away, and is replaced.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import msgspec

from jitney.drivers.runtime.forking import visits
from jitney.drivers.runtime.forking.scratch import remove_tree
from jitney.drivers.runtime.kept.box import Box
from jitney.drivers.runtime.kept.keeper import BoxFailed
from jitney.drivers.walls.machine import Ids
from jitney.drivers.walls.render import render_mount
from jitney.ports.mounting import MountFailed
from jitney.values.buckets import AttachedBucket
from jitney.values.volumes import Mounted
from jitney.wire.home import Home

STAGE = "stage"


class Volumes:
    """See the module. `ids`: who containers are on this machine."""

    def __init__(self, home: Home, ids: Ids) -> None:
        self._home = home
        self._owner = ids.first if ids.writer == "root" else None

    async def attach(
        self, box: Box, mounts: Sequence[Mounted], attached: Sequence[AttachedBucket] = (), *, replaces: bool = False
    ) -> None:
        """Put volumes into a box, and buckets that are mounted already.

        Raises:
            MountBusy: files in what is to be replaced are open.
            MountFailed: one cannot be mounted there, or the box has ended.
        """
        try:
            entrance = await box.entrance()
            trees = [(one.descriptor, entrance.place(one.target), one.read_only) for one in attached]
            placed = [msgspec.structs.replace(one, target=entrance.place(one.target)) for one in mounts]
            stage = await asyncio.to_thread(self._make_folders, box, mounts)
        except (BoxFailed, OSError) as error:
            raise MountFailed(str(error)) from error
        await visits.attach(
            entrance.pid,
            own_root=entrance.own_root,
            trees=trees,
            folder=str(self._home.root),
            stage=stage,
            # The paths of layers are relative: options of mounts are short, and have letters with a meaning.
            mounts=[
                render_mount(one, replaces=replaces, stage=stage, volumes="trees", uppers="uppers") for one in placed
            ],
        )

    def _make_folders(self, box: Box, mounts: Sequence[Mounted]) -> str:
        for one in mounts:
            if one.upper:
                visits.make_upper(str(self._home.uppers), one.upper, self._owner)
        stage = box.folder / STAGE
        stage.mkdir(exist_ok=True)
        return str(stage)

    async def detach(self, box: Box, targets: Sequence[str]) -> None:
        """Take them out again, once nobody uses them."""
        try:
            entrance = await box.entrance()
            leave = [entrance.place(target) for target in targets]
            await visits.attach(entrance.pid, own_root=entrance.own_root, folder="/", stage="/", leave=leave)
        except (BoxFailed, MountFailed):
            box.kill()  # or it has ended: no other container may see what this one had

    async def discard(self, container_id: str) -> None:
        """See ports.mounting."""
        await asyncio.to_thread(remove_tree, os.path.join(self._home.uppers, container_id))
