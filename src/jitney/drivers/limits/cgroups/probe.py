"""Finds out by trying where groups can be made: permissions, read-only mounts and processes in the way show so only."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from jitney.drivers.limits.cgroups import files
from jitney.drivers.limits.cgroups.layout import (
    ENABLED,
    LEAF,
    V1_CONTROLLERS,
    Folder,
    Layout,
    Mount,
    Part,
    Place,
    Site,
    Surroundings,
    chain,
    choose,
    places,
    read_mounts,
)

MOVES_MAX = 50  # rounds, while others fork
DELEGATED = ("trusted.delegate", "user.delegate")  # notes of systemd's


def survey(name: str) -> Layout:
    """Where groups can be made in a folder of that name: tried, and taken back. It may move us to a leaf."""
    mounts = read_mounts(files.read("/proc/self/cgroup"), files.read("/proc/self/mountinfo"))
    used = [one for one in mounts if one.version == 2 or V1_CONTROLLERS & set(one.controllers)]
    sites = [_try(mount, name) for mount in used]
    for site in sites:
        if site.folder:
            files.remove(
                site.folder
            )  # an idle or a killed worker leaves nothing: `restore` makes it with the first group
    return choose(sites, surroundings())


def restore(part: Part) -> None:
    """Make the folder that groups are in, as it was when it was tried.

    Raises:
        OSError: it cannot be made any more.
    """
    try:
        os.mkdir(part.folder, 0o755)
    except FileExistsError:
        pass
    if part.version == 2:
        for controller in sorted(part.controllers):
            files.write(f"{part.folder}/cgroup.subtree_control", f"+{controller}")


def surroundings() -> Surroundings:
    """What a remedy depends on."""
    return Surroundings(
        is_root=os.geteuid() == 0,
        has_systemd=os.path.isdir("/run/systemd/system"),
        in_container=any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv"))) or "KUBERNETES_PORT" in os.environ,
    )


def _try(mount: Mount, name: str) -> Site:
    known = mount.controllers if mount.version == 1 else ()
    if not mount.writable:
        return Site(version=mount.version, mounted=known, problem=f"{mount.folder} is mounted read-only")
    if not mount.own:
        problem = f"the group of this process cannot be seen below {mount.folder}"
        return Site(version=mount.version, mounted=known, problem=problem)
    return _try_v1(mount, name) if mount.version == 1 else _try_v2(mount, name)


def _try_v1(mount: Mount, name: str) -> Site:
    folder = f"{mount.own}/{name}".replace("//", "/")
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        names = frozenset(os.listdir(folder))
    except OSError as error:
        return Site(version=1, mounted=mount.controllers, problem=f"{mount.own}: {error.strerror}")
    return Site(
        version=1,
        mounted=mount.controllers,
        folder=folder,
        controllers=frozenset(mount.controllers),
        files=names,
    )


# ------------------------------------------------------------------------------------------------ version 2


def _try_v2(mount: Mount, name: str) -> Site:
    problem = f"{mount.own}: no permission to make groups there"
    best: Site | None = None
    folders = chain(mount)
    for place in places([look(path) for path in folders], os.getpid()):
        try:
            site = _settle(place, folders, name)
        except OSError as error:
            problem = f"{place.path}: {error.strerror}"
            continue
        if best is None or len(site.controllers) > len(best.controllers):
            if best is not None:
                files.remove(best.folder)
            best = site
        else:
            files.remove(site.folder)
        if {"memory", "cpu", "pids"} <= best.controllers or not _available(place.path):
            break
    return best or Site(version=2, problem=problem)


def look(path: str) -> Folder:
    """What a group is like."""
    needed = (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control")
    return Folder(
        path=path,
        writable=all(os.access(one, os.W_OK) for one in needed),
        processes=tuple(files.pids(path)),
        is_top=_is_top(path),
        delegated=any(_has_note(path, note) for note in DELEGATED),
    )


def _has_note(path: str, note: str) -> bool:
    try:
        return os.getxattr(path, note) == b"1"
    except OSError:
        return False


def _available(path: str) -> set[str]:
    return set(files.read(f"{path}/cgroup.controllers").split()) & set(ENABLED)


def _settle(place: Place, folders: Sequence[str], name: str) -> Site:
    """Make our folder in a place, with the controllers that can be had there."""
    above = folders[folders.index(place.path) + 1 :]
    for path in reversed(above):
        _enable(path)  # of what is not enabled down to the place, as much as we may
    if place.moves and _available(place.path):
        _move_all(place.path)
    _enable(place.path)
    folder = f"{place.path}/{name}".replace("//", "/")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    try:
        if files.read(f"{folder}/cgroup.type").strip() != "domain":
            raise OSError(errno.EOPNOTSUPP, "it has threads of a process in several groups, or processes of its own")
        enabled = _enable(folder)
        sample = f"{folder}/probe"
        os.makedirs(sample, exist_ok=True)
        names = frozenset(os.listdir(sample))
        os.rmdir(sample)
    except OSError:
        files.remove(folder)
        raise
    return Site(version=2, folder=folder, controllers=frozenset(enabled), files=names)


def _enable(path: str) -> set[str]:
    """Give the groups below one what controllers it has; which they have then. One that is refused spoils no other.

    Not where processes are: some controllers are refused there, and others accepted at the price that no process can
    enter a group below any more.
    """
    control = f"{path}/cgroup.subtree_control"
    missing = _available(path) - set(files.read(control).split())
    if missing and (not files.pids(path) or _is_top(path)):
        for controller in sorted(missing):
            files.try_write(control, f"+{controller}")
    return set(files.read(control).split()) & set(ENABLED)


def _is_top(path: str) -> bool:
    return not os.path.exists(f"{path}/cgroup.type")


def _move_all(path: str) -> None:
    """Move the processes of a group to a leaf below it, so that it can give controllers to others."""
    leaf = f"{path}/{LEAF}"
    os.makedirs(leaf, mode=0o755, exist_ok=True)
    for _ in range(MOVES_MAX):
        pids = files.pids(path)
        if not pids:
            return
        for pid in pids:
            files.try_write(f"{leaf}/cgroup.procs", str(pid))
