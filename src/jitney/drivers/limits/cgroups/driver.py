"""Limits by control groups: see `ports.limits`, and `layout` for where they are made.

Whoever wires the platform calls `probe.survey` once, and takes the driver without groups where the layout has no parts.
"""

from __future__ import annotations

import asyncio
import os
import re

from jitney.drivers.limits.cgroups import files, leftovers, probe, tuning
from jitney.drivers.limits.cgroups.group import CgroupGroup
from jitney.drivers.limits.cgroups.layout import LEAF, PREFIX, Layout, Role
from jitney.ports.limits import Bounds, LimitCapabilities, LimitsFailed

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class CgroupLimiter:
    """See `ports.limits.Limiter`.

    Args:
        owner: names the groups of one server folder, so that a later run finds what this one left.
        tune: whether the machine may be told to favour entering groups (see `tuning`).
    """

    def __init__(self, owner: str, *, tune: bool = True) -> None:
        if not NAME.fullmatch(owner) or PREFIX + owner == LEAF:
            raise ValueError(f"{owner!r} cannot name control groups: letters, digits, - and _ can")
        self._name = PREFIX + owner
        self._layout = probe.survey(self._name)
        self._groups: dict[str, CgroupGroup] = {}
        self._switch = tuning.favor_entering(self._name[:63]) if tune and self._layout.parts else -1

    @property
    def layout(self) -> Layout:
        """Where groups are made; no parts: nowhere."""
        return self._layout

    def capabilities(self) -> LimitCapabilities:
        """See the port."""
        layout = self._layout
        return LimitCapabilities(
            name=layout.name,
            cpu=layout.part(Role.CPU) is not None,
            memory=layout.part(Role.MEMORY) is not None,
            pids=layout.part(Role.PIDS) is not None,
            freeze=layout.can_freeze,
            accounting=bool(layout.parts),
            why=layout.why,
            remedy=layout.remedy,
        )

    async def reap(self) -> int:
        """See the port."""
        found = await asyncio.to_thread(leftovers.find, self._name)
        ours = {part.folder for part in self._layout.parts}
        count = leftovers.names(found)
        doomed = [one for folder in found for one in (files.subfolders(folder) if folder in ours else [folder])]
        doomed = [one for one in doomed if os.path.basename(one) not in self._groups]
        await asyncio.to_thread(leftovers.end, doomed)
        return len(count - self._groups.keys())

    def make(self, name: str, bounds: Bounds) -> CgroupGroup:
        """See the port."""
        if not NAME.fullmatch(name):
            raise LimitsFailed(f"{name!r} cannot name a control group: letters, digits, - and _ can")
        group = CgroupGroup(name, self._layout, self._forget)
        group.create(bounds)
        self._groups[name] = group
        return group

    def _forget(self, group: CgroupGroup) -> None:
        self._groups.pop(group.name, None)

    async def close(self) -> None:
        """See the port."""
        for group in list(self._groups.values()):
            group.kill()
        await asyncio.gather(*(group.remove() for group in list(self._groups.values())))
        await asyncio.to_thread(leftovers.end, [part.folder for part in self._layout.parts])
        if self._switch >= 0:
            os.close(self._switch)
            self._switch = -1
