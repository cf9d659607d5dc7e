"""Groups that an earlier run left, wherever it had made them: another session or service may have been its own.

The folder that they are in is named after the owner. It is looked for in the whole tree that can be seen, among the
folders of this user only. Empty folders of other owners go as well: those are of workers that were killed and whose
server folder nobody uses any more, or of one that makes it again with its next group.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence

from jitney.drivers.limits.cgroups import endings, files
from jitney.drivers.limits.cgroups.layout import LEAF, PREFIX, Mount, read_mounts

DEPTH_MAX = 16
FOLDERS_MAX = 200_000
END_S = 10.0
ROUND_S = 0.002


def find(name: str) -> list[str]:
    """Folders of that name in all hierarchies; empty ones of others are removed.

    Blocks for as long as walking the trees takes.
    """
    mounts = read_mounts(files.read("/proc/self/cgroup"), files.read("/proc/self/mountinfo"))
    return [folder for mount in mounts if mount.writable for folder in _walk(mount, name)]


def _walk(mount: Mount, name: str) -> Iterator[str]:
    level, seen = [mount.folder], 0
    for _ in range(DEPTH_MAX):
        below = [one for folder in level for one in files.subfolders(folder)]
        seen += len(below)
        found = [one for one in below if one.endswith("/" + name) and _is_ours(one)]
        yield from found
        level = []
        for one in below:
            if not os.path.basename(one).startswith(PREFIX):
                level.append(one)
            elif one not in found and not one.endswith("/" + LEAF) and _is_ours(one):
                files.remove(one)  # refused while there is anything inside
        if not level or seen > FOLDERS_MAX:
            return


def _is_ours(folder: str) -> bool:
    try:
        return os.stat(folder, follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        return False


def tree(folder: str) -> list[str]:
    """A group and those below it, the deepest first."""
    found = [folder]
    for one in found:
        found += files.subfolders(one)
    return found[::-1]


def end(folders: Sequence[str]) -> bool:
    """End all that is in these groups and below, and remove them; whether none is left. Blocks for END_S at most."""
    until = time.monotonic() + END_S
    while True:
        trees = [tree(folder) for folder in folders]
        for groups in trees:
            if any(map(files.pids, groups)):
                _kill(groups)
        left = [groups for groups in trees if not files.remove_all(groups)]
        if not left:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(ROUND_S)


def _kill(groups: Sequence[str]) -> None:
    for group in groups:
        endings.kill(
            (group,),
            can_kill=_where(group, "cgroup.kill"),
            pids=_where(group, "pids.max"),
            freezer=_where(group, "freezer.state") or _where(group, "cgroup.freeze"),
        )


def _where(group: str, name: str) -> str:
    return group if os.path.exists(f"{group}/{name}") else ""


def names(folders: Iterable[str]) -> set[str]:
    """The groups below some folders; one that is in several hierarchies counts once."""
    return {os.path.basename(one) for folder in folders for one in files.subfolders(folder)}
